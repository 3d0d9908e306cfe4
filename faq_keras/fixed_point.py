"""Fixed-point numbers: the quantizer Q_{b,l} of the FAQ paper (3.1), in numpy and TensorFlow.

A tensor is stored in `bits` bits with its least significant bit worth `2**exponent` (the paper's
`l`). The integer is the *code*, `code * 2**exponent` is the value, and because every scale is a
power of two, float32 holds each value exactly: the float arithmetic of training and the integer
arithmetic of a device are the same arithmetic.

    >>> quantize(np.array([0.30, 1.7, -2.0]), bits=4, exponent=-3, signed=False)
    array([0.25 , 1.625, 0.   ])
    >>> code_range(4, signed=True)
    (-7, 7)
    >>> range_exponent(6.0, bits=8, signed=False)    # 8 is the next power of two: step 8 / 256
    -5

Rounding is part of a definition, not a detail: `HALF_EVEN` is what XNNPACK does in convolutions and
`tf.round` does, `HALF_UP` is what it does in additions, `HALF_AWAY` is what the 16-bit head does
(see `integer.rounding`). The numpy functions are the specification; the `tf_` twins must equal them
bit for bit and carry the straight-through gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

HALF_EVEN = "half_even"
HALF_UP = "half_up"
HALF_AWAY = "half_away"
ROUNDINGS = (HALF_EVEN, HALF_UP, HALF_AWAY)

MIN_BITS, MAX_BITS = 2, 16


def code_range(bits: int, signed: bool, symmetric: bool = True) -> tuple[int, int]:
    """The smallest and the largest code of a `bits`-bit number.

    Args:
        bits: Precision, 2 to 32.
        signed: Whether codes may be negative.
        symmetric: Signed ranges leave out `-2**(bits-1)` (paper section 3.1), so that a sign flip
            is exact. TFLite kernels do not clamp there, so linear activation tensors use
            `symmetric=False`.

    Returns:
        `(lowest, highest)`, both inclusive.
    """
    if not signed:
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)) + int(symmetric), 2 ** (bits - 1) - 1


def round_codes(x: npt.NDArray[np.floating], rounding: str = HALF_EVEN) -> npt.NDArray[np.floating]:
    """Rounds `x` to whole numbers; `rounding` says where exact halves go."""
    if rounding == HALF_EVEN:
        return np.rint(x)
    if rounding == HALF_UP:
        return _floor_plus_half(x)
    if rounding == HALF_AWAY:
        return np.sign(x) * _floor_plus_half(np.abs(x))
    raise ValueError(f"Unknown rounding {rounding!r}; expected one of {ROUNDINGS}.")


def _floor_plus_half(x: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """`floor(x + 1/2)` without the addition's rounding error (0.49999997 + 0.5 = 1 in float32)."""
    whole = np.floor(x)
    return whole + (x - whole >= 0.5)


def quantize(
    x: npt.NDArray[np.floating],
    bits: int,
    exponent: int,
    signed: bool,
    rounding: str = HALF_EVEN,
) -> npt.NDArray[np.floating]:
    """Q_{b,l}: the nearest value that `bits` bits and step `2**exponent` hold (paper 3.1)."""
    lowest, highest = code_range(bits, signed)
    codes = np.clip(round_codes(np.ldexp(x, -exponent), rounding), lowest, highest)
    return np.ldexp(codes, exponent)


def range_exponent(maximum: float, bits: int, signed: bool) -> int:
    """The exponent of a tensor whose values reach `maximum` (paper section 3.2).

    `ymax` is `maximum` rounded up to a power of two; `l = log2(ymax) - b`, or `- (b - 1)` with a
    sign.

    Args:
        maximum: Largest magnitude to represent; positive and finite.
        bits: Precision of the tensor.
        signed: Whether one bit goes to the sign.

    Raises:
        ValueError: If `maximum` is not positive and finite.
    """
    if not (np.isfinite(maximum) and maximum > 0):
        raise ValueError(f"The range of a tensor must be positive and finite, got {maximum}.")
    return ceil_log2(maximum) - (bits - int(signed))


