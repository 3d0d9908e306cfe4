"""The plan of a network: measured ranges and weights become bits and exponents.

One walk over the graph; tensors that share a grid get one exponent, from what was measured of all
of them. How an exponent is chosen depends on `Policy.scales`: by least squared error on a sample of
the values (`fitting`), or by the paper's rules (section 3.2).

    ranges = calibrate(graph, data, batches=5, percentile=percentiles(graph, bits, None))
    plan = make_plan(graph, ranges, PlanSettings(4, 4, scales="fitted"), Policy())
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from faq_keras.calibration import Range, widest
from faq_keras.fitting import fit_values
from faq_keras.fixed_point import ceil_log2, code_range, kernel_exponent, range_exponent
from faq_keras.graph import JOINING_KINDS, Graph, Node
from faq_keras.graph_roles import common_grids, is_logits
from faq_keras.kernel_fitting import weights_plan
from faq_keras.plan import LayerPlan, PlanSettings, QuantPlan
from faq_keras.plan_parts import Fit, KernelSpec, TensorSpec
from faq_keras.policy import LayerBits, Policy, layer_bits

# Logits down to 2^-4 of the accumulator's step: its step moves while training, and kernels multiply
# accumulators by less than 2^8.
_FINER_LOGITS = 4


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
        weights = weights_plan(node, bits[node.name].weights if node.has_kernel else 0, policy)
        fit = None
        if node.kind in JOINING_KINDS:
            specs[node.name] = joined([specs[name] for name in sources])
        else:
            unsigned = node.activation is not None or (
                node.kind == "global_pool" and not specs[sources[0]].signed
            )
            reach = measured[node.name]
            try:
                spec, fit = _tensor(node, graph, reach, unsigned, bits, settings)
                if weights.kernel is not None and is_logits(graph, node):
                    spec = _no_finer(spec, specs[sources[0]], node, weights.kernel)
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
                kernel=weights.kernel,
                multiplier=weights.multiplier,
                output_fit=fit,
                kernel_fit=weights.fit,
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
) -> tuple[TensorSpec, Fit | None]:
    if node.kind == "input":
        signed = measured.minimum < 0
        return TensorSpec(8, range_exponent(_reach(measured), 8, signed), signed), None
    if is_logits(graph, node):
        exponent = _logits_exponent(_reach(measured), settings.logits_bits)
        return TensorSpec(settings.logits_bits, exponent, True), None
    width = bits[node.name].activations if unsigned else 8
    fit = None
    if settings.scales == "paper" or settings.percentile is not None or measured.sample is None:
        exponent = range_exponent(_reach(measured), width, signed=not unsigned)
    else:
        highest = _relu6_code if _is_relu6_grid(graph, node) else None
        fit = fit_values(measured.sample, measured.largest, width, not unsigned, highest)
        exponent = fit.chosen
    limit = relu6_limit(width, exponent) if unsigned and node.activation == "relu6" else None
    return TensorSpec(width, exponent, signed=not unsigned, limit=limit), fit


def _is_relu6_grid(graph: Graph, node: Node) -> bool:
    """Whether everything on a node's grid is a ReLU6: then all of them have one limit."""
    members = [graph[name] for name in common_grids(graph)[node.name]]
    return all(m.activation == "relu6" for m in members if m.kind not in JOINING_KINDS)


def _relu6_code(exponent: int) -> int:
    """The code of 6, rounded as the kernels round it."""
    return int(6 / 2.0**exponent + 0.5)


def relu6_limit(bits: int, exponent: int) -> int | None:
    """The largest code of a ReLU6, rounded as the kernels round it; None if the width's own is it.

    Raises:
        ValueError: If the step is so large that 6 has no code but zero.
    """
    limit = _relu6_code(exponent)
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
