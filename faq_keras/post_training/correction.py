"""The correction of one layer: its kernel's codes, and the constant that sets its means.

A layer's inputs are those that the corrected layers before it give. `correct` changes the layer and
returns what it changed as a `Solution`, which `Solution.apply` can do again without the images:

    solution = correct(step, inputs, statistics, Options(rounding=True, means=True))
    solution.apply(step.layer)

A shift `t` of a layer's output before the ReLU is one of its batch normalization's moving mean,
`-t / (s * c)`: `c` is the quantized multiplier and `s` the scale of the kernel's channel. Without a
batch normalization the bias is shifted instead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras import arithmetic
from faq_keras.fixed_point import code_range
from faq_keras.post_training.means import relu_shift, shrunk_mean
from faq_keras.post_training.network import Step
from faq_keras.post_training.rounding import Gram, round_kernel
from faq_keras.post_training.rows import Window, gather_rows, sample_positions
from faq_keras.post_training.teacher import Statistics, image_means

IMAGES_PER_CLASS = 20  # fewer write their own classes into the logits
_ROWS, _DEPTHWISE_ROWS = 12_000, 3_000  # windows that a kernel's inputs are judged by, at least
_RELU_ROWS = 8_000
_INSIDE = 0.45  # of a step: how far from its code a weight may be kept

# Gives the layer's inputs as codes, batch by batch: (first image, codes).
Inputs = Callable[[], Iterator[tuple[int, npt.NDArray[Any]]]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What to correct: the codes of kernels below 8 bits, and channel means."""

    rounding: bool = True
    means: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """What was changed in a layer.

    Attributes:
        kernel: The new float kernel, or None.
        constant: The new moving mean or bias, or None.
        skipped: Why something was left as it was, or None.
    """

    kernel: npt.NDArray[np.float32] | None = None
    constant: npt.NDArray[np.float32] | None = None
    skipped: str | None = None

    def apply(self, layer: Any) -> None:
        """Makes the same changes in a layer."""
        if self.kernel is not None:
            layer.kernel.assign(self.kernel)
        if self.constant is not None:
            variable = constant_of(layer)
            assert variable is not None
            variable.assign(self.constant)


def constant_of(layer: Any) -> Any:
    """The variable that shifts a layer's channels: moving mean or bias; None if it has neither."""
    if layer.batch_norm_layer is not None:
        return layer.batch_norm_layer.moving_mean
    kernel_layer = getattr(layer, "kernel_layer", None)
    return kernel_layer.bias if kernel_layer is not None and kernel_layer.use_bias else None


def correct(step: Step, inputs: Inputs, statistics: Statistics, options: Options) -> Solution:
    """Corrects a layer with constants, in place.

    Args:
        step: The layer.
        inputs: Its quantized inputs.
        statistics: What the teacher computes in its place.
        options: What to do.
    """
    layer, notes = step.layer, []
    images = len(statistics.sample)
    kernel = constant = None
    if options.rounding and step.has_kernel and layer.plan.kernel.bits < 8:
        kernel = _round(step, inputs, images)
        if kernel is None:
            notes.append("rounding: the kernel's step would change")
    if options.means:
        reason = _why_no_means(step, images)
        if reason:
            notes.append(f"means: {reason}")
        else:
            constant = _shift_means(step, inputs, statistics)
    return Solution(kernel, constant, "; ".join(notes) or None)


def _why_no_means(step: Step, images: int) -> str | None:
    if constant_of(step.layer) is None:
        return "there is no bias or batch normalization"
    classes = step.shape[-1] or 1
    if step.logits and images < IMAGES_PER_CLASS * classes:
        return f"logits, {images} images are fewer than {IMAGES_PER_CLASS} for each of {classes}"
    return None


# ---------------------------------------------------------------------------- rounding


