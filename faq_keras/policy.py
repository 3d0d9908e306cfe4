"""Policy: the rules that fill a plan (paper sections 2.1, 3.1 and 3.2).

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

from faq_keras.calibration import Range, widest
from faq_keras.fixed_point import (
    KERNEL_CLIP_STDS,
    ceil_log2,
    code_range,
    kernel_exponent,
    range_exponent,
)
from faq_keras.graph import JOINING_KINDS, Graph, Node
from faq_keras.graph_roles import (
    common_grids,
    first_layers,
    is_logits,
    last_activations,
    last_layers,
)
from faq_keras.plan import (
    EXPONENTS,
    KernelSpec,
    LayerPlan,
    MultiplierSpec,
    PlanSettings,
    QuantPlan,
    TensorSpec,
)
from faq_keras.policy_fields import (
    check_bits,
    check_bn_exponent,
    check_clip_reading,
    check_clip_stds,
    check_overrides,
)

# Multipliers down to 2^-8 of the largest one keep all their bits. With one step for all channels,
# EfficientNet-Lite0 falls to 8 % top-1 before fine-tuning, with this to 56 %.
_FINER_STEPS = 8
# Logits down to 2^-4 of the accumulator's step: its step moves while training, and kernels multiply
# accumulators by less than 2^8.
_FINER_LOGITS = 4

Bits = int | tuple[int | None, int | None]


@dataclasses.dataclass(frozen=True)
class Policy:
    """What may differ from the paper's defaults.

    Attributes:
        first_last_bits: Bits of the first and the last layers' weights and of the last ReLU's
            output.
        overrides: Bits by layer name or regular expression (the whole name must match): an int for
            weights and activations, or `(weight_bits, activation_bits)`, of which one may be None:
            what the other rules say. They win over every other rule; the last match counts.
        bn_exponent: "per_channel" (each channel's multiplier has all its 8 bits), "calibrated" (one
            per layer, from the largest pretrained multiplier), "paper" (-4, section 3.1.1, which
            rounds multipliers below 1/32 to zero), or a fixed exponent for all.
        clip_stds: Constant `c` of section 3.1.1 per weight bit width, as the total range in
            standard deviations; widths that are not given keep `fixed_point.KERNEL_CLIP_STDS`.
        clip_reading: "total" range of `c` standard deviations, or "plus_minus" `c` of them (the
            step doubles).
    """

    first_last_bits: int = 8
    overrides: Mapping[str, Bits] = dataclasses.field(default_factory=dict)
    bn_exponent: str | int = "per_channel"
    clip_stds: Mapping[int, float] = dataclasses.field(
        default_factory=lambda: dict(KERNEL_CLIP_STDS)
    )
    clip_reading: str = "total"

    def __post_init__(self) -> None:
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
    logits are measured to their
    maximum: cutting off the largest logit changes the prediction.
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


def make_plan(
    graph: Graph, ranges: Mapping[str, Range], settings: PlanSettings, policy: Policy
) -> QuantPlan:
    """Turns measured ranges into bits and exponents.

    Args:
        graph: The float network.
        ranges: What `calibrate` measured, for the nodes of `percentiles`.
        settings: Bits of the network.
        policy: Deviations from the defaults.

    Raises:
        ValueError: If a tensor is never positive (dead) or its values are too large or too small
            for integer kernels, or an override matches nothing.
    """
    bits = layer_bits(graph, settings, policy)
    _refuse_dead(graph, ranges)
    specs: dict[str, TensorSpec] = {}
    layers = []
    carriers = graph.carriers()
    measured = _grid_ranges(graph, ranges)
    for node in graph.quantized_nodes:
        sources = tuple(carriers[name] for name in node.inputs)
        kernel = _kernel(bits[node.name].weights, policy) if node.has_kernel else None
        if node.kind in JOINING_KINDS:
            specs[node.name] = joined([specs[name] for name in sources])
        else:
            unsigned = node.activation is not None or (
                node.kind == "global_pool" and not specs[sources[0]].signed
            )
            reach = measured[node.name]
            try:
                spec = _tensor(node, graph, reach, unsigned, bits, settings)
                if kernel is not None and is_logits(graph, node):
                    spec = _no_finer(spec, specs[sources[0]], node, kernel)
                specs[node.name] = spec
            except ValueError as error:
                raise ValueError(
                    f"{node.label} gives values of up to {_reach(reach):g} on the calibration "
                    f"data: {error} Check the pretrained weights, and that the data is "
                    "preprocessed as in training."
                ) from error
        layers.append(
            LayerPlan(
                name=node.name,
                kind=node.kind,
                inputs=sources,
                output=specs[node.name],
                kernel=kernel,
                multiplier=_multiplier(node, policy),
            )
        )
    return QuantPlan(settings, tuple(layers))


def _grid_ranges(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """The range of everything on a quantized node's grid; a requantized tensor counts as well."""
    carriers, grids = graph.carriers(), common_grids(graph)
    found = {}
    for node in graph.quantized_nodes:
        members = list(grids[node.name])
        moved = [graph[name] for name in members if graph[name].kind == "requantize"]
        members += [other for m in moved for other in grids[carriers[m.inputs[0]]]]
        found[node.name] = widest(ranges[name] for name in members if name in ranges)
    return found


