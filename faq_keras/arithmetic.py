"""The arithmetic of the quantized layers, in pure TensorFlow ops.

The one idea: values are floats, but every float is a small integer times a power of two, so the
float operations below are exact and equal the integer operations of the device: `(conv(x, w) + b) *
c`, with `b` on the grid of the convolution's accumulator and `c` an 8-bit multiplier, then one
rounding. While training, the batch normalization uses batch statistics (fused op) on the
convolution of the quantized weights; in inference it is folded into `b` and `c`.

    folded = fold(config, kernel, bias, batch_norm, channel_shape=(out,))
    y = (convolve(x, folded.kernel) + folded.bias) * folded.multiplier     # exact in float32
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from faq_keras import fixed_point, synchronized
from faq_keras.plan import TensorSpec
from faq_keras.quantize_configs import AffineQuantizeConfig, KernelQuantizeConfig

# Accumulator steps: far from the 2^31 at which accumulators overflow.
_LARGEST_BIAS = 2.0**23


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """A batch normalization; gamma and beta are None with `scale=False`, `center=False`."""

    gamma: Any
    beta: Any
    mean: Any
    variance: Any
    epsilon: float


@dataclasses.dataclass(frozen=True)
class Folded:
    """The constants of one integer op, as float tensors whose values lie on their grids.

    Attributes:
        kernel: Quantized weights, in the layer's layout; zero for channels whose multiplier rounds
            to zero.
        kernel_exponent: int32 scalar.
        bias: `[channels]`, on the accumulator grid; None if the layer adds nothing.
        multiplier: `[channels]`, never zero; None without batch normalization.
    """

    kernel: tf.Tensor
    kernel_exponent: tf.Tensor
    bias: tf.Tensor | None
    multiplier: tf.Tensor | None


def fold(
    config: KernelQuantizeConfig,
    kernel: Any,
    bias: Any,
    batch_norm: BatchNorm | None,
    channel_shape: tuple[int, ...],
) -> Folded:
    """Quantizes a layer's constants in the form `y = (conv + b) * c`.

    The channel arithmetic is done in float64, so that the few operations before each rounding give
    the same code in every graph optimization, on every device. A channel whose multiplier rounds to
    zero is a constant: its weights become zero, its multiplier one step, and its bias the batch
    normalization's beta. So is a channel with a multiplier below the layer's step whose beta is
    more than 2^23 accumulator steps: it drowns the convolution, and might overflow the sum.

    Args:
        config: Quantizers of the layer.
        kernel: Float weights; the last axes hold the output channels.
        bias: `[channels]` or None.
        batch_norm: The normalization after the convolution, or None. A layer without one has a
            multiplier, too, if the kernel's channels are scaled.
        channel_shape: Sizes of those last axes: `(out,)`, or `(in, depth multiplier)` for a
            depthwise kernel.
    """
    exponent = config.kernel_quantizer.exponent(kernel)
    quantized = config.kernel_quantizer.quantize_scaled(kernel, exponent)
    grid = config.input_specs[0].exponent + exponent
    if config.multiplier_quantizer is None:
        if bias is None:
            return Folded(quantized, exponent, None, None)
        return Folded(quantized, exponent, _on_grid(config, bias, grid), None)

    scale, shift, mean = _scaled_affine(config, bias, batch_norm, math.prod(channel_shape))
    multiplier = config.multiplier_quantizer(scale)
    step = tf.constant(2.0**config.multiplier_quantizer.spec.exponent, tf.float64)
    magnitude = tf.abs(multiplier)
    reach = _LARGEST_BIAS * fixed_point.tf_power_of_two(grid, tf.float64)
    drowned = tf.logical_and(tf.abs(shift) > magnitude * reach, magnitude < step / 2)
    dead = tf.logical_or(tf.equal(multiplier, 0.0), drowned)
    multiplier = tf.where(dead, step, multiplier)
    offset = shift / multiplier - tf.where(dead, tf.zeros_like(mean), mean)
    alive = tf.reshape(tf.cast(tf.logical_not(dead), quantized.dtype), channel_shape)
    return Folded(
        quantized * alive,
        exponent,
        _on_grid(config, offset, grid),
        tf.cast(multiplier, tf.float32),
    )


def fold_affine(
    config: AffineQuantizeConfig, batch_norm: BatchNorm | None, channels: int
) -> Folded:
    """A batch normalization that stands alone as a depthwise kernel: `y = x * c + b`.

    There is no convolution whose accumulator it could share, so the codes of the multipliers are
    the weights, their steps the scales, and the bias lies on the input's grid within them. A
    channel whose multiplier rounds to zero is the constant beta.

    Args:
        config: Quantizers of the layer.
        batch_norm: The normalization; None multiplies by one, for a ReLU that stands alone.
        channels: Number of channels.
    """
    if batch_norm is None:
        return Folded(tf.ones([1, 1, channels, 1]), tf.constant(0), None, None)
    assert config.multiplier_quantizer is not None
    scale, shift = _affine(batch_norm)
    exponent = config.multiplier_quantizer.exponent(scale)
    step = fixed_point.tf_power_of_two(exponent, tf.float64)
    multiplier = config.multiplier_quantizer(scale, exponent=exponent)
    offset = shift - multiplier * tf.cast(batch_norm.mean, tf.float64)
    bias = _on_grid(config, offset / step, tf.constant(config.input_specs[0].exponent))
    kernel = tf.reshape(tf.cast(multiplier / step, tf.float32), [1, 1, channels, 1])
    return Folded(kernel, tf.constant(0), bias, tf.cast(step, tf.float32))


def _scaled_affine(
    config: KernelQuantizeConfig, bias: Any, batch_norm: BatchNorm | None, channels: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`y = scale * (x - mean) + shift` in float64, where x is the sum of the *scaled* kernel."""
    if batch_norm is None:
        scale = tf.ones([channels], tf.float64)
        shift = mean = tf.zeros([channels], tf.float64)
    else:
        scale, shift = _affine(batch_norm)
        mean = tf.cast(batch_norm.mean, tf.float64)
    if bias is not None:
        mean = mean - tf.cast(bias, tf.float64)
    if config.kernel_quantizer.spec.channel_scales is not None:
        factors = tf.constant(config.kernel_quantizer.spec.channel_scales, tf.float64)
        scale, mean = scale / factors, mean * factors
    return scale, shift, mean


