"""ADD with and without activation: the reference equals XNNPACK in every value."""

import pytest

from tests.integer.programs import Builder, Format, signed, unsigned
from tests.tflite.exactness import assert_exact

# Input exponents relative to the output's; up to the last one, halves occur.
RATIOS = [
    (-10, -10),
    (-8, -3),
    (-4, -4),
    (-3, 1),
    (-2, -1),
    (-1, 0),
    (-1, -1),
    (0, 0),
    (1, 0),
    (2, 5),
    (7, 7),
]


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
@pytest.mark.parametrize("activation", ["relu", "relu6", None])
def test_every_ratio_of_scales(ratio, activation, tmp_path):
    b = Builder(20 + sum(ratio))
    x = b.input((6, 6, 16), signed(ratio[0] - 4))
    y = b.input((6, 6, 16), unsigned(8, ratio[1] - 4))
    out = (
        signed(-4)
        if activation is None
        else unsigned(8, -4, limit=96 if activation == "relu6" else None)
    )
    z = b.add(x, y, out, activation)
    _, _, (report,) = assert_exact(b, z, tmp_path, images=32, least_values=1)
    assert report.runs[0].undelegated == ()


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_residual_sums_of_every_width(bits, tmp_path):
    b = Builder(bits)
    x = b.input((6, 6, 9), unsigned(bits, -bits))
    y = b.input((6, 6, 9), signed(-7))
    assert_exact(
        b, b.add(x, y, unsigned(bits, -bits)), tmp_path, images=32, least_values=2**bits - 1
    )


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_every_batch_size_and_two_linear_branches(batch, tmp_path):
    b = Builder(batch)
    x, y = b.input((5, 5, 3), signed(-5)), b.input((5, 5, 3), signed(-4))
    assert_exact(b, b.add(x, y, signed(-3), None), tmp_path, images=batch)


def test_a_tensor_added_to_itself(tmp_path):
    b = Builder(1)
    x = b.input((5, 5, 3), signed(-5))
    assert_exact(b, b.add(x, x, unsigned(8, -5)), tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_arbitrary_float_scales_and_zero_points(seed, tmp_path):
    b = Builder(seed)
    x = b.input((8, 8, 16), Format(b.rng.uniform(0.01, 1), 5))
    y = b.input((8, 8, 16), Format(b.rng.uniform(0.01, 1), -9))
    assert_exact(b, b.add(x, y, Format(b.rng.uniform(0.1, 1), 1), None), tmp_path)