def joined(specs: list[TensorSpec]) -> TensorSpec:
    """The grid that tensors share, and a limit only if all of them have one."""
    limits = [spec.limit for spec in specs if spec.limit is not None]
    limit = max(limits) if len(limits) == len(specs) else None
    return dataclasses.replace(specs[0], limit=limit)


def _refuse_dead(graph: Graph, ranges: Mapping[str, Range]) -> None:
    dead = [graph[name].label for name, measured in ranges.items() if _reach(measured) <= 0]
    if dead:
        raise ValueError(
            f"The output of these layers is zero on all of the calibration data (dead): "
            f"{', '.join(dead)}. Check that the data "
            "is preprocessed as in training, and the pretrained weights."
        )


def _reach(measured: Range) -> float:
    """The percentile, or the maximum where the tensor is so sparse that its percentile is zero."""
    return measured.high if measured.high > 0 else max(measured.maximum, -measured.minimum)


def _tensor(
    node: Node,
    graph: Graph,
    measured: Range,
    unsigned: bool,
    bits: Mapping[str, LayerBits],
    settings: PlanSettings,
) -> TensorSpec:
    if node.kind == "input":
        signed = measured.minimum < 0
        return TensorSpec(8, range_exponent(_reach(measured), 8, signed), signed)
    if is_logits(graph, node):
        exponent = _logits_exponent(_reach(measured), settings.logits_bits)
        return TensorSpec(settings.logits_bits, exponent, True)
    if not unsigned:
        return TensorSpec(8, range_exponent(_reach(measured), 8, signed=True), signed=True)
    width = bits[node.name].activations
    exponent = range_exponent(_reach(measured), width, signed=False)
    limit = relu6_limit(width, exponent) if node.activation == "relu6" else None
    return TensorSpec(width, exponent, signed=False, limit=limit)


def relu6_limit(bits: int, exponent: int) -> int | None:
    """The largest code of a ReLU6, rounded as the kernels round it; None if the width's own is it.

    Raises:
        ValueError: If the step is so large that 6 has no code but zero.
    """
    limit = int(6 / 2.0**exponent + 0.5)
    if not limit:
        raise ValueError(
            f"its ReLU6 would be zero everywhere on the grid of steps of {2.0**exponent:g} that it "
            "shares with what it is concatenated with."
        )
    return limit if limit < 2**bits - 1 else None


def _logits_exponent(largest: float, bits: int) -> int:
    """The finest step at which the largest calibrated logit has a code: no saturated ties."""
    highest = code_range(bits, signed=True)[1]
    return ceil_log2(largest / (highest + 0.5))


def _no_finer(logits: TensorSpec, source: TensorSpec, node: Node, kernel: KernelSpec) -> TensorSpec:
    """Logits whose step is not much finer than the accumulator's: such codes would be unused."""
    weights = np.asarray(node.layers[0].kernel)
    accumulator = source.exponent + kernel_exponent(weights, kernel.bits, kernel.clip_stds)
    return dataclasses.replace(logits, exponent=max(logits.exponent, accumulator - _FINER_LOGITS))


def _kernel(bits: int, policy: Policy) -> KernelSpec:
    factor = 2.0 if policy.clip_reading == "plus_minus" else 1.0
    clip_stds = {**KERNEL_CLIP_STDS, **policy.clip_stds}
    return KernelSpec(bits, factor * float(clip_stds[bits]))


def _multiplier(node: Node, policy: Policy) -> MultiplierSpec | None:
    layer = node.batch_norm
    if layer is None:
        return None
    bits = 8
    if policy.bn_exponent == "paper":
        return MultiplierSpec(bits, -bits // 2)
    if isinstance(policy.bn_exponent, int):
        return MultiplierSpec(bits, policy.bn_exponent)
    scale = 1.0 / np.sqrt(np.asarray(layer.moving_variance, np.float64) + layer.epsilon)
    if layer.scale:
        scale = scale * np.asarray(layer.gamma, np.float64)
    largest = float(np.max(np.abs(scale)))
    if not (np.isfinite(largest) and largest > 0):
        raise ValueError(
            f"Layer '{layer.name}' (BatchNormalization) has only zero or non-finite multipliers "
            f"(largest: {largest}): its "
            "output is constant. Check the pretrained weights."
        )
    exponent = range_exponent(largest, bits, signed=True)
    if exponent not in EXPONENTS:
        raise ValueError(
            f"Layer '{layer.name}' (BatchNormalization) has multipliers of up to {largest:g}: "
            f"their exponent {exponent} is out of the range [{EXPONENTS[0]}, {EXPONENTS[-1]}] "
            "that integer kernels can compute with. Check the pretrained weights."
        )
    return MultiplierSpec(
        bits, exponent, _FINER_STEPS if policy.bn_exponent == "per_channel" else 0
    )
