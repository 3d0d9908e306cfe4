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
