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
from collections.abc import Callable, Sequence
from typing import Any

import keras

from faq_keras.graph import LIST_KINDS, Graph, Node, evaluate, functional_of, layer_calls
from faq_keras.layers import QUANTIZED_LAYERS, QuantizedInput, QuantizedLayer
from faq_keras.plan import QuantPlan


def quantize_model(model: keras.Model, graph: Graph, plan: QuantPlan) -> keras.Model:
    """The quantized twin of a float model.

    Args:
        model: The float Keras 3 model; left untouched.
        graph: Its graph.
        plan: A plan that fits it.

    Returns:
        An uncompiled functional model with the same inputs, outputs, name and weights.

    Raises:
        ValueError: If the plan does not fit the graph.
    """
    plan.check_fits({node.name: node.kind for node in graph.quantized_nodes})
    copies = _LayerCopies()
    symbolic = {
        node.name: keras.Input(
            batch_shape=node.layers[0].batch_shape, dtype=node.layers[0].dtype, name=node.name
        )
        for node in graph.nodes
        if node.kind == "input"
    }

    def call(node: Node, inputs: list[Any]) -> Any:
        layers = [
            copies(layer) for layer in node.layers if not isinstance(layer, keras.layers.InputLayer)
        ]
        if node.name not in plan:
            return layers[0](inputs[0])
        layer = quantized_layer(node, plan, layers)
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
    specs = plan.input_specs(node.name)
    if node.kind == "input":
        # The model's InputLayer has the node's name already.
        return QuantizedInput(
            plan[node.name], plan.settings, specs, layers, name=f"{node.name}_quantized"
        )
    return QUANTIZED_LAYERS[node.kind](plan[node.name], specs, layers, name=node.name)


def float_model(quantized: keras.Model) -> keras.Model:
    """The ordinary float model behind a quantized one, with its (fine-tuned) weights.

    Raises:
        ValueError: If the model has no quantized layers.
    """
    plan_of(quantized)
    copies = _LayerCopies()
    values: dict[int, Any] = {}
    symbolic: dict[str, Any] = {}
    for call in layer_calls(quantized):
        operation = call.operation
        if isinstance(operation, keras.layers.InputLayer):
            value: Any = keras.Input(
                batch_shape=operation.batch_shape, dtype=operation.dtype, name=operation.name
            )
            symbolic[operation.name] = value
        else:
            read = [values[id(tensor)] for tensor in call.input_tensors]
            value = _call_chain([copies(layer) for layer in _float_layers(operation)], read)
        values[id(call.outputs[0])] = value
    names = [tensor._keras_history.operation.name for tensor in quantized.inputs]
    inputs = keras.tree.pack_sequence_as(quantized.input, [symbolic[name] for name in names])
    flat = [values[id(tensor)] for tensor in quantized.outputs]
    outputs = keras.tree.pack_sequence_as(quantized.output, flat)
    model = keras.Model(inputs, outputs, name=quantized.name)
    copies.transfer_weights()
    return model


def _float_layers(layer: Any) -> Sequence[keras.layers.Layer]:
    return layer.float_layers if isinstance(layer, QuantizedLayer) else [layer]


def _call_chain(layers: Sequence[Callable[[Any], Any]], inputs: list[Any]) -> Any:
    value = inputs if len(inputs) > 1 else inputs[0]
    for layer in layers:
        value = layer(value)
    return value


def plan_of(model: keras.Model) -> QuantPlan:
    """The plan that a quantized model carries.

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
    return QuantPlan(settings[0], tuple(layer.plan for layer in layers))


def record_recipe(model: keras.Model, name: str) -> None:
    """Notes in a quantized model's plan what it was fine-tuned by; other models are left alone."""
    for layer in model._flatten_layers():
        if isinstance(layer, QuantizedInput):
            layer.settings = dataclasses.replace(layer.settings, recipe=name)


class _LayerCopies:
    """Copies layers, and their weights once the copies are built."""

    def __init__(self) -> None:
        self._pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

    def __call__(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = type(layer).from_config(layer.get_config())
        self._pairs.append((layer, copy))
        return copy

    def transfer_weights(self) -> None:
        for layer, copy in self._pairs:
            if layer.weights:
                copy.set_weights(layer.get_weights())
            if isinstance(copy, keras.layers.Normalization):
                copy.finalize_state()