def ceil_log2(x: float) -> int:
    """The exact `ceil(log2(x))` of a positive float."""
    mantissa, exponent = np.frexp(np.float64(x))
    return int(exponent) - int(mantissa == 0.5)


# Steps per standard deviation: `step = constant * std / 2**bits`, then rounded up to a power of
# two. 4 bits is the paper's constant (3.1.1, footnote 4), 8 bits is the best for Gaussian weights,
# the others interpolate the same optimum
# (`tests/test_fixed_point.py::test_clip_constants_are_near_the_gaussian_optimum` recomputes it).
KERNEL_CLIP_STDS = {2: 3.5, 3: 3.85, 4: 4.12, 5: 4.95, 6: 5.45, 7: 6.15, 8: 6.5}

# Far below any network. TensorFlow takes subnormal float32 weights for zero, so numpy has to.
MIN_KERNEL_EXPONENT = -100
_SMALLEST_WEIGHT = float(np.finfo(np.float32).smallest_normal)


def kernel_exponent(kernel: npt.NDArray[np.floating], bits: int, clip_stds: float) -> int:
    """The exponent of a weight tensor, recomputed in every training step (paper section 3.1.1).

    The tensor is clipped to a range of `clip_stds` standard deviations in total, the range divided
    into `2**bits` bins, and the bin rounded up to a power of two. A constant tensor has no
    deviation: its largest magnitude takes the place of half the range. A tensor of zeros, subnormal
    numbers or NaN gets exponent 0, no other one less than `MIN_KERNEL_EXPONENT`.

    Args:
        kernel: Float weights of any shape.
        bits: Precision of the codes.
        clip_stds: The paper's constant (`KERNEL_CLIP_STDS`).
    """
    kernel = np.asarray(kernel, np.float64)
    deviation = np.sqrt(np.mean(np.square(kernel - np.mean(kernel))))
    largest = np.max(np.abs(kernel))
    if not largest >= _SMALLEST_WEIGHT:
        return 0
    step = clip_stds * deviation / 2**bits
    if deviation <= largest * 1e-6:
        step = largest / code_range(bits, signed=True)[1]
    return max(ceil_log2(step), MIN_KERNEL_EXPONENT)


# ---------------------------------------------------------------------------- TensorFlow twins


def tf_power_of_two(exponent: int | tf.Tensor, dtype: Any = tf.float32) -> tf.Tensor:
    """The exact `2**exponent`; `tf.pow` and `tf.exp` do not promise exact powers."""
    if isinstance(exponent, int):
        return tf.constant(2.0**exponent, dtype)
    bias, mantissa_bits = 127, 23
    bits = tf.bitwise.left_shift(tf.cast(exponent, tf.int32) + bias, mantissa_bits)
    return tf.cast(tf.bitcast(bits, tf.float32), dtype)


def tf_ceil_log2(x: tf.Tensor) -> tf.Tensor:
    """`ceil_log2` as TensorFlow ops, read off the bits of a positive float: an int32 scalar."""
    bits = tf.bitcast(tf.cast(x, tf.float64), tf.int64)
    exponent = tf.bitwise.right_shift(bits, tf.constant(52, tf.int64)) - 1023
    has_fraction = tf.not_equal(tf.bitwise.bitwise_and(bits, tf.constant(2**52 - 1, tf.int64)), 0)
    return tf.cast(exponent, tf.int32) + tf.cast(has_fraction, tf.int32)


def tf_kernel_exponent(kernel: tf.Tensor, bits: int, clip_stds: float) -> tf.Tensor:
    """`kernel_exponent` as TensorFlow ops: an int32 scalar, no gradient."""
    kernel = tf.cast(tf.stop_gradient(kernel), tf.float64)
    deviation = tf.math.reduce_std(kernel)
    largest = tf.reduce_max(tf.abs(kernel))
    spread = clip_stds * deviation / 2**bits
    peak = largest / code_range(bits, signed=True)[1]
    step = tf.where(deviation <= largest * 1e-6, peak, spread)
    exponent = tf.maximum(tf_ceil_log2(step), MIN_KERNEL_EXPONENT)
    return tf.where(largest >= _SMALLEST_WEIGHT, exponent, 0)


