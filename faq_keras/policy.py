"""Policy: the rules that fill a plan, and the bits of each layer (paper sections 2.1, 3.1, 3.2).

A network quantized to `b` bits keeps its first and last weights at 8 bits; the last ReLU, which
feeds the last layer, has 8; branches into an addition are linear and get 8 signed bits; a pooled
tensor gets an exponent of its own. First and last are found by following the graph, not by the
position in a list.

    policy = Policy(overrides={"block3_.*": 8, "conv5": (4, 8)})
    q = faq_keras.apply(model, bits=4, calibration_data=ds, policy=policy)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from faq_keras.graph import JOINING_KINDS, Graph
from faq_keras.graph_roles import (
    common_grids,
    first_layers,
    is_logits,
    last_activations,
    last_layers,
)
from faq_keras.plan import PlanSettings
from faq_keras.policy_fields import (
    check_bits,
    check_bn_exponent,
    check_clip_reading,
    check_clip_stds,
    check_overrides,
    check_scales,
)

# Their range is that of the tensors whose grid they share.
_UNMEASURED_KINDS = (*JOINING_KINDS, "requantize")

Bits = int | tuple[int | None, int | None]


@dataclasses.dataclass(frozen=True)
class Policy:
    """The rules by which a plan is made; the defaults are the best network of the same deployment.

    Attributes:
        scales: "fitted": exponents of least squared error, and a real scale per channel of a
            convolution's weights, which its multiplier takes back; "paper": the rules of sections
            3.1 and 3.2 (`clip_stds`, percentiles rounded up to a power of two).
        first_last_bits: Bits of the first and the last layers' weights and of the last ReLU's
            output.
        overrides: Bits by layer name or regular expression (the whole name must match): an int for
            weights and activations, or `(weight_bits, activation_bits)`, of which one may be None:
            what the other rules say. They win over every other rule; the last match counts.
        bn_exponent: "per_channel" (each channel's multiplier has all its 8 bits), "calibrated" (one
            per layer, from the largest pretrained multiplier), "paper" (-4, section 3.1.1, which
            rounds multipliers below 1/32 to zero), or a fixed exponent for all.
        clip_stds: Constant `c` of section 3.1.1 per weight bit width, as the total range in
            standard deviations. Weights of the widths given follow this rule whatever `scales`
            says; with "paper" the others have `fixed_point.KERNEL_CLIP_STDS`.
        clip_reading: "total" range of `c` standard deviations, or "plus_minus" `c` of them (the
            step doubles).
    """

    scales: str = "fitted"
    first_last_bits: int = 8
    overrides: Mapping[str, Bits] = dataclasses.field(default_factory=dict)
    bn_exponent: str | int = "per_channel"
    clip_stds: Mapping[int, float] = dataclasses.field(default_factory=dict)
    clip_reading: str = "total"

    def __post_init__(self) -> None:
        check_scales(self.scales)
        check_bits(self.first_last_bits, "first_last_bits")
        check_overrides(self.overrides)
        check_bn_exponent(self.bn_exponent)
        check_clip_stds(self.clip_stds)
        check_clip_reading(self.clip_reading)


@dataclasses.dataclass(frozen=True)
class LayerBits:
    """The bits of one layer: weights, and output if it is a ReLU's."""

    weights: int
    activations: int


def layer_bits(graph: Graph, settings: PlanSettings, policy: Policy) -> dict[str, LayerBits]:
    """The bits of every quantized node.

    Raises:
        ValueError: If an override matches no layer.
    """
    ends = first_layers(graph) | last_layers(graph)
    wide = last_activations(graph)
    edge = int(policy.first_last_bits)
    bits = {
        node.name: LayerBits(
            edge if node.name in ends else settings.weight_bits,
            edge if node.name in wide else settings.activation_bits,
        )
        for node in graph.quantized_nodes
        if node.kind != "input"
    }
    for pattern, value in policy.overrides.items():
        names = [name for name in bits if re.fullmatch(pattern, name)]
        if not names:
            raise ValueError(
                f"The policy override '{pattern}' matches no quantized layer; there are: "
                f"{', '.join(bits)}."
            )
        bits.update({name: _overridden(bits[name], value) for name in names})
    for grid in set(common_grids(graph).values()):
        unsigned = [name for name in grid if not graph.is_signed(graph[name])]
        most = max((bits[name].activations for name in unsigned), default=0)
        for name in unsigned:
            bits[name] = dataclasses.replace(bits[name], activations=most)
    return bits


def _overridden(bits: LayerBits, override: Bits) -> LayerBits:
    weights, activations = (
        (override, override) if isinstance(override, (int, np.integer)) else override
    )
    return LayerBits(
        bits.weights if weights is None else int(weights),
        bits.activations if activations is None else int(activations),
    )


def percentiles(
    graph: Graph, bits: Mapping[str, LayerBits], percentile: float | None
) -> dict[str, float]:
    """The calibration percentile of every tensor to measure.

    None means the paper's choice per tensor: 99.9 below 8 bits, else 99.99. The input and the
    logits are measured to their maximum: cutting off the largest logit changes the prediction.
    """
    chosen = {}
    for node in graph.quantized_nodes:
        if node.kind in _UNMEASURED_KINDS:
            continue
        if node.kind == "input" or is_logits(graph, node):
            chosen[node.name] = 100.0
        elif percentile is not None:
            chosen[node.name] = percentile
        else:
            narrow = node.activation is not None and bits[node.name].activations < 8
            chosen[node.name] = 99.9 if narrow else 99.99
    return chosen


# Their range is that of the tensors whose grid they share.
_UNMEASURED_KINDS = (*JOINING_KINDS, "requantize")
