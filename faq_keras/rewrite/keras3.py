"""Keras 3 models by plan: float model -> quantized model -> float model.

Both directions rebuild the network with the functional API from copies of its layers; the model
that comes in is left alone. The plan is not kept beside the quantized model but in it: each layer
holds its own entry, and `plan_of` collects them.

    q = quantize_model(model, read_graph(model), plan)
    assert plan_of(q) == plan
    f = float_model(q)                    # Conv and BatchNormalization separate, with q's weights
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import keras

from faq_keras.graph import (
    LIST_KINDS,
    Graph,
    Node,
    evaluate,
    functional_of,
    layer_calls,
    unused_name,
)
from faq_keras.layers import QUANTIZED_LAYERS, QuantizedInput
from faq_keras.plan import QuantPlan
from faq_keras.plan_fit import check_fits
from faq_keras.quantized_layer import QuantizedLayer
from faq_keras.rewrite.rebuild import LayerCopies, call_chain, input_like, rebuild


def quantize_model(
    model: keras.Model, graph: Graph, plan: QuantPlan, left_float: Collection[str] = ()
) -> keras.Model:
    """The quantized twin of a float model.

    Args:
        model: The float Keras 3 model; left untouched.
        graph: Its graph.
        plan: A plan that fits it.
        left_float: Names of nodes to leave as they are.

    Returns:
        An uncompiled functional model with the same inputs, outputs, name and weights.

    Raises:
        ValueError: If the plan does not fit the graph.
    """
    check_fits(plan, graph)
    copies = LayerCopies()
    symbolic = {
        node.name: input_like(node.layers[0].output, node.name, keras)
        for node in graph.nodes
        if node.kind == "input"
    }

    def call(node: Node, inputs: list[Any]) -> Any:
        layers = [
            copies(layer) for layer in node.layers if not isinstance(layer, keras.layers.InputLayer)
        ]
        if node.name not in plan or node.name in left_float:
            layers[0].name = node.name  # layers of several nested models may have one name
            return call_chain(layers, inputs)
        layer = quantized_layer(node, plan, layers)
        if node.kind == "input":  # the model's InputLayer has the node's name already
            layer.name = unused_name(f"{node.name}_quantized", {node.name for node in graph.nodes})
        return layer(inputs if node.kind in LIST_KINDS else inputs[0])

    values = evaluate(graph, symbolic, call)
    template = functional_of(model)
    outputs = keras.tree.pack_sequence_as(template.output, [values[n] for n in graph.outputs])
    inputs = keras.tree.pack_sequence_as(template.input, [symbolic[n] for n in graph.inputs])
    quantized = keras.Model(inputs, outputs, name=model.name)
    copies.transfer_weights()
    return quantized


def quantized_layer(
    node: Node, plan: QuantPlan, layers: list[keras.layers.Layer]
) -> QuantizedLayer:
    """The quantized layer of a node.

    Args:
        node: The node.
        plan: A plan with its entry and those of what it reads.
        layers: The float layers that it is to hold: the node's own, or copies of them.
    """
    arguments = {"settings": plan.settings} if node.kind == "input" else {}
    quantized = QUANTIZED_LAYERS[keras]["custom" if node.is_custom else node.kind]
    return quantized(
        plan[node.name], plan.input_specs(node.name), layers, name=node.name, **arguments
    )


def float_model(quantized: keras.Model) -> keras.Model:
    """The ordinary float model behind a quantized one, with its (fine-tuned) weights.

    Raises:
        ValueError: If the model has no quantized layers.
    """
    plan_of(quantized)
    copies = LayerCopies()
    taken: set[str] = set()

    def chain(call: Any) -> list[Any]:
        layers = [copies(layer) for layer in _float_layers(call.operation)]
        # Layers of several nested models may have one name; that of the quantized layer is unique.
        if layers and not isinstance(call.operation, QuantizedInput):
            layers[0].name = call.operation.name
        for layer in layers:
            layer.name = unused_name(layer.name, taken)
            taken.add(layer.name)
        return layers

    model = rebuild(quantized, keras, chain)
    copies.transfer_weights()
    return model


def _float_layers(layer: Any) -> Sequence[Any]:
    return layer.float_layers if isinstance(layer, QuantizedLayer) else [layer]


def plan_of(model: Any) -> QuantPlan:
    """The plan that a quantized model of either Keras carries.

    Raises:
        ValueError: If the model has no quantized layers.
    """
    calls = layer_calls(model) if hasattr(model, "_nodes_by_depth") else ()
    layers = [call.operation for call in calls if isinstance(call.operation, QuantizedLayer)]
    settings = [layer.settings for layer in layers if isinstance(layer, QuantizedInput)]
    if not settings:
        raise ValueError(
            f"Model '{model.name}' carries no quantization plan: it was not made by "
            f"faq_keras.apply."
        )
    names = {layer.plan.name for layer in layers}
    missing = sorted({name for layer in layers for name in layer.plan.inputs} - names)
    if missing:
        raise ValueError(
            f"Model '{model.name}' is quantized in part: {', '.join(missing)} stayed float or has "
            "a quantize config that is not faq_keras'. Annotate these layers for FAQScheme, too."
        )
    return QuantPlan(settings[0], tuple(layer.plan for layer in layers))


def record(model: Any, **changes: Any) -> None:
    """Notes in a quantized model's plan what was done to it; other models are left alone.

    Args:
        model: A model of either Keras.
        **changes: New values of fields of `PlanSettings`, such as `recipe`.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, QuantizedInput):
            layer.settings = dataclasses.replace(layer.settings, **changes)
