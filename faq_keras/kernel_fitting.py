"""What the plan says of a layer's weights: bits, exponent rule, channel scales, multipliers.

Policy's "paper" scales state the rule of section 3.1.1. "fitted" ones choose the exponent of least
squared error, and give each channel of a convolution a real step of its own: its weights are stored
times a factor that the multiplier after the sum takes back. The rule stays the paper's, with the
constant that makes it give the fitted exponent, in the middle of a power of two: the exponent
follows the weights while they train.

    weights = weights_plan(graph["conv1"], bits=4, policy=Policy())
    weights.kernel, weights.multiplier, weights.fit
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.fitting import channel_error, channel_steps, fit_kernel
from faq_keras.fixed_point import KERNEL_CLIP_STDS, kernel_exponent, range_exponent
from faq_keras.graph import Node
from faq_keras.plan_parts import EXPONENTS, Fit, KernelSpec, MultiplierSpec
from faq_keras.policy import Policy
from faq_keras.quantizers import MultiplierQuantizer

Array = npt.NDArray[np.float64]

# Their multipliers are in the file per channel anyway, so a scale per channel is free.
SCALED_KINDS = ("conv", "depthwise")
_MULTIPLIER_BITS = 8  # paper section 2.1
# Multipliers down to 2^-8 of the largest one keep all their bits. With one step for all channels,
# EfficientNet-Lite0 falls to 8 % top-1 before fine-tuning, with this to 56 %.
_FINER_STEPS = 8
# Channels that contribute less than this share of the largest one do not take part in the search of
# a common exponent: pruned or dead, their own steps are arbitrary.
_LIVE = 1e-3
_DIGITS = 5  # of a channel scale: far finer than an 8-bit multiplier, and a plan stays readable


@dataclasses.dataclass(frozen=True)
class WeightsPlan:
    """The weights' part of a layer's plan; all None for a layer without weights."""

    kernel: KernelSpec | None = None
    multiplier: MultiplierSpec | None = None
    fit: Fit | None = None


def weights_plan(node: Node, bits: int, policy: Policy) -> WeightsPlan:
    """What the plan says of a node's weights and multipliers.

    Args:
        node: A node of the float network.
        bits: Precision of the weights, if it has any.
        policy: Its `scales`, `clip_stds` and `bn_exponent` count.

    Raises:
        ValueError: If the multipliers of a batch normalization are all zero, not finite, or too
            large or small for integer kernels.
    """
    gains = _gains(node)
    if not node.has_kernel:
        return WeightsPlan(multiplier=_multiplier(node, gains, policy))
    if policy.scales == "paper" or bits in policy.clip_stds or node.is_custom:
        return WeightsPlan(_by_rule(bits, policy), _multiplier(node, gains, policy))
    kernel = np.asarray(node.layers[0].kernel)
    matrix = kernel.reshape(-1, _channels(node, kernel))
    fit = _checked_fit(matrix, bits)
    if node.kind in SCALED_KINDS:
        scaled = _scaled(node, matrix, gains, bits, policy, fit)
        if scaled is not None:
            return scaled
    if fit is None:
        return WeightsPlan(_by_rule(bits, policy), _multiplier(node, gains, policy))
    spec = KernelSpec(bits, _clip_stds(matrix, bits, fit.chosen))
    return WeightsPlan(spec, _multiplier(node, gains, policy), fit)


def _by_rule(bits: int, policy: Policy) -> KernelSpec:
    factor = 2.0 if policy.clip_reading == "plus_minus" else 1.0
    return KernelSpec(bits, factor * float({**KERNEL_CLIP_STDS, **policy.clip_stds}[bits]))


def _channels(node: Node, kernel: npt.NDArray[Any]) -> int:
    return math.prod(kernel.shape[-2:]) if node.kind == "depthwise" else kernel.shape[-1]


def _gains(node: Node) -> Array | None:
    """What the batch normalization multiplies each channel by, or None."""
    layer = node.batch_norm
    if layer is None:
        return None
    gains = 1.0 / np.sqrt(np.asarray(layer.moving_variance, np.float64) + layer.epsilon)
    return gains * np.asarray(layer.gamma, np.float64) if layer.scale else gains


def _clip_stds(weights: npt.NDArray[np.floating], bits: int, exponent: int) -> float:
    """The constant that puts the paper's rule in the middle of the exponent's power of two."""
    return float(2.0 ** (bits + exponent - 0.5) / np.std(np.asarray(weights, np.float64)))


def _keeps(weights: npt.NDArray[np.floating], bits: int, exponent: int) -> bool:
    """Whether the rule can give an exponent: not for constant weights, nor for very small ones."""
    if not np.std(np.asarray(weights, np.float64)) > 0:
        return False
    return kernel_exponent(weights, bits, _clip_stds(weights, bits, exponent)) == exponent


def _checked_fit(matrix: npt.NDArray[np.floating], bits: int) -> Fit | None:
    """The fit of one exponent for all channels, where the rule can give it."""
    if not (np.isfinite(matrix).all() and np.any(matrix)):
        return None
    fit = fit_kernel(matrix, bits)
    return fit if _keeps(matrix, bits, fit.chosen) else None


def _scaled(
    node: Node,
    matrix: npt.NDArray[np.floating],
    gains: Array | None,
    bits: int,
    policy: Policy,
    fit: Fit | None,
) -> WeightsPlan | None:
    """The plan with a scale per channel, or None where that gains nothing or has no step."""
    if fit is None:
        return None
    steps = channel_steps(matrix, bits)
    reach = np.max(np.abs(matrix), axis=0) * (1.0 if gains is None else np.abs(gains))
    live = (reach > _LIVE * np.max(reach)) & (steps > 0)
    if not live.any():
        return None
    exponent = int(np.rint(np.mean(np.log2(steps[live]))))
    scales = np.where(live, 2.0**exponent / np.where(live, steps, 1.0), 1.0)
    gains = np.ones_like(scales) if gains is None else gains
    multiplier = _multiplier(node, gains / scales, policy)
    assert multiplier is not None
    multiplier = dataclasses.replace(multiplier, constant=node.batch_norm is None)
    quantized = np.asarray(MultiplierQuantizer(multiplier)(tf.constant(gains / scales)))
    # The scale that makes the multiplier a code: its own rounding error vanishes.
    exact = live & (quantized != 0)
    scales[exact] = np.abs(gains[exact] / quantized[exact])
    channel_scales = tuple(float(f"{scale:.{_DIGITS}g}") for scale in scales)
    stored = np.asarray(matrix, np.float32) * np.asarray(channel_scales, np.float32)
    alive = matrix[:, live]
    error = channel_error(alive, np.array(channel_scales)[live], bits, 2.0**exponent)
    common = channel_error(alive, np.ones(alive.shape[1]), bits, 2.0**fit.chosen)
    # Scaled, a batch normalization's multipliers need no rounding; a layer without one has none.
    worth_it = node.batch_norm is not None or error < common
    if not (worth_it and _keeps(stored, bits, exponent)):
        return None
    spec = KernelSpec(bits, _clip_stds(stored, bits, exponent), channel_scales)
    chosen = dataclasses.replace(fit, chosen=exponent, channel_error=float(f"{error:.4g}"))
    return WeightsPlan(spec, multiplier, chosen)


def _multiplier(node: Node, scale: Array | None, policy: Policy) -> MultiplierSpec | None:
    """The steps of a layer's multipliers, by their pretrained values and the policy."""
    if scale is None:
        return None
    bits = _MULTIPLIER_BITS
    if policy.bn_exponent == "paper":
        return MultiplierSpec(bits, -bits // 2)
    if isinstance(policy.bn_exponent, int):
        return MultiplierSpec(bits, policy.bn_exponent)
    name = (node.batch_norm or node.layers[0]).name
    largest = float(np.max(np.abs(scale)))
    if not (np.isfinite(largest) and largest > 0):
        raise ValueError(
            f"Layer '{name}' (BatchNormalization) has only zero or non-finite multipliers "
            f"(largest: {largest}): its output is constant. Check the pretrained weights."
        )
    exponent = range_exponent(largest, bits, signed=True)
    if exponent not in EXPONENTS:
        raise ValueError(
            f"Layer '{name}' (BatchNormalization) has multipliers of up to {largest:g}: their "
            f"exponent {exponent} is out of the range [{EXPONENTS[0]}, {EXPONENTS[-1]}] that "
            "integer kernels can compute with. Check the pretrained weights."
        )
    finer = _FINER_STEPS if policy.bn_exponent == "per_channel" else 0
    return MultiplierSpec(bits, exponent, finer)
