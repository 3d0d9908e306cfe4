"""MEAN over height and width on a grid of its own: exact wherever lowering uses it."""

import numpy as np
import pytest

from faq_keras.integer import limits
from faq_keras.tflite import parity, writer
from tests.integer.programs import Builder, Format, signed, unsigned

RUNTIMES = ("xnnpack", "builtin", "reference", "tflm")
SIZES = [(1, 1), (2, 2), (7, 7), (8, 8), (4, 7), (3, 5), (10, 10), (14, 14), (28, 28), (112, 112)]


@pytest.mark.parametrize("source", [signed(-4), unsigned(8, -4), unsigned(4, -1)], ids=str)
@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_means_equal_the_reference_on_every_runtime(size, source, tmp_path):
    exact = [
        finer
        for finer in range(-3, 10)
        if limits.has_exact_mean(size[0] * size[1], source.scale, source.scale * 2.0**-finer)
    ]
    assert len(exact) > 1
    for finer in (exact[0], exact[len(exact) // 2], exact[-1]):
        b = Builder(finer + 3)
        x = b.input((*size, 17), source)
        highest = None if source.zero_point == 0 else 127
        zero_point = 0 if highest is None else -128
        out = Format(source.scale * 2.0**-finer, zero_point, 8, "int8", highest)
        program = b.build(b.mean(x, out))
        feed = small_codes(b.images(program, 8)[x], source.zero_point)
        path = tmp_path / "m.tflite"
        writer.write(program, path)
        report = parity.compare({x: feed}, program, path, RUNTIMES)
        print(f"\n{finer} bits finer: {report}")
        assert report.mismatches == 0 and report.values == 8 * 17 * 2 * len(RUNTIMES)
        assert report.runs[0].undelegated == ()


def small_codes(codes, zero_point):
    """Images of different brightness, so that not every mean saturates."""
    divisors = 2 ** (np.arange(8) % 7).reshape(8, 1, 1, 1)
    return ((codes.astype(int) - zero_point) // divisors + zero_point).astype(np.int8)


@pytest.mark.parametrize("count", [1, 3, 6, 28, 49, 60, 64, 100, 196, 440])
@pytest.mark.parametrize("finer", [-1, 0, 1, 2])
def test_exact_means_are_never_ambiguous(count, finer):
    """No sum of codes lies half way between two codes, or float32 holds every product exactly."""
    sums = np.arange(255 * count + 1)
    halves = (sums * 2.0 ** (finer + 1) / count) % 2 == 1
    factor = np.float32(2.0**finer / count)
    products = (sums.astype(np.float32) * factor).astype(np.float64)
    is_exact = np.array_equal(products, sums * 2.0**finer / count)
    assert limits.has_exact_mean(count, 1.0, 2.0**-finer) == (not halves.any() or is_exact)
