"""DEPTHWISE_CONV_2D, also as a global average pool: the reference equals XNNPACK in every value."""

import numpy as np
import pytest

from tests.integer.programs import Builder, signed, unsigned
from tests.tflite.exactness import assert_exact

GEOMETRIES = [
    {"kernel": (3, 3), "strides": (1, 1), "padding": "same"},
    {"kernel": (3, 3), "strides": (2, 2), "padding": "same"},
    {"kernel": (3, 3), "strides": (2, 2), "padding": "valid"},
    {"kernel": (5, 5), "strides": (1, 1), "padding": "same"},
    {"kernel": (5, 5), "strides": (2, 2), "padding": "same"},
    {"kernel": (1, 1), "strides": (1, 1), "padding": "same"},
    {"kernel": (7, 3), "strides": (1, 1), "padding": "valid"},
    {"kernel": (3, 3), "strides": (1, 1), "dilations": (2, 2), "padding": "same"},
    {"kernel": (3, 3), "strides": (1, 1), "padding": "same", "depth_multiplier": 2},
    {"kernel": (3, 3), "strides": (2, 2), "padding": "valid", "depth_multiplier": 3},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: "-".join(map(str, g.values())))
@pytest.mark.parametrize("channels", [1, 6, 32])
def test_every_geometry(geometry, channels, tmp_path):
    b = Builder(1)
    x = b.input((13, 11, channels))
    assert_exact(b, b.conv(x, 0, depthwise=True, **geometry), tmp_path, least_values=50)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("activation", ["relu", "relu6", None])
def test_every_width_and_activation_packed_or_not(bits, activation, tmp_path):
    b = Builder(bits)
    x = b.input((8, 8, 16), unsigned(4, -2) if bits <= 4 else signed(-6))
    out = (
        signed(-5)
        if activation is None
        else unsigned(4, -1, limit=12 if activation == "relu6" else None)
    )
    y = b.conv(x, 0, depthwise=True, bits=bits, out=out, activation=activation)
    assert_exact(b, y, tmp_path, weights=("int8", "int4"), least_values=8)


@pytest.mark.parametrize("batch", [1, 2, 40])
def test_every_batch_size(batch, tmp_path):
    b = Builder(batch)
    assert_exact(b, b.conv(b.input((6, 6, 8)), 0, depthwise=True), tmp_path, images=batch)


def test_exact_halves(tmp_path):
    b = Builder(2)
    x = b.input((8, 8, 8), signed(-2))
    y = b.conv(x, 0, (2, 2), depthwise=True, bits=2, out=signed(0), activation=None,
               multipliers=np.ones(8), kernel_exponent=1)  # fmt: skip
    assert_exact(b, y, tmp_path)


@pytest.mark.parametrize(
    "size", [(1, 1), (2, 2), (3, 5), (4, 4), (7, 7), (8, 8), (14, 14), (28, 28), (56, 56)]
)
@pytest.mark.parametrize("exponent", [-8, -9, -7, -6])
def test_a_global_pool_has_its_own_scale(size, exponent, tmp_path):
    b = Builder(size[0])
    x = b.input((*size, 24), unsigned(8, -7))
    _, _, (report,) = assert_exact(
        b, b.global_pool(x, unsigned(8, exponent)), tmp_path, images=3, least_values=1
    )
    assert report.runs[0].undelegated == ()


@pytest.mark.parametrize("size", [(2, 2), (8, 8)])
def test_a_global_pool_of_equal_scale_meets_exact_halves(size, tmp_path):
    b = Builder(1)
    x = b.input((*size, 64), unsigned(4, 0))
    assert_exact(b, b.global_pool(x, unsigned(4, 0)), tmp_path, images=16, least_values=4)