def _affine(batch_norm: BatchNorm) -> tuple[tf.Tensor, tf.Tensor]:
    """`y = scale * (x - mean) + shift` in float64."""
    scale = tf.math.rsqrt(tf.cast(batch_norm.variance, tf.float64) + batch_norm.epsilon)
    if batch_norm.gamma is not None:
        scale = scale * tf.cast(batch_norm.gamma, tf.float64)
    if batch_norm.beta is None:
        return scale, tf.zeros_like(scale)
    return scale, tf.cast(batch_norm.beta, tf.float64)


def _on_grid(config: AffineQuantizeConfig, bias: Any, grid: tf.Tensor) -> tf.Tensor:
    """The bias on the accumulator grid, as float32: the integer bias is made from these values."""
    return tf.cast(config.bias_quantizer(tf.cast(bias, tf.float64), exponent=grid), tf.float32)


def apply_folded(accumulator: tf.Tensor, folded: Folded) -> tf.Tensor:
    """`(accumulator + b) * c`, in the order of the integer kernel."""
    if folded.bias is not None:
        accumulator = accumulator + folded.bias
    return accumulator if folded.multiplier is None else accumulator * folded.multiplier


def batch_normalize(x: tf.Tensor, batch_norm: BatchNorm) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Batch normalization with the batch's statistics, by the fused kernel.

    In a step of several replicas (`tf.distribute`) these are the statistics of the whole batch.

    Args:
        x: `[batch, height, width, channels]` or `[batch, channels]`.
        batch_norm: gamma, beta and epsilon are used.

    Returns:
        The normalized tensor, the batch mean and the (unbiased) batch variance, `[channels]` each.
    """
    channels = x.shape[-1]
    gamma = (
        tf.ones([channels]) if batch_norm.gamma is None else tf.cast(batch_norm.gamma, "float32")
    )
    beta = tf.zeros([channels]) if batch_norm.beta is None else tf.cast(batch_norm.beta, "float32")
    image = x if x.shape.rank == 4 else x[:, None, None, :]
    if synchronized.replicas() > 1:
        y, mean, variance = synchronized.batch_normalize(image, gamma, beta, batch_norm.epsilon)
    else:
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            image, gamma, beta, epsilon=batch_norm.epsilon, is_training=True
        )
    return y if x.shape.rank == 4 else y[:, 0, 0, :], mean, variance


# TensorFlow's own CPU kernel has no groups; XLA's has.
@tf.function(jit_compile=True)
def grouped_conv2d(
    x: tf.Tensor, kernel: tf.Tensor, strides: Any, padding: str, dilations: Any
) -> tf.Tensor:
    """`tf.nn.conv2d` for a kernel `[height, width, in / groups, out]`."""
    return tf.nn.conv2d(x, kernel, strides, padding, dilations=dilations)


def global_average(x: tf.Tensor) -> tf.Tensor:
    """The mean over height and width: an exact sum, then one multiplication.

    Args:
        x: `[batch, height, width, channels]`, static height and width.

    Returns:
        `[batch, 1, 1, channels]`, not rounded to a grid yet.
    """
    area = x.shape[1] * x.shape[2]
    return tf.reduce_sum(x, axis=[1, 2], keepdims=True) * np.float32(1.0 / area)


def average_pool(
    x: tf.Tensor, spec: TensorSpec, pool: tuple[int, int], strides: tuple[int, int], padding: str
) -> tf.Tensor:
    """TFLite's int8 AVERAGE_POOL_2D: the mean of the raw codes, rounded half away from zero.

    Because the raw code of a value depends on the zero point, so does the direction in which a half
    is rounded.

    Args:
        x: `[batch, height, width, channels]`, values on the grid of `spec`.
        spec: The tensor's plan; input and output share it.
        pool: Window (height, width).
        strides: Strides (height, width).
        padding: "same" (padding is not counted) or "valid".

    Returns:
        The pooled tensor on the same grid, with the gradient of the float average.
    """
    mean = tf.nn.avg_pool2d(x, pool, strides, padding.upper())
    count = _window_sizes(x.shape[1:3], pool, strides, padding)
    total = tf.round(tf.stop_gradient(mean) * (count / spec.step)) + count * spec.zero_point
    # In integers: graph optimizers may rewrite a float division, and then a half goes elsewhere.
    total, count = tf.cast(total, tf.int32), count.astype(np.int32)
    raw = tf.sign(total) * ((2 * tf.abs(total) + count) // (2 * count))
    codes = tf.cast(raw - spec.zero_point, x.dtype)
    return fixed_point.tf_straight_through(mean, codes * spec.step)


def _window_sizes(
    size: tuple[int, int], pool: tuple[int, int], strides: tuple[int, int], padding: str
) -> np.ndarray:
    """How many real pixels each window covers: `[1, height, width, 1]` float32."""
    counts = []
    for length, window, stride in zip(size, pool, strides, strict=True):
        if padding == "valid":
            counts.append(np.full((length - window) // stride + 1, window))
            continue
        outputs = -(-length // stride)
        before = max((outputs - 1) * stride + window - length, 0) // 2
        starts = np.arange(outputs) * stride - before
        counts.append(np.minimum(starts + window, length) - np.maximum(starts, 0))
    return np.outer(*counts)[None, :, :, None].astype(np.float32)
