"""The executor against plain Python integers: what it accumulates is exact, whatever the sizes."""

import dataclasses
import itertools

import numpy as np
import pytest

from faq_keras.integer import reference
from faq_keras.integer.program import Op
from faq_keras.integer.rounding import PROFILES
from tests.integer.programs import Builder, Format, signed, small_resnet, unsigned

IDENTITY = dataclasses.replace(
    PROFILES["xnnpack"],
    conv_2d=lambda acc, *scales: acc,
    depthwise_conv_2d=lambda acc, *scales: acc,
    fully_connected=lambda acc, *scales: acc,
)


def accumulators(program, name, feed):
    """What an op accumulates: its output as int32 without scaling, zero point and clamp."""
    tensor = dataclasses.replace(program.tensors[name], dtype="int32", zero_point=0)
    wide = dataclasses.replace(program, tensors={**program.tensors, name: tensor})
    return reference.run(wide, feed, IDENTITY)[name].astype(int)


def padded(x, kernel, strides, dilations, padding):
    """Zero padding as TensorFlow defines it, from the formula of its documentation."""
    if padding == "valid":
        return x
    pads = []
    for size, k, s, d in zip(x.shape[1:3], kernel, strides, dilations, strict=True):
        reach = d * (k - 1) + 1
        total = max(reach - s, 0) if size % s == 0 else max(reach - size % s, 0)
        pads.append((total // 2, total - total // 2))
    return np.pad(x, [(0, 0), *pads, (0, 0)])


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("dilations", [(1, 1), (2, 1)])
@pytest.mark.parametrize("multiplier", [0, 1, 2], ids=["conv", "depthwise", "depthwise x2"])
def test_convolutions_against_plain_loops(padding, strides, dilations, multiplier):
    b = Builder(1)
    kernel = (3, 2)
    x = b.input((7, 6, 3), unsigned(4, -2))
    y = b.conv(
        x, 4, kernel, strides=strides, dilations=dilations, padding=padding,
        depthwise=multiplier > 0, depth_multiplier=max(multiplier, 1), activation=None,
    )  # fmt: skip
    program = b.build(y)
    feed = b.images(program, 2)
    weights = program.tensors[f"{y}/kernel"].data.astype(int)
    bias = program.tensors[f"{y}/bias"].data.astype(int)
    centered = padded(feed[x].astype(int) - 112, kernel, strides, dilations, padding)
    found = accumulators(program, y, feed)
    for n, row, column, c in itertools.product(*map(range, found.shape)):
        total = int(bias[c])
        for i, j in itertools.product(*map(range, kernel)):
            pixel = centered[
                n, row * strides[0] + i * dilations[0], column * strides[1] + j * dilations[1]
            ]
            if multiplier:
                total += int(pixel[c // multiplier]) * int(weights[0, i, j, c])
            else:
                total += sum(int(p) * int(w) for p, w in zip(pixel, weights[c, i, j], strict=True))
        assert found[n, row, column, c] == total


@pytest.mark.parametrize("fan_in", [10, 600, 5000])
def test_accumulators_are_exact_on_both_sides_of_float32s_limit(fan_in):
    b = Builder(1)
    x = b.input((fan_in,), unsigned(8, -7))
    y = b.dense(x, 4, out=signed(0), bias=2**30)
    program = b.build(y)
    feed = {x: np.full((3, fan_in), 127, np.int8)}
    feed[x][1] = b.rng.integers(-128, 128, fan_in)
    weights = program.tensors[f"{y}/kernel"].data.astype(np.int64)
    want = (feed[x].astype(np.int64) + 128) @ weights.T + program.tensors[f"{y}/bias"].data
    np.testing.assert_array_equal(accumulators(program, y, feed), want)


def test_types_of_the_matrix_products_are_proven_exact():
    b = Builder()
    source = b.tensors[b.input((4,), unsigned(8, 0))]  # codes reach 255 from the zero point
    assert reference._exact_type(np.int64((2**24 - 1) // 255), source) is np.float32
    assert reference._exact_type(np.int64(2**24 // 255 + 1), source) is np.float64
    assert reference._exact_type(np.int64(2**53 // 255 + 1), source) is np.int64


@pytest.mark.parametrize("images", [1, 3, 7, 100])
def test_chunks_add_up_to_the_whole(images):
    builder, program = small_resnet()
    feed = builder.images(program, 7)
    whole = reference.run(program, feed)
    parts = list(reference.run_chunks(program, feed, images))
    assert list(whole) == list(program.activations())
    for name, codes in whole.items():
        np.testing.assert_array_equal(codes, np.concatenate([part[name] for part in parts]))
        assert codes.dtype == program.tensors[name].dtype


def test_chunks_of_large_images_are_small():
    b = Builder()
    large = b.build(b.conv(b.input((224, 224, 64)), 64))
    assert reference.images_per_chunk(large) == 1
    assert reference.images_per_chunk(small_resnet()[1]) > 100


def test_an_array_will_do_for_a_single_input():
    builder, program = small_resnet()
    feed = builder.images(program, 2)
    for first, second in zip(
        reference.run(program, feed).values(),
        reference.run(program, feed["input_0"]).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        (np.zeros((1, 16, 16, 3)), r"must be int8 \[batch, 16, 16, 3\]; received float64"),
        (np.zeros((1, 16, 16), np.int8), r"received int8 \[1, 16, 16\]"),
        (np.int8(1), r"received int8 \[\]"),
        ({"image": np.zeros(1)}, "has the inputs input_0; received image"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(feed, message):
    with pytest.raises(ValueError, match=message):
        reference.run(small_resnet()[1], feed)


def test_inputs_must_agree_on_the_number_of_images():
    b = Builder()
    x, y = b.input((2,), signed(-4)), b.input((2,), signed(-4))
    program = b.build(b.add(x, y, signed(-3), None))
    with pytest.raises(ValueError, match="differ in their number of images"):
        reference.run(program, {x: np.zeros((1, 2), np.int8), y: np.zeros((2, 2), np.int8)})


def test_an_unknown_profile_is_refused():
    builder, program = small_resnet()
    with pytest.raises(
        ValueError, match="Unknown numerics profile 'cuda'; expected one of xnnpack"
    ):
        reference.run(dataclasses.replace(program, numerics="cuda"), builder.images(program, 1))


def test_another_profile_is_a_value_away():
    builder, program = small_resnet()
    feed = builder.images(program, 8)
    down = dataclasses.replace(
        PROFILES["xnnpack"],
        name="rounds down",
        conv_2d=lambda acc, x, k, y: np.floor(acc * (np.float64(x) * k / y)).astype(np.int64),
    )
    usual, other = (reference.run(program, feed, p)["conv_2d_3"].astype(int) for p in (None, down))
    assert set(np.unique(usual - other)) == {0, 1}


@pytest.mark.parametrize(
    ("scale", "activation", "expected"),
    [
        (2.0**-4, None, (-128, 127)),
        (2.0**-4, "relu", (112, 127)),
        (2.0**-1, "relu6", (112, 124)),
        (2.0**2, "relu6", (112, 114)),  # 1.5 steps: half away from zero
        (2.0**-5, "relu6", (112, 127)),
    ],
)
def test_activations_clamp_as_the_kernels_do(scale, activation, expected):
    b = Builder()
    tensor = b.tensors[b.input((1,), Format(scale, 112))]
    assert reference.activation_range(tensor, activation) == expected


@pytest.mark.parametrize(
    ("dtype", "zero_point", "step"), [("int16", 0, 0.5), ("int8", -128, 0.5), ("int8", -128, 8.0)]
)
def test_softmax_is_the_nearest_share(dtype, zero_point, step):
    b = Builder()
    logits = b.input((3,), Format(step, 3))
    scale = 2.0**-15 if dtype == "int16" else 2.0**-8
    y = b._op(
        "softmax", (logits,), (None, 3), Format(scale, zero_point, dtype=dtype), {}, "softmax"
    )
    codes = np.array([[3, 3, 3], [127, 3, -128], [5, 3, 1], [-128, -128, -127]], np.int8)
    (found,) = reference.run(b.build(y), codes).values()
    values = codes.astype(float) * step
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    container = np.iinfo(dtype)
    want = np.clip(np.rint(shares / scale) + zero_point, container.min, container.max)
    assert found.dtype == dtype and np.array_equal(found, want)


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_convolutions_have_a_rounding_of_their_own(groups):
    """-1/2 is rounded halves up by the built-in kernel, halves away by that of groups."""
    b = Builder()
    x = b.input((1, 1, 2), Format(0.25, 0))
    codes = np.full((2, 1, 1, 2 // groups), -1)
    y = b.conv(
        x, 2, (1, 1), out=Format(1.0, 0), activation=None, multipliers=np.ones(2), codes=codes,
        kernel_exponent=0, bias=0, groups=groups,
    )  # fmt: skip
    feed = np.array([[[[1, 1]]]] if groups == 1 else [[[[2, 2]]]], np.int8)
    (found,) = reference.run(b.build(y), feed, PROFILES["builtin"]).values()
    assert found.ravel().tolist() == ([0, 0] if groups == 1 else [-1, -1])


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        (
            "sub",
            {},
            "Op 'difference' has the unknown kind 'sub'; known: conv_2d, depthwise_conv_2d,",
        ),
        (
            "add",
            {"activation": None, "axis": 1},
            "Op 'difference' (add) has the attributes ['activation', 'axis'], "
            "expected ['activation'].",
        ),
        ("add", {}, "Op 'difference' (add) has the attributes [], expected ['activation']."),
    ],
)
def test_ops_have_a_known_kind_and_its_attributes(kind, attributes, message):
    with pytest.raises(ValueError) as error:
        Op(kind, "difference", ("a", "b"), ("c",), attributes)
    assert str(error.value).startswith(message)