def tf_round_codes(x: tf.Tensor, rounding: str = HALF_EVEN) -> tf.Tensor:
    """`round_codes` as TensorFlow ops (no gradient of its own)."""
    if rounding == HALF_EVEN:
        return tf.round(x)
    if rounding == HALF_UP:
        return _tf_floor_plus_half(x)
    if rounding == HALF_AWAY:
        return tf.sign(x) * _tf_floor_plus_half(tf.abs(x))
    raise ValueError(f"Unknown rounding {rounding!r}; expected one of {ROUNDINGS}.")


def _tf_floor_plus_half(x: tf.Tensor) -> tf.Tensor:
    whole = tf.floor(x)
    return whole + tf.cast(x - whole >= 0.5, x.dtype)


def tf_quantize(
    x: tf.Tensor,
    exponent: int | tf.Tensor,
    lowest: int,
    highest: int,
    rounding: str = HALF_EVEN,
) -> tf.Tensor:
    """Q_{b,l} with the straight-through estimator (paper section 3.3).

    The forward value is the quantized one; the gradient is passed inside the clip range and is zero
    outside. One `custom_gradient` replaces the ReLU, the clip and the rounding: their separate
    gradients cost 2.3 times the time.

    Args:
        x: Float tensor of any shape.
        exponent: `l`, a Python int (activations) or an int32 scalar (weights, recomputed in every
            step).
        lowest: Smallest code; 0 makes this a quantized ReLU.
        highest: Largest code.
        rounding: Where exact halves go.

    Returns:
        A tensor like `x` whose values are `code * 2**exponent`.
    """
    x = tf.convert_to_tensor(x)
    step = tf_power_of_two(exponent, x.dtype)
    inverse = tf_power_of_two(-exponent, x.dtype)

    @tf.custom_gradient
    def straight_through(inputs: tf.Tensor) -> tuple[tf.Tensor, Any]:
        clipped = tf.clip_by_value(inputs * inverse, float(lowest), float(highest))

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            scaled = inputs * inverse
            inside = tf.logical_and(
                scaled > lowest if lowest == 0 else scaled >= lowest, scaled <= highest
            )
            return tf.where(inside, upstream, tf.zeros_like(upstream))

        return tf_round_codes(clipped, rounding) * step, gradient

    return straight_through(x)


def tf_quantize_training(x: tf.Tensor, exponent: int, lowest: int, highest: int) -> tf.Tensor:
    """`tf_quantize` for training: one fused op forward, one backward.

    `tf.quantization.fake_quant_*` rounds halves up. Behind a batch normalization with batch
    statistics there are no exact halves, so only inference has to round as the device does. Ranges
    that the fused op does not have (a limit inside them) and logits take `tf_quantize`.

    Args:
        x: Float tensor of any shape.
        exponent: `l`.
        lowest: Smallest code; 0 makes this a quantized ReLU.
        highest: Largest code.
    """
    bits = (highest - lowest).bit_length()
    if highest - lowest != 2**bits - 1 or bits > 8:
        return tf_quantize(x, exponent, lowest, highest, HALF_UP)
    return tf.quantization.fake_quant_with_min_max_args(
        x, min=lowest * 2.0**exponent, max=highest * 2.0**exponent, num_bits=bits
    )


def tf_straight_through(x: tf.Tensor, quantized: tf.Tensor) -> tf.Tensor:
    """Exactly `quantized`, with the gradient of `x` (`x + (quantized - x)` would round)."""

    @tf.custom_gradient
    def replace(inputs: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return tf.cast(quantized, inputs.dtype), lambda upstream: upstream

    return replace(tf.convert_to_tensor(x))
