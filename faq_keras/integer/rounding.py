"""How each runtime turns an accumulator into output codes: one `NumericsProfile` per runtime.

An op accumulates exactly and then *requantizes*: multiplies by the ratio of the scales and rounds
to the output's step. With power-of-two scales exact halves are common, and there the runtimes part:

    acc = np.array([-3, -1, 1, 3])
    PROFILES["xnnpack"].conv_2d(acc, 1.0, np.float32(0.5), 1.0)      # [-2, 0, 0, 2]: half to even

A profile is a value: a function per kernel. Another runtime is another entry of `PROFILES`. All
functions return the output's codes *before* the zero point is added and the range is clamped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Scale = float | npt.NDArray[np.floating]

# (accumulator, input scale, kernel scale: a number or one per channel, output scale) -> codes
Requantize = Callable[[Ints, float, Scale, float], Ints]
# (codes of a and of b without their zero points, scale of a, of b, of the output) -> codes
Add = Callable[[Ints, Ints, float, float, float], Ints]
# (codes without the zero point, input scale, output scale) -> codes
Rescale = Callable[[Ints, float, float], Ints]
# (float values, output scale) -> codes
FromFloat = Callable[[npt.NDArray[np.float32], float], Ints]
# (sum of raw codes, zero points included; how many were summed) -> raw codes
Mean = Callable[[Ints, Ints], Ints]
# (sum of codes without the zero point, input scale, how many were summed, output scale) -> codes
RescaledMean = Callable[[Ints, float, int, float], Ints]


@dataclasses.dataclass(frozen=True)
class NumericsProfile:
    """The rounding of every kernel of one runtime.

    Attributes:
        name: The runtime's name.
        conv_2d: 2-D convolution.
        grouped_conv_2d: 2-D convolution whose kernel has fewer input channels than its input.
        depthwise_conv_2d: Depthwise convolution.
        fully_connected: Dense layer with int8 activations.
        fully_connected_int16: Dense layer with int16 activations and output (the 16-bit head).
        add: Addition, with or without a fused activation.
        quantize: QUANTIZE from integers to integers.
        quantize_float: QUANTIZE from float32.
        average_pool_2d: The mean of raw codes.
        mean: The mean of codes, on the output's own grid.
    """

    name: str
    conv_2d: Requantize
    grouped_conv_2d: Requantize
    depthwise_conv_2d: Requantize
    fully_connected: Requantize
    fully_connected_int16: Requantize
    add: Add
    quantize: Rescale
    quantize_float: FromFloat
    average_pool_2d: Mean
    mean: RescaledMean


def round_alike(one: str, other: str) -> bool:
    """Whether two runtimes have the same rounding in every kernel."""
    return dataclasses.replace(profile(one), name=other) == profile(other)


def profile(name: str) -> NumericsProfile:
    """The profile of a runtime.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in PROFILES:
        raise ValueError(
            f"Unknown numerics profile {name!r}; expected one of {', '.join(PROFILES)}."
        )
    return PROFILES[name]


# ----------------------------------------------------------------------------------- accumulators


def float_half_even(
    acc: Ints, input_scale: float, kernel_scale: Scale, output_scale: float
) -> Ints:
    """XNNPACK's convolutions: float32 product, rounded half to even (`qs8-requantization/fp32`).

    Below 2^24 the accumulator is exact in float32, and so is its product with a power of two.
    """
    multiplier = np.float32(input_scale) * np.float32(kernel_scale) / np.float32(output_scale)
    return np.rint(acc.astype(np.float32) * multiplier).astype(np.int64)


def fixed_half_away(
    acc: Ints, input_scale: float, kernel_scale: Scale, output_scale: float
) -> Ints:
    """One rounding of the fixed-point product, halves away from zero.

    LiteRT's int16 fully connected kernel, and its reference kernel for int8.
    """
    mantissa, shift = fixed_multiplier(input_scale, kernel_scale, output_scale)
    product = acc * mantissa
    return np.sign(product) * shift_half_up(np.abs(product), 31 - shift)