def _round(step: Step, inputs: Inputs, images: int) -> npt.NDArray[np.float32] | None:
    """Gives the layer the kernel with the best codes; None, and no change, if it cannot have it."""
    layer = step.layer
    original = layer.kernel.numpy()
    scales = kernel_scales(layer)
    exponent = int(layer.fold().kernel_exponent)
    weights = (original * scales).astype(np.float64) / 2.0**exponent
    matrices = to_matrices(weights, layer)
    gram = _gram(step, inputs, images, matrices.shape[:2])
    bits = layer.plan.kernel.bits
    codes = from_matrices(round_kernel(matrices, gram, bits), layer, weights.shape)
    # The rule derives the step from the weights, so they must not only have the right codes. If the
    # codes themselves do not keep it, weights that stay where they were within their code may.
    for candidate in (codes, _within_cells(weights, codes, code_range(bits, signed=True)[1])):
        kernel = (candidate * 2.0**exponent / scales).astype(np.float32)
        layer.kernel.assign(kernel)
        if _has_codes(layer, exponent, codes):
            return kernel
    layer.kernel.assign(original)
    return None


def kernel_scales(layer: Any) -> npt.NDArray[np.float32]:
    """What the quantizer multiplies the kernel by, broadcastable to it."""
    scales = getattr(layer, "kernel_scales", None)
    return np.ones(1, np.float32) if scales is None else np.asarray(scales, np.float32)


def _within_cells(
    weights: npt.NDArray[np.float64], codes: npt.NDArray[np.float64], highest: int
) -> npt.NDArray[np.float64]:
    """The weights, moved no further than into the cells of their new codes."""
    low = np.where(codes <= -highest, -np.inf, codes - _INSIDE)
    high = np.where(codes >= highest, np.inf, codes + _INSIDE)
    return np.clip(weights, low, high)


def _has_codes(layer: Any, exponent: int, codes: npt.NDArray[np.float64]) -> bool:
    """Whether the plan's rule gives these codes; channels that are constants have none."""
    folded = layer.fold()
    found = np.asarray(folded.kernel, np.float64) / 2.0**exponent
    alive = (~dead_channels(layer, folded)).reshape(layer.channel_shape)
    alive = np.broadcast_to(alive, codes.shape)
    same = np.array_equal(found[alive], codes[alive])
    return int(folded.kernel_exponent) == exponent and same


def _gram(step: Step, inputs: Inputs, images: int, shape: tuple[int, int]) -> Any:
    """The Gram matrix of a layer's inputs, `[groups, depth, depth]`."""
    layer, (groups, depth) = step.layer, shape
    is_depthwise = layer.plan.kind == "depthwise"
    wanted = max(_DEPTHWISE_ROWS if is_depthwise else _ROWS, 3 * depth)
    per_image = math.ceil(wanted / images)
    places = math.prod(size or 1 for size in step.shape[1:-1])
    positions = sample_positions(step.name, "rounding", images, places, per_image)
    gram = Gram(groups, depth)
    for start, codes in inputs():
        if codes.ndim == 2:
            gram.add(codes[:, None, :])
            continue
        chosen = positions[start : start + len(codes)]
        gram.add(gather_rows(codes, Window.of(layer.kernel_layer), chosen))
    return gram.matrix


def to_matrices(kernel: npt.NDArray[Any], layer: Any) -> npt.NDArray[Any]:
    """A kernel in its layer's layout as `[groups, depth, outputs]`."""
    if kernel.ndim == 2:
        return kernel[None]
    if layer.plan.kind == "depthwise":
        return kernel.reshape(-1, *kernel.shape[2:]).transpose(1, 0, 2)
    groups = layer.kernel_layer.groups
    depth = math.prod(kernel.shape[:3])
    return kernel.reshape(depth, groups, -1).transpose(1, 0, 2)


