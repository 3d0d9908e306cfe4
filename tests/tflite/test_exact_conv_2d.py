"""CONV_2D: the integer reference equals XNNPACK in every value."""

import dataclasses

import numpy as np
import pytest

from faq_keras.integer import reference
from tests.integer.programs import Builder, signed, unsigned
from tests.tflite.exactness import assert_exact

GEOMETRIES = [
    {"kernel": (3, 3), "strides": (1, 1), "padding": "same"},
    {"kernel": (3, 3), "strides": (2, 2), "padding": "same"},
    {"kernel": (3, 3), "strides": (2, 2), "padding": "valid"},
    {"kernel": (1, 1), "strides": (1, 1), "padding": "same"},
    {"kernel": (1, 1), "strides": (2, 2), "padding": "same"},
    {"kernel": (7, 7), "strides": (2, 2), "padding": "same"},
    {"kernel": (1, 7), "strides": (1, 1), "padding": "same"},
    {"kernel": (7, 1), "strides": (1, 1), "padding": "valid"},
    {"kernel": (2, 4), "strides": (3, 1), "padding": "same"},
    {"kernel": (3, 3), "strides": (1, 1), "dilations": (2, 2), "padding": "same"},
    {"kernel": (3, 2), "strides": (1, 1), "dilations": (3, 1), "padding": "valid"},
]
OUTPUTS = {
    "unsigned 8, relu": (unsigned(8, -4), "relu"),
    "unsigned 4, relu": (unsigned(4, 0), "relu"),
    "unsigned 2, relu": (unsigned(2, 1), "relu"),
    "unsigned 8, relu6": (unsigned(8, -5, limit=192), "relu6"),
    "unsigned 4, relu6": (unsigned(4, -1, limit=12), "relu6"),
    "signed 8, linear": (signed(-4), None),
}


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: "-".join(map(str, g.values())))
def test_every_geometry(geometry, tmp_path):
    b = Builder(1)
    x = b.input((13, 11, 5))
    assert_exact(b, b.conv(x, 9, **geometry), tmp_path, least_values=100)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_every_width_and_output_packed_or_not(bits, output, tmp_path):
    out, activation = OUTPUTS[output]
    b = Builder(bits)
    x = b.input((8, 8, 16), unsigned(4, -2) if bits <= 4 else unsigned(8, -6))
    y = b.conv(x, 24, bits=bits, out=out, activation=activation)
    assert_exact(b, y, tmp_path, weights=("int8", "int4"), least_values=min(4, 2**out.bits))


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8, 17, 31, 64, 65])
def test_every_remainder_of_the_vector_width(channels, tmp_path):
    b = Builder(channels)
    x = b.input((6, 5, channels), signed(-6))
    assert_exact(b, b.conv(x, channels + 1, out=signed(-3), activation=None), tmp_path)


@pytest.mark.parametrize("batch", [1, 2, 3, 33, 70])
def test_every_batch_size(batch, tmp_path):
    b = Builder(batch)
    x = b.input((4, 4, 3))
    assert_exact(b, b.conv(x, 4), tmp_path, images=batch)


@pytest.mark.parametrize("activation", ["relu", None])
def test_exact_halves_go_to_the_even_code(activation, tmp_path):
    b = Builder(3)
    x = b.input((8, 8, 4))
    out = unsigned(8, -2) if activation else signed(-2)
    y = b.conv(x, 8, (1, 1), out=out, activation=activation, multipliers=np.ones(8), bits=4)
    program, feed, _ = assert_exact(b, y, tmp_path)
    kernel = program.tensors[f"{y}/kernel"]
    multiplier = program.tensors[x].scale[0] * kernel.scale[0] / program.tensors[y].scale[0]
    acc = reference.run(_raw(program, y), feed)[y].astype(np.int64)
    halves = int(np.sum((acc * multiplier) % 1 == 0.5))
    print(f"{halves} exact halves of {acc.size}")
    assert halves > acc.size / 100


@pytest.mark.parametrize("float_scales", [False, True])
def test_arbitrary_float_scales_and_zero_points(float_scales, tmp_path):
    b = Builder(5)
    x = b.input((9, 9, 8), signed(-3))
    y = b.conv(x, 16, out=unsigned(7, -3), activation="relu", float_scales=float_scales)
    z = b.conv(y, 16, out=unsigned(5, -1), activation="relu", float_scales=float_scales)
    assert_exact(b, z, tmp_path)


def test_saturation_and_a_large_bias(tmp_path):
    b = Builder(6)
    x = b.input((6, 6, 64))
    y = b.conv(x, 8, out=signed(-4), activation=None, bias=2**28)
    _, feed, _ = assert_exact(b, y, tmp_path)
    codes = reference.run(b.build(y), feed)[y]
    assert codes.min() == -128 and codes.max() == 127


def test_accumulators_beyond_float32s_whole_numbers(tmp_path):
    """Above 2^24 XNNPACK's float32 rounds the accumulator; so does the reference."""
    b = Builder(7)
    x = b.input((4, 4, 2048))
    multipliers = np.float32(b.rng.integers(1, 128, 96) / 64)
    y = b.conv(
        x,
        96,
        out=signed(6),
        activation=None,
        bias=2**27,
        kernel_exponent=-8,
        multipliers=multipliers,
    )
    assert_exact(b, y, tmp_path, least_values=50)


def _raw(program, name):
    """The program with an int32 output of scale 1 accumulator step: shows the accumulator."""
    scale = program.tensors[program.ops[0].inputs[1]].scale[0] * program.tensors["input_0"].scale[0]
    wide = dataclasses.replace(program.tensors[name], dtype="int32", scale=(scale,), zero_point=0)
    op = program.ops[0]
    op = dataclasses.replace(op, attributes={**op.attributes, "activation": None})
    return dataclasses.replace(program, tensors={**program.tensors, name: wide}, ops=(op,))
