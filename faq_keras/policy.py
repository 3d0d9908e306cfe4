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
from faq_keras.fixed_point import KERNEL_CLIP_STDS, ceil_log2, code_range, range_exponent
from faq_keras.graph import KERNEL_KINDS, Graph, Node
from faq_keras.plan import (
    EXPONENTS,
    KernelSpec,
    LayerPlan,
    MultiplierSpec,
    PlanSettings,
    QuantPlan,
    TensorSpec,
)

# Multipliers down to 2^-8 of the largest one keep all their bits. With one step for all channels,
# EfficientNet-Lite0 falls to 8 % top-1 before fine-tuning, with this to 56 %.
_FINER_STEPS = 8

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
            standard deviations.
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
        for name, bits in self.overrides.items():
            for value in bits if isinstance(bits, tuple) else (bits,):
                if value is not None or bits == (None, None):
                    check_bits(value, f"the override of '{name}'")
        exponents: tuple[str | int, ...] = ("per_channel", "calibrated", "paper", *EXPONENTS)
        if self.bn_exponent not in exponents or isinstance(self.bn_exponent, bool):
            raise ValueError(
                f"bn_exponent must be 'per_channel', 'calibrated', 'paper' or an int in "
                f"[{EXPONENTS[0]}, {EXPONENTS[-1]}], received {self.bn_exponent!r}."
            )
        if self.clip_reading not in ("total", "plus_minus"):
            raise ValueError(
                f"clip_reading must be 'total' or 'plus_minus', received {self.clip_reading!r}."
            )


def check_bits(bits: object, what: str) -> int:
    """Returns `bits` if it is a width that the deployment knows.

    Raises:
        ValueError: If it is not an int from 2 to 8.
    """
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 2 <= bits <= 8:
        raise ValueError(f"{what} must be an integer from 2 to 8, received {bits!r}.")
    return int(bits)


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
    edge = policy.first_last_bits
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
    weights, activations = override if isinstance(override, tuple) else (override, override)
    return LayerBits(
        bits.weights if weights is None else weights,
        bits.activations if activations is None else activations,
    )


def common_grids(graph: Graph) -> dict[str, tuple[str, ...]]:
    """The quantized nodes that share bits and exponent with each quantized node, itself included.

    A concatenation only copies, and AVERAGE_POOL_2D keeps its input's scale: both have the grid of
    what they read.
    """
    grids: dict[str, tuple[str, ...]] = {}
    carriers = graph.carriers()
    for node in graph.quantized_nodes:
        together = [node.name]
        if node.kind in ("concat", "average_pool"):
            together += [name for read in node.inputs for name in grids[carriers[read]]]
        grid = tuple(dict.fromkeys(together))
        grids.update(dict.fromkeys(grid, grid))
    return grids


def first_layers(graph: Graph) -> set[str]:
    """The layers with weights that an input reaches without passing other weights."""
    behind: set[str] = set()  # nodes that have weights somewhere before them
    for node in graph.nodes:
        if any(n in behind or graph[n].kind in KERNEL_KINDS for n in node.inputs):
            behind.add(node.name)
    return {n.name for n in graph.nodes if n.kind in KERNEL_KINDS and n.name not in behind}


def last_layers(graph: Graph) -> set[str]:
    """The layers with weights from which an output is reached without passing other weights."""
    before: set[str] = set()  # nodes that have weights somewhere behind them
    for node in reversed(graph.nodes):
        readers = graph.consumers(node.name)
        if any(n.name in before or n.kind in KERNEL_KINDS for n in readers):
            before.add(node.name)
    return {n.name for n in graph.nodes if n.kind in KERNEL_KINDS and n.name not in before}


def last_activations(graph: Graph) -> set[str]:
    """The tensors from the last ReLU on: what feeds the last layers, and the outputs."""
    found: set[str] = set()
    pending = [name for last in last_layers(graph) for name in graph[last].inputs]
    pending += list(graph.outputs)
    while pending:
        node = graph[pending.pop()]
        if node.name in found:
            continue
        found.add(node.name)
        if node.kind not in (*KERNEL_KINDS, "affine", "add", "input"):
            pending += list(node.inputs)
    return found


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
_UNMEASURED_KINDS = ("average_pool", "concat", "requantize")


def is_logits(graph: Graph, node: Node) -> bool:
    """Whether a node is a dense layer without ReLU whose output leaves the network."""
    if node.kind != "dense" or node.activation:
        return False
    readers = graph.consumers(node.name)
    return all(reader.kind == "head" for reader in readers)


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
        if node.kind in ("average_pool", "concat"):
            specs[node.name] = _joined([specs[name] for name in sources])
        else:
            unsigned = node.activation is not None or (
                node.kind == "global_pool" and not specs[sources[0]].signed
            )
            reach = measured[node.name]
            try:
                specs[node.name] = _tensor(node, graph, reach, unsigned, bits, settings)
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
                kernel=_kernel(bits[node.name].weights, policy) if _has_kernel(node) else None,
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


def _joined(specs: list[TensorSpec]) -> TensorSpec:
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
        return TensorSpec(
            settings.logits_bits, _logits_exponent(_reach(measured), settings.logits_bits), True
        )
    if not unsigned:
        return TensorSpec(8, range_exponent(_reach(measured), 8, signed=True), signed=True)
    width = bits[node.name].activations
    exponent = range_exponent(_reach(measured), width, signed=False)
    limit = None
    if node.activation == "relu6":
        limit = min(int(6 / 2.0**exponent), 2**width - 1)
        limit = limit if limit < 2**width - 1 else None
    return TensorSpec(width, exponent, signed=False, limit=limit)


def _logits_exponent(largest: float, bits: int) -> int:
    """The finest step at which the largest calibrated logit has a code: no saturated ties."""
    highest = code_range(bits, signed=True)[1]
    return ceil_log2(largest / (highest + 0.5))


def _has_kernel(node: Node) -> bool:
    """Whether it is a kernel layer, or a user's own layer that has weights."""
    return node.kind in KERNEL_KINDS or (node.is_custom and bool(node.layers[0].weights))


def _kernel(bits: int, policy: Policy) -> KernelSpec:
    factor = 2.0 if policy.clip_reading == "plus_minus" else 1.0
    return KernelSpec(bits, factor * policy.clip_stds[bits])


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
