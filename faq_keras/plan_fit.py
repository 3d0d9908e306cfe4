"""Whether a plan belongs to a network.

Bits and exponents are the plan's to choose. What the network itself decides must agree, or the
quantized model would compute another function without a word: which layers there are, what they
read, which have weights and batch normalizations, where a ReLU or ReLU6 cuts off.

    check_fits(QuantPlan.load("plan.json"), read_graph(model))
"""

from __future__ import annotations

from collections.abc import Iterator

from faq_keras.graph import JOINING_KINDS, Graph, Node
from faq_keras.graph_roles import is_logits
from faq_keras.kernel_fitting import SCALED_KINDS
from faq_keras.plan import LayerPlan, QuantPlan
from faq_keras.plan_maker import joined, relu6_limit
from faq_keras.plan_parts import TensorSpec


def check_fits(plan: QuantPlan, graph: Graph) -> None:
    """Checks that a plan belongs to a network.

    Args:
        plan: The plan.
        graph: The network.

    Raises:
        ValueError: If layers are missing or superfluous, of another kind, read other tensors, have
            other weights or another activation; all of them are listed.
    """
    nodes = {node.name: node for node in graph.quantized_nodes}
    entries = {entry.name: entry for entry in plan.layers}
    problems = [f"'{n}' ({nodes[n].kind}) is not in the plan" for n in nodes if n not in entries]
    problems += [
        f"'{n}' ({entries[n].kind}) is not in the model" for n in entries if n not in nodes
    ]
    if not problems:
        carriers = graph.carriers()
        for name, node in nodes.items():
            sources = tuple(carriers[read] for read in node.inputs)
            problems += [f"'{name}' {said}" for said in _differences(plan, graph, node, sources)]
    if problems:
        raise ValueError(
            f"The plan does not fit the model: {'; '.join(problems)}. Make a plan of this model "
            "with faq_keras.apply(model, calibration_data=...)."
        )


def _differences(
    plan: QuantPlan, graph: Graph, node: Node, sources: tuple[str, ...]
) -> Iterator[str]:
    entry = plan[node.name]
    if entry.kind != node.kind:
        yield f"is {entry.kind} in the plan and {node.kind} in the model"
        return
    if entry.inputs != sources:
        planned, found = (", ".join(names) or "nothing" for names in (entry.inputs, sources))
        yield f"reads {planned} in the plan and {found} in the model"
        return
    if (entry.kernel is not None) != node.has_kernel:
        yield f"has weights in the {'model' if node.has_kernel else 'plan'} only"
    yield from _of_weights(entry, node)
    yield from _of_output(entry, node, [plan[name].output for name in sources])
    if entry.output.bits == 16 and not is_logits(graph, node):
        yield "has 16 bits, which only logits can have"


def _of_weights(entry: LayerPlan, node: Node) -> Iterator[str]:
    scales = entry.kernel.channel_scales if entry.kernel else None
    normalizes = entry.multiplier is not None and not entry.multiplier.constant
    if normalizes != (node.batch_norm is not None):
        yield f"has batch normalization in the {'model' if node.batch_norm else 'plan'} only"
        return
    if scales is None:
        if entry.multiplier is not None and entry.multiplier.constant:
            yield "has constant multipliers in the plan, but no channel scales"
        return
    if node.kind not in SCALED_KINDS:
        yield "has channel scales, which only convolutions can have"
    elif len(scales) != node.shape[-1]:
        yield f"has {len(scales)} channel scales in the plan and {node.shape[-1]} channels"
    elif entry.multiplier is None:
        yield "has channel scales in the plan, but no multiplier to take them back"


def _of_output(entry: LayerPlan, node: Node, sources: list[TensorSpec]) -> Iterator[str]:
    spec = entry.output
    if node.kind in JOINING_KINDS:
        if len({(source.bits, source.exponent, source.signed) for source in sources}) > 1:
            yield "joins tensors of several grids"
        elif spec != joined(sources):
            yield f"has another grid ({spec}) than what it reads ({joined(sources)})"
        return
    if node.kind == "input":
        return
    keeps_sign = node.kind == "global_pool" and node.activation is None
    signed = sources[0].signed if keeps_sign else node.activation is None
    try:
        limit = relu6_limit(spec.bits, spec.exponent) if node.activation == "relu6" else None
    except ValueError as error:
        yield f"cannot have its exponent: {str(error).rstrip('.')}"
        return
    if spec.signed != signed:
        yield f"is {_sign(spec.signed)} in the plan and {_sign(signed)} in the model"
    elif spec.limit != limit:
        yield f"has the largest code {spec.limit} in the plan and {limit} in the model (ReLU6)"


def _sign(signed: bool) -> str:
    return "linear (signed)" if signed else "behind a ReLU (unsigned)"