def fixed_half_up(acc: Ints, input_scale: float, kernel_scale: Scale, output_scale: float) -> Ints:
    """One rounding of the fixed-point product, halves up: TFLM's int16 fully connected kernel."""
    mantissa, shift = fixed_multiplier(input_scale, kernel_scale, output_scale)
    return shift_half_up(acc * mantissa, 31 - shift)


def twice_half_up(acc: Ints, input_scale: float, kernel_scale: Scale, output_scale: float) -> Ints:
    """Two roundings: doubling high multiply, then a shift, halves up (ruy, on x86-64)."""
    mantissa, shift = fixed_multiplier(input_scale, kernel_scale, output_scale)
    high = high_multiply(acc << np.maximum(shift, 0), mantissa)
    return shift_half_up(high, np.maximum(-shift, 0))


def twice_half_away(
    acc: Ints, input_scale: float, kernel_scale: Scale, output_scale: float
) -> Ints:
    """Two roundings, halves away (gemmlowp's `MultiplyByQuantizedMultiplier`)."""
    mantissa, shift = fixed_multiplier(input_scale, kernel_scale, output_scale)
    high = high_multiply(acc << np.maximum(shift, 0), mantissa)
    return np.sign(high) * shift_half_up(np.abs(high), np.maximum(-shift, 0))


def twice_by_eights(
    acc: Ints, input_scale: float, kernel_scale: Scale, output_scale: float
) -> Ints:
    """The depthwise kernel: eight channels at a time halves up, the rest halves away.

    On ARM, 3x3 kernels over a multiple of eight channels (depth multiplier 1, strides 1 or 2, no
    dilation) run in another one, which multiplies before it shifts left: the same for multipliers
    below 1, else a number of low bits are lost (`docs/runtimes.md`).
    """
    wide = acc.shape[-1] // 8 * 8
    scale = np.broadcast_to(np.asarray(kernel_scale), acc.shape[-1:])
    return np.concatenate(
        [
            twice_half_up(acc[..., :wide], input_scale, scale[:wide], output_scale),
            twice_half_away(acc[..., wide:], input_scale, scale[wide:], output_scale),
        ],
        axis=-1,
    )


def half_up_by_columns(
    acc: Ints, input_scale: float, kernel_scale: Scale, output_scale: float
) -> Ints:
    """Matrix products on ARM: ruy rounds once, halves up; a single column is rounded twice.

    A product with one column (one image in a dense layer; a convolution with one output pixel) and
    four rows or more goes to TFLite's own matrix-vector kernel, if it sums eight terms or more.

    Args:
        acc: `[batch, ..., channels]`: as many columns as there are outputs per channel.
        input_scale: Scale of the activations.
        kernel_scale: Scale of the kernel.
        output_scale: Scale of the output.
    """
    rows = acc.shape[-1]
    requantize = twice_half_up if acc.size == rows >= 4 else fixed_half_up
    return requantize(acc, input_scale, kernel_scale, output_scale)


# ----------------------------------------------------------------------------------- other kernels


def xnnpack_add(a: Ints, b: Ints, a_scale: float, b_scale: float, output_scale: float) -> Ints:
    """XNNPACK's `qs8-vadd`: 20-bit multipliers, one shift, halves up.

    Exact (up to that rounding) for power-of-two scales whose ratio is at most 2^20.
    """
    ratios = np.array([a_scale, b_scale], np.float32) / np.float32(output_scale)
    shift = 21 - int(np.frexp(np.max(ratios))[1])  # the larger multiplier gets 21 bits
    multipliers = np.rint(np.ldexp(ratios.astype(np.float64), shift)).astype(np.int64)
    return shift_half_up(a * multipliers[0] + b * multipliers[1], shift)