def from_matrices(
    matrices: npt.NDArray[Any], layer: Any, shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """The inverse of `to_matrices`."""
    return matrices.transpose(1, 0, 2).reshape(shape)


# ---------------------------------------------------------------------------- means


def _shift_means(
    step: Step, inputs: Inputs, statistics: Statistics
) -> npt.NDArray[np.float32] | None:
    """Shifts the layer's constant; gives its new value, or None if no channel can be shifted."""
    layer, images = step.layer, len(statistics.sample)
    folded = layer.fold()
    live = ~dead_channels(layer, folded)
    variable = constant_of(layer)
    if not live.any():
        return None
    found = _pre_activations(step, inputs, images, folded)
    assert statistics.means is not None
    shift = -shrunk_mean(np.asarray(found.means, np.float64) - statistics.means)
    _shift(layer, variable, folded, np.where(live, shift, 0.0))
    if step.has_relu:
        assert statistics.relu_means is not None
        limit = layer.plan.output.highest * layer.plan.output.step
        # The rows are a sample, and its mean is not quite that of all places.
        sampled = np.clip(found.rows, 0.0, limit).mean(axis=0, dtype=np.float64)
        target = statistics.relu_means + sampled - found.relu_means
        shifted = layer.fold()
        rows = found.rows + _difference(shifted, folded).astype(np.float32)
        _shift(layer, variable, shifted, np.where(live, relu_shift(rows, target, limit), 0.0))
    value: npt.NDArray[np.float32] = variable.numpy()
    return value


@dataclasses.dataclass(frozen=True, eq=False)
class _PreActivations:
    """What a quantized layer computes before it rounds and clips.

    Attributes:
        means: Per image, `[images, channels]`.
        relu_means: After the ReLU, `[channels]`.
        rows: At sampled places, `[rows, channels]`.
    """

    means: npt.NDArray[np.float32]
    relu_means: npt.NDArray[np.float64]
    rows: npt.NDArray[np.float32]


def _pre_activations(
    step: Step, inputs: Inputs, images: int, folded: arithmetic.Folded
) -> _PreActivations:
    scale, output = step.layer.input_specs[0].step, step.layer.plan.output
    places = math.prod(size or 1 for size in step.shape[1:-1])
    count = math.ceil(_RELU_ROWS / images)
    positions = sample_positions(step.name, "means", images, places, count)
    means, relu_means, rows = [], [], []
    for start, codes in inputs():
        value = step.before_relu(tf.cast(codes, tf.float32) * scale, folded)
        means.append(image_means(value).numpy())
        channels = value.shape[-1]
        flat = tf.reshape(value, [len(codes), places, channels])
        chosen = tf.gather(flat, positions[start : start + len(codes)], batch_dims=1)
        rows.append(tf.reshape(chosen, [-1, channels]).numpy())
        clipped = tf.clip_by_value(value, 0.0, output.highest * output.step)
        relu_means.append(image_means(clipped).numpy())
    after = np.concatenate(relu_means).mean(axis=0, dtype=np.float64)
    return _PreActivations(np.concatenate(means), after, np.concatenate(rows))


def dead_channels(layer: Any, folded: arithmetic.Folded) -> npt.NDArray[np.bool_]:
    """The channels whose multiplier vanished: constants, which nothing can shift, `[channels]`."""
    if layer.plan.kind == "affine":
        return np.asarray(folded.kernel).reshape(-1) == 0
    kernel = np.asarray(folded.kernel).reshape(-1, math.prod(layer.channel_shape))
    if folded.multiplier is None:
        return np.zeros(kernel.shape[1], bool)
    step = np.float32(2.0**layer.plan.multiplier.exponent)
    return ~kernel.any(axis=0) & (np.asarray(folded.multiplier) == step)


def _gains(layer: Any, folded: arithmetic.Folded) -> npt.NDArray[np.float64]:
    """By how much a layer's output grows with its bias, `[channels]`."""
    if layer.plan.kind == "affine":
        return np.asarray(folded.kernel, np.float64).reshape(-1) * np.asarray(folded.multiplier)
    scales = np.broadcast_to(kernel_scales(layer), np.shape(layer.kernel))
    gains = scales.reshape(-1, math.prod(layer.channel_shape))[0].astype(np.float64)
    return gains if folded.multiplier is None else gains * np.asarray(folded.multiplier)


def _shift(
    layer: Any, variable: Any, folded: arithmetic.Folded, shift: npt.NDArray[np.float64]
) -> None:
    """Adds to a layer's output before the ReLU, `[channels]`, by its constant."""
    sign = -1.0 if layer.batch_norm_layer is not None else 1.0
    zeros = np.zeros_like(shift)
    change = np.divide(sign * shift, _gains(layer, folded), out=zeros, where=shift != 0)
    variable.assign((variable.numpy().astype(np.float64) + change).astype(np.float32))


def _difference(after: arithmetic.Folded, before: arithmetic.Folded) -> npt.NDArray[np.float64]:
    """How much a change of the bias moves the output, `[channels]`."""
    assert after.bias is not None and before.bias is not None
    change = np.asarray(after.bias, np.float64) - np.asarray(before.bias, np.float64)
    return change if after.multiplier is None else change * np.asarray(after.multiplier)
