"""The limits of XNNPACK, measured: the last ratio that it takes and the first that it does not."""

import numpy as np
import pytest

from faq_keras.integer import limits, reference
from faq_keras.tflite import loader, writer
from tests.integer.programs import Builder, signed, unsigned


def runner(program, tmp_path):
    writer.write(program, tmp_path / "m.tflite")
    return loader.load(tmp_path / "m.tflite")


def exact(builder, program, loaded):
    feed = builder.images(program, 8)
    want, found = reference.run(program, feed), loaded.tensors(feed)
    return all(np.array_equal(want[name], found[name]) for name in want)


def convolution(multiplier, depthwise):
    b = Builder(1)
    x = b.input((4, 4, 8), signed(0))
    ones = np.ones((1, 1, 1, 8) if depthwise else (8, 1, 1, 8), int)
    y = b.conv(
        x, 8, (1, 1), out=signed(0), activation=None, kernel_exponent=int(np.log2(multiplier)),
        multipliers=np.ones(8), codes=ones, bias=3, depthwise=depthwise,
    )  # fmt: skip
    return b, b.build(y)


@pytest.mark.parametrize("depthwise", [False, True])
def test_convolutions_need_multipliers_below_the_limit(depthwise, tmp_path):
    b, program = convolution(limits.MULTIPLIER_END / 2, depthwise)
    assert exact(b, program, runner(program, tmp_path))
    b, program = convolution(limits.MULTIPLIER_END, depthwise)
    with pytest.raises(ValueError, match=r"refuses the model: .*XNNPACK"):
        runner(program, tmp_path)


@pytest.mark.parametrize("exponent", [-32, -40])
def test_tiny_multipliers_are_no_problem(exponent, tmp_path):
    b, program = convolution(2.0**exponent, depthwise=False)
    loaded = runner(program, tmp_path)
    assert exact(b, program, loaded) and loaded.undelegated == ()


@pytest.mark.parametrize("order", [1, -1])
def test_additions_outside_of_the_limits_go_to_another_kernel(order, tmp_path):
    def delegated(ratio):
        b = Builder(1)
        inputs = [b.input((8, 8, 8), signed(int(np.log2(ratio)))), b.input((8, 8, 8), signed(0))]
        program = b.build(b.add(*inputs[::order], signed(0), None))
        loaded = runner(program, tmp_path)
        assert loaded.undelegated or exact(b, program, loaded)
        return loaded.undelegated == ()

    assert delegated(limits.ADD_RATIO_START) and not delegated(limits.ADD_RATIO_START / 2)
    assert delegated(limits.ADD_RATIO_END / 2) and not delegated(limits.ADD_RATIO_END)


def test_requantizations_outside_of_the_limits_go_to_another_kernel(tmp_path):
    def delegated(ratio):
        b = Builder(1)
        x = b.input((64,), unsigned(8, int(np.log2(ratio))))
        program = b.build(b.quantize(x, signed(0)))
        loaded = runner(program, tmp_path)
        assert loaded.undelegated or exact(b, program, loaded)
        return loaded.undelegated == ()

    assert delegated(limits.QUANTIZE_RATIO_START) and not delegated(limits.QUANTIZE_RATIO_START / 2)
    assert delegated(limits.QUANTIZE_RATIO_END / 2) and not delegated(limits.QUANTIZE_RATIO_END)


def test_checks_accept_what_is_inside_and_name_what_is_not():
    limits.check_multipliers("conv1", np.array([2.0**-40, limits.MULTIPLIER_END / 2]))
    limits.check_add("add1", [limits.ADD_RATIO_START, limits.ADD_RATIO_END / 2], 1.0)
    with pytest.raises(ValueError, match="Layer 'conv1': one step of its accumulator would be 256"):
        limits.check_multipliers("conv1", np.array([1.0, limits.MULTIPLIER_END]))
    with pytest.raises(ValueError, match="Layer 'conv1'"):
        limits.check_multipliers("conv1", np.array([np.nan]))
    for scale in (limits.ADD_RATIO_START / 2, limits.ADD_RATIO_END):
        with pytest.raises(ValueError, match="Layer 'add1' adds a tensor whose step is"):
            limits.check_add("add1", [1.0, scale], 1.0)


def test_refusals_say_what_is_wrong_and_what_to_do():
    """Word for word."""
    for check, scales, message in (
        (
            limits.check_multipliers,
            (np.array([0.5, 512.0]),),
            "Layer 'x': one step of its accumulator would be 512 steps of its output, XNNPACK's "
            "kernels allow less than 256. Its output range is far too small for its weights: "
            "calibrate with data that is typical of its inputs.",
        ),
        (
            limits.check_add,
            ([2.0, 1024.0], 2.0),
            "Layer 'x' adds a tensor whose step is 512 times its output's; XNNPACK adds from "
            "0.000976562 to below 256. The ranges of the branches are too far apart: calibrate "
            "with data that is typical of the model's inputs.",
        ),
        (
            limits.check_quantize,
            (2.0**-9, 2.0),
            "Layer 'x' moves a tensor to a step that is 1024 times its own; XNNPACK does from "
            "0.00390625 to below 256. The tensors that are concatenated have ranges too far apart: "
            "calibrate with data that is typical of the model's inputs.",
        ),
    ):
        with pytest.raises(ValueError) as error:
            check("x", *scales)
        assert str(error.value) == message


def test_requantizations_are_checked_at_both_ends():
    for ratio in (limits.QUANTIZE_RATIO_START, 1.0, limits.QUANTIZE_RATIO_END / 2):
        limits.check_quantize("x", 4 * ratio, 4.0)
    for ratio in (limits.QUANTIZE_RATIO_START / 2, limits.QUANTIZE_RATIO_END):
        with pytest.raises(ValueError, match="Layer 'x' moves a tensor"):
            limits.check_quantize("x", 4 * ratio, 4.0)


@pytest.mark.parametrize(
    ("count", "input_scale", "output_scale", "exact"),
    [
        (4, 1.0, 1.0, True),  # a power of two: exact whatever the grid
        (4, 1.0, 16.0, True),
        (49, 1.0, 1.0, True),  # odd, and no coarser: no halves
        (49, 2.0, 1.0, True),
        (49, 1.0, 2.0, False),  # coarser: halves
        (6, 2.0, 1.0, True),
        (6, 1.0, 1.0, False),
        (12, 4.0, 1.0, True),
        (12, 2.0, 1.0, False),
        (1023, 1.0, 1.0, True),
        (1025, 1.0, 1.0, False),  # float32 errs more than that is away from a half
        (1, 1.0, 2.0**16, True),  # the smallest factor
        (2, 1.0, 2.0**16, False),
        (1, 2.0**7, 1.0, True),  # the largest
        (1, 2.0**8, 1.0, False),
        (4, 2.0**10, 1.0, False),
        (4, 2.0**9, 1.0, True),
    ],
)
def test_means_are_exact_where_no_sum_lies_half_way(count, input_scale, output_scale, exact):
    assert limits.has_exact_mean(count, input_scale, output_scale) is exact