def fixed_add(a: Ints, b: Ints, a_scale: float, b_scale: float, output_scale: float) -> Ints:
    """TFLite's own ADD kernels: both terms on a common grid of 2^-20, then one output rounding.

    Exact (up to that rounding, halves away) for power-of-two scales. For other scales the SIMD
    kernel on x86-64 differs in about 1 of 5,000 sums.
    """
    grid = 2.0 * max(a_scale, b_scale)
    total = twice_half_away(a << 20, a_scale, np.float64(1), grid)
    total = total + twice_half_away(b << 20, b_scale, np.float64(1), grid)
    return twice_half_away(total, grid, np.float64(2.0**-20), output_scale)


def rescale_with(requantize: Requantize) -> Rescale:
    """A QUANTIZE that multiplies and rounds as a convolution does."""
    return lambda codes, input_scale, output_scale: requantize(
        codes, input_scale, np.float64(1), output_scale
    )


def xnnpack_rescale(codes: Ints, input_scale: float, output_scale: float) -> Ints:
    """XNNPACK's `qs8-vcvt`: an 8.8 fixed-point multiplier, halves up.

    Its delegate leaves ratios outside of [2^-8, 2^7] to the built-in kernel.
    """
    ratio = np.float64(np.float32(input_scale) / np.float32(output_scale))
    if not 2.0**-8 <= ratio <= 2.0**7:
        return twice_half_up(codes, input_scale, np.float64(1), output_scale)
    return shift_half_up(codes * int(np.rint(256.0 * ratio)), 8)


def float_to_codes(x: npt.NDArray[np.float32], output_scale: float) -> Ints:
    """XNNPACK's and the built-in QUANTIZE from float32: times 1/scale, half to even."""
    scaled = x.astype(np.float32) * (np.float32(1) / np.float32(output_scale))
    return np.rint(np.clip(scaled, -(2.0**31), 2.0**31)).astype(np.int64)


def float_to_codes_half_away(x: npt.NDArray[np.float32], output_scale: float) -> Ints:
    """The reference QUANTIZE from float32: divided by the scale, halves away."""
    scaled = np.clip(x.astype(np.float32) / np.float32(output_scale), -(2.0**31), 2.0**31)
    whole = np.trunc(scaled)
    return (whole + np.trunc(2 * (scaled - whole))).astype(np.int64)


def float_mean(total: Ints, input_scale: float, count: int, output_scale: float) -> Ints:
    """XNNPACK's MEAN: the sum times a float32 factor.

    Instruction sets differ in where they add the zero point, and so in halves that float32 cannot
    hold exactly; `limits.has_exact_mean` tells where there are none.
    """
    return float_half_even(total, input_scale, float(np.float32(1.0 / count)), output_scale)


def fixed_mean(total: Ints, input_scale: float, count: int, output_scale: float) -> Ints:
    """The built-in, reference and TFLM kernels of MEAN, dimensions not kept.

    The multiplier of the scales is shifted up as far as fits, and divided by the count.
    """
    multiplier, exponent = fixed_multiplier(input_scale, np.float64(1), output_scale)
    mantissa, shift = int(multiplier), int(exponent)
    up = min(count.bit_length() - 1, 32, 31 + shift)
    mantissa, shift = (mantissa << up) // count, shift - up
    high = high_multiply(total << max(shift, 0), np.array(mantissa))
    return np.sign(high) * shift_half_up(np.abs(high), max(-shift, 0))


