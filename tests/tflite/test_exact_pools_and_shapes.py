"""Average and max pooling, PAD, RESHAPE: the reference equals XNNPACK in every value."""

import pytest

from tests.integer.programs import Builder, Format, signed, unsigned
from tests.tflite.exactness import assert_exact

WINDOWS = [
    ((2, 2), (2, 2)),
    ((3, 3), (2, 2)),
    ((3, 3), (1, 1)),
    ((4, 2), (3, 1)),
    ((1, 1), (1, 1)),
    ((2, 2), (3, 3)),
    ((7, 9), (7, 9)),
    ((1, 3), (1, 2)),
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", ["max_pool_2d", "average_pool_2d"])
@pytest.mark.parametrize("source", [unsigned(8, -5), unsigned(4, -2), signed(-5)], ids=str)
def test_pools_of_every_geometry(window, padding, kind, source, tmp_path):
    b = Builder(1)
    x = b.input((7, 9, 6), source)
    assert_exact(b, b.pool(x, kind, *window, padding), tmp_path, images=6, least_values=1)


def test_even_windows_round_halves_of_the_raw_sum_away_from_zero(tmp_path):
    """Raw codes: with zero point 112 the mean of 4-bit codes rounds up, with 0 away from it."""
    b = Builder(2)
    x = b.input((16, 16, 8), Format(1.0, 0, bits=2))
    x = b.pool(x, "average_pool_2d", (2, 2), (2, 2))
    assert_exact(b, b.pool(x, "average_pool_2d", (2, 4), (2, 4)), tmp_path, images=16)


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 1, 0, 1), (3, 0, 0, 2), (3, 3, 3, 3)], ids=str)
@pytest.mark.parametrize("source", [unsigned(8, -5), unsigned(4, -2), signed(-5)], ids=str)
def test_padding_before_strided_convolutions_and_pools(pads, source, tmp_path):
    b = Builder(3)
    x = b.input((9, 8, 4), source)
    y = b.conv(b.pad(x, *pads), 8, strides=(2, 2), padding="valid")
    y = b.pool(b.pad(y, *pads), "max_pool_2d", (3, 3), (2, 2))
    assert_exact(b, y, tmp_path)


@pytest.mark.parametrize("batch", [1, 2, 40])
def test_reshape_keeps_the_batch(batch, tmp_path):
    b = Builder(4)
    x = b.reshape(b.input((4, 3, 5)), (60,))
    assert_exact(b, b.reshape(x, (5, 12)), tmp_path, images=batch)


def test_flatten_feeds_a_dense_layer(tmp_path):
    b = Builder(5)
    x = b.conv(b.input((6, 6, 3)), 4)
    assert_exact(b, b.dense(b.reshape(x, (144,)), 10), tmp_path)
