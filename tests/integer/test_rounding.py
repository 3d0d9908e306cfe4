"""Where exact halves go in each kernel; fixed-point arithmetic against Python's fractions."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faq_keras.integer import rounding
from faq_keras.integer.rounding import PROFILES

XNNPACK = PROFILES["xnnpack"]
HALVES = np.array([-5, -3, -1, 1, 3, 5])
POWERS = st.integers(-20, 6).map(lambda e: 2.0**e)
ACCUMULATORS = st.integers(-(2**24), 2**24)


def half_even(x: Fraction) -> int:
    return round(x)


def half_up(x: Fraction) -> int:
    return (2 * x.numerator + x.denominator) // (2 * x.denominator)


def half_away(x: Fraction) -> int:
    return half_up(abs(x)) * (1 if x > 0 else -1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv_2d", [-2, -2, 0, 0, 2, 2]),
        ("depthwise_conv_2d", [-2, -2, 0, 0, 2, 2]),
        ("fully_connected", [-2, -2, 0, 0, 2, 2]),
        ("fully_connected_int16", [-3, -2, -1, 1, 2, 3]),
    ],
)
def test_halves_of_accumulators(name, expected):
    assert getattr(XNNPACK, name)(HALVES, 1.0, np.float32([0.5]), 1.0).tolist() == expected


def test_halves_of_other_kernels():
    up = [-2, -1, 0, 1, 2, 3]
    zeros = np.zeros_like(HALVES)
    assert XNNPACK.add(HALVES, zeros, 0.5, 0.5, 1.0).tolist() == up
    assert XNNPACK.quantize(HALVES, 0.5, 1.0).tolist() == up
    assert XNNPACK.quantize_float(np.float32(HALVES), 2.0).tolist() == [-2, -2, 0, 0, 2, 2]
    assert XNNPACK.average_pool_2d(HALVES, np.full(6, 2)).tolist() == [-3, -2, -1, 1, 2, 3]


@given(ACCUMULATORS, POWERS)
def test_convolutions_round_halves_to_even(acc, multiplier):
    found = XNNPACK.conv_2d(np.array([acc]), 1.0, np.float32([multiplier]), 1.0)
    assert found.tolist() == [half_even(acc * Fraction(multiplier))]


@given(st.integers(-(2**31), 2**31), POWERS)
def test_the_16_bit_head_rounds_halves_away(acc, multiplier):
    found = XNNPACK.fully_connected_int16(np.array([acc]), 1.0, np.float32([multiplier]), 1.0)
    assert found.tolist() == [half_away(acc * Fraction(multiplier))]


@given(st.integers(-255, 255), st.integers(-255, 255), st.integers(-10, 7), st.integers(-10, 7))
def test_additions_of_power_of_two_scales_round_once_halves_up(a, b, a_exponent, b_exponent):
    scales = 2.0**a_exponent, 2.0**b_exponent
    found = XNNPACK.add(np.array([a]), np.array([b]), *scales, 1.0)
    assert found.tolist() == [half_up(a * Fraction(scales[0]) + b * Fraction(scales[1]))]


@given(st.integers(-255, 255), st.integers(-8, 7))
def test_rescaling_rounds_halves_up(code, exponent):
    found = XNNPACK.quantize(np.array([code]), 2.0**exponent, 1.0)
    assert found.tolist() == [half_up(code * Fraction(2.0**exponent))]


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**4))
def test_means_round_halves_away(total, count):
    found = XNNPACK.average_pool_2d(np.array([total]), np.array([count]))
    assert found.tolist() == [half_away(Fraction(total, count))]


@given(st.floats(2.0**-30, 2.0**8, width=32))
def test_fixed_multipliers_have_31_bits(ratio):
    mantissa, shift = rounding.fixed_multiplier(1.0, np.float32(ratio), 1.0)
    assert 2**30 <= mantissa < 2**31
    assert np.isclose(float(mantissa) * 2.0 ** float(shift - 31), ratio, rtol=2.0**-31, atol=0)


def test_ratios_that_the_delegate_leaves_alone_are_rounded_twice():
    """255 * 2^-9 is a little less than a half: 0 if rounded once."""
    codes = np.array([-255, -1, 0, 254, 255])
    assert XNNPACK.quantize(codes, 2.0**-9, 1.0).tolist() == [0, 0, 0, 0, 1]
    assert XNNPACK.quantize(codes, 2.0**-8, 1.0).tolist() == [-1, 0, 0, 1, 1]
    assert XNNPACK.quantize(codes, 2.0**8, 1.0).tolist() == (codes * 256).tolist()


@pytest.mark.parametrize("kernel", ["conv_2d", "fully_connected"])
@pytest.mark.parametrize(
    ("shape", "twice"),
    [((1, 8), True), ((1, 1, 1, 4), True), ((2, 8), False), ((1, 2, 1, 8), False), ((1, 3), False)],
)
def test_a_single_column_is_rounded_twice_by_the_built_in_kernels_on_arm(kernel, shape, twice):
    """1/4 is a half after the first rounding, and 1 after the second."""
    requantize = getattr(PROFILES["aarch64-builtin"], kernel)
    found = requantize(np.ones(shape, np.int64), 1.0, np.float32(0.25), 1.0)
    np.testing.assert_array_equal(found, np.full(shape, int(twice)))


def test_xnnpack_rounds_alike_on_arm():
    assert rounding.round_alike("aarch64", "xnnpack") and rounding.round_alike("tflm", "tflm")
    assert not rounding.round_alike("aarch64-builtin", "builtin")
    assert not rounding.round_alike("xnnpack", "reference")


def test_multipliers_are_products_in_float32_as_the_kernel_forms_them():
    scales = np.float32([0.1, 0.0371, 1 / 3])
    acc = np.array([[123457], [-99991]])
    want = np.rint(acc.astype(np.float32) * (np.float32(0.017) * scales / np.float32(0.3)))
    np.testing.assert_array_equal(XNNPACK.conv_2d(acc, 0.017, scales, 0.3), want)


def test_profiles_are_complete_values_found_by_name():
    assert rounding.profile("xnnpack") is XNNPACK
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert all(getattr(profile, field.name) for field in dataclasses.fields(profile))
    with pytest.raises(
        ValueError, match="Unknown numerics profile 'cuda'; expected one of xnnpack"
    ):
        rounding.profile("cuda")


@pytest.mark.parametrize("requantize", [rounding.twice_half_up, rounding.twice_half_away])
def test_a_requantize_op_rounds_as_the_convolution_it_is_made_from(requantize):
    codes = np.arange(-255, 256)
    found = rounding.rescale_with(requantize)(codes, 0.75, 2.0)
    assert found.tolist() == requantize(codes, 0.75, 1.0, 2.0).tolist()
    assert found.tolist() != rounding.rescale_with(requantize)(codes, 0.8, 2.0).tolist()


@pytest.mark.parametrize("convert", [rounding.float_to_codes, rounding.float_to_codes_half_away])
def test_floats_become_codes_within_31_bits(convert):
    found = convert(np.float32([-1e30, -3.0, 0.0, 3.2, 1e30]), 0.5)
    assert found.dtype == np.int64
    assert found.tolist() == [-(2**31), -6, 0, 6, 2**31]


def test_the_reference_kernel_takes_halves_of_floats_away_from_zero():
    x = np.float32([-1.5, -0.5, -0.25, 0.25, 0.5, 1.5])
    assert rounding.float_to_codes_half_away(x, 1.0).tolist() == [-2, -1, 0, 0, 1, 2]


def test_mantissas_that_round_up_to_32_bits_are_halved():
    mantissa, shift = rounding.fixed_multiplier(1.0, np.array([1 - 2.0**-33, 1.0, 0.75]), 1.0)
    assert mantissa.tolist() == [2**30, 2**30, 3 * 2**29]
    assert shift.tolist() == [1, 1, 0]


SMALL = st.integers(-6, 3).map(lambda e: 2.0**e)


@given(st.integers(-255, 255), st.integers(-255, 255), SMALL, SMALL, SMALL)
def test_tflites_own_additions_round_once_halves_away(a, b, a_scale, b_scale, scale):
    found = rounding.fixed_add(np.array([a]), np.array([b]), a_scale, b_scale, scale)
    total = a * Fraction(a_scale) + b * Fraction(b_scale)
    assert found.tolist() == [half_away(total / Fraction(scale))]


@pytest.mark.parametrize("channels", [3, 8, 10, 16, 21])
def test_the_depthwise_kernel_takes_eight_channels_at_a_time(channels):
    acc = np.random.default_rng(1).integers(-99, 99, (3, 2, channels))
    scales = np.float32(2.0 ** -(1.0 + np.arange(channels) % 3))
    wide = {3: 0, 8: 8, 10: 8, 16: 16, 21: 16}[channels]
    found = rounding.twice_by_eights(acc, 0.5, scales, 0.25)
    up = rounding.twice_half_up(acc, 0.5, scales, 0.25)
    away = rounding.twice_half_away(acc, 0.5, scales, 0.25)
    assert np.array_equal(found, np.where(np.arange(channels) < wide, up, away))
    assert not np.array_equal(up, away)
    one = rounding.twice_by_eights(acc, 0.5, np.float32([0.25]), 0.25)  # a scale for all of them
    assert np.array_equal(one, rounding.twice_by_eights(acc, 0.5, np.full(channels, 0.25), 0.25))


def test_high_products_go_to_the_nearest_and_halves_up():
    products = np.array([-(2**31) - 2**30 - 1, -(2**31) - 2**30, -(2**30) - 1, -(2**30), 2**30])
    assert rounding.high_multiply(products, 1).tolist() == [-2, -1, -1, 0, 1]