def mean_half_away(total: Ints, count: Ints) -> Ints:
    """AVERAGE_POOL_2D everywhere: the mean of the raw codes, halves away from zero."""
    return np.sign(total) * ((2 * np.abs(total) + count) // (2 * count))


# ----------------------------------------------------------------------------------- fixed point


def fixed_multiplier(
    input_scale: float, kernel_scale: Scale, output_scale: float
) -> tuple[Ints, Ints]:
    """TFLite's `QuantizeMultiplier`: the scales' ratio as `mantissa * 2**(shift - 31)`.

    Returns:
        Mantissa in [2^30, 2^31) and shift, both of `kernel_scale`'s shape.
    """
    ratio = np.float64(np.float32(input_scale)) * np.asarray(kernel_scale, np.float64)
    fraction, shift = np.frexp(ratio / np.float64(np.float32(output_scale)))
    mantissa = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    overflow = mantissa == 2**31
    return np.where(overflow, mantissa // 2, mantissa), shift.astype(np.int64) + overflow


def high_multiply(x: Ints, mantissa: Ints) -> Ints:
    """The `SaturatingRoundingDoublingHighMul` of gemmlowp: `x * mantissa / 2**31`, halves up.

    The sum is truncated towards zero, as C++ divides: what makes its halves go up.
    """
    product = x * mantissa
    nudged = product + np.where(product >= 0, 2**30, 1 - 2**30)
    return np.sign(nudged) * (np.abs(nudged) >> 31)


def shift_half_up(x: Ints, shift: Ints | int) -> Ints:
    """`x / 2**shift`, rounded, halves up; `shift` is not negative."""
    half = np.left_shift(1, np.asarray(shift, np.int64)) >> 1
    return (x + half) >> shift


_XNNPACK = NumericsProfile(
    name="xnnpack",
    conv_2d=float_half_even,
    grouped_conv_2d=float_half_even,
    depthwise_conv_2d=float_half_even,
    fully_connected=float_half_even,
    fully_connected_int16=fixed_half_away,
    add=xnnpack_add,
    quantize=xnnpack_rescale,
    quantize_float=float_to_codes,
    average_pool_2d=mean_half_away,
    mean=float_mean,
)

PROFILES: Mapping[str, NumericsProfile] = {
    "xnnpack": _XNNPACK,
    # XNNPACK on ARM, and the built-in kernels there for what it leaves to them.
    "aarch64": dataclasses.replace(_XNNPACK, name="aarch64"),
    # LiteRT's optimized kernels on ARM.
    "aarch64-builtin": NumericsProfile(
        name="aarch64-builtin",
        conv_2d=half_up_by_columns,
        grouped_conv_2d=twice_half_away,  # the reference kernel steps in
        depthwise_conv_2d=twice_by_eights,
        fully_connected=half_up_by_columns,
        fully_connected_int16=fixed_half_away,
        add=fixed_add,
        quantize=rescale_with(twice_half_up),
        quantize_float=float_to_codes,
        average_pool_2d=mean_half_away,
        mean=fixed_mean,
    ),
    # LiteRT's optimized kernels on x86-64, where no delegate takes an op.
    "builtin": NumericsProfile(
        name="builtin",
        conv_2d=twice_half_up,
        grouped_conv_2d=twice_half_away,  # the reference kernel steps in
        depthwise_conv_2d=twice_by_eights,
        fully_connected=twice_half_up,
        fully_connected_int16=fixed_half_away,
        add=fixed_add,
        quantize=rescale_with(twice_half_up),
        quantize_float=float_to_codes,
        average_pool_2d=mean_half_away,
        mean=fixed_mean,
    ),
    # LiteRT's reference kernels.
    "reference": NumericsProfile(
        name="reference",
        conv_2d=twice_half_away,
        grouped_conv_2d=twice_half_away,
        depthwise_conv_2d=twice_half_away,
        fully_connected=fixed_half_away,
        fully_connected_int16=fixed_half_away,
        add=fixed_add,
        quantize=rescale_with(twice_half_away),
        quantize_float=float_to_codes_half_away,
        average_pool_2d=mean_half_away,
        mean=fixed_mean,
    ),
    # TensorFlow Lite for Microcontrollers, its portable kernels.
    "tflm": NumericsProfile(
        name="tflm",
        conv_2d=twice_half_away,
        grouped_conv_2d=twice_half_away,
        depthwise_conv_2d=twice_half_away,
        fully_connected=twice_half_away,
        fully_connected_int16=fixed_half_up,
        add=fixed_add,
        quantize=rescale_with(twice_half_away),
        quantize_float=float_to_codes_half_away,
        average_pool_2d=mean_half_away,
        mean=fixed_mean,
    ),
}
