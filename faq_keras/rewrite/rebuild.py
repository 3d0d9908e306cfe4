"""Rebuilding a functional model call by call, with other layers in the place of its own.

Quantized to float, Keras 3 to tf_keras: each is the same walk over the model's calls with another
answer to "what stands for this layer?". The model that comes in is left alone.

    copies = LayerCopies()
    copy = rebuild(model, keras, lambda call: [copies(call.operation)])
    copies.transfer_weights()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import keras

from faq_keras.compat import keras_of
from faq_keras.graph import functional_of, layer_calls


def rebuild(
    model: Any, library: ModuleType, chain: Callable[[Any], Sequence[Callable[[Any], Any]]]
) -> Any:
    """The network of a model, with other layers.

    Args:
        model: A functional or sequential model of either Keras.
        library: The Keras that the new model shall belong to.
        chain: Gives the layers, one behind the other, that stand for a call of the model
            (`graph.layer_calls`); not asked for inputs.

    Returns:
        A functional model with the same inputs, outputs and name.

    Raises:
        ValueError: If the model has no graph of layers.
    """
    functional = functional_of(model)
    values: dict[int, Any] = {}
    for call in layer_calls(functional):
        if isinstance(call.operation, keras_of(functional).layers.InputLayer):
            (tensor,) = call.outputs
            results = [input_like(tensor, call.operation.name, library)]
        else:
            read = [values[id(tensor)] for tensor in call.input_tensors]
            results = keras.tree.flatten(call_chain(chain(call), read))
        values.update(zip(map(id, call.outputs), results, strict=True))
    inputs, outputs = (
        keras.tree.map_structure(lambda tensor: values[id(tensor)], structure)
        for structure in (functional.input, functional.output)
    )
    return library.Model(inputs, outputs, name=model.name)


def call_chain(layers: Sequence[Callable[[Any], Any]], inputs: list[Any]) -> Any:
    """Layers one behind the other, the first on all inputs."""
    value = inputs if len(inputs) > 1 else inputs[0]
    for layer in layers:
        value = layer(value)
    return value


def input_like(tensor: Any, name: str, library: ModuleType) -> Any:
    """A model input with the shape and dtype of another one."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return library.Input(batch_shape=tuple(tensor.shape), dtype=dtype, name=name)


def float32_copy(layer: Any) -> Any:
    """A new layer of the same configuration that computes in float32."""
    return type(layer).from_config(layer.get_config() | {"dtype": "float32"})


class LayerCopies:
    """Copies layers, and their weights once the copies are built.

    Args:
        copy: Makes a layer without the weights; by default one of the same Keras, in float32.
    """

    def __init__(self, copy: Callable[[Any], Any] = float32_copy) -> None:
        self._copy = copy
        self._pairs: list[tuple[Any, Any]] = []

    def __call__(self, layer: Any) -> Any:
        """A copy of a layer, without weights yet."""
        copy = self._copy(layer)
        self._pairs.append((layer, copy))
        return copy

    def transfer_weights(self) -> None:
        """Gives every copy the weights of its original."""
        for layer, copy in self._pairs:
            if layer.weights:
                copy.set_weights(layer.get_weights())
            if isinstance(copy, keras_of(copy).layers.Normalization):
                copy.finalize_state()
