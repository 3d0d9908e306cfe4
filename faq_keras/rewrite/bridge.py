"""The bridge between the Kerases: one network, rebuilt layer by layer in the other library.

A tf_keras network is read, calibrated, planned and lowered as its Keras 3 twin, so there is one
graph reader, one policy and one lowering, and files of both are equal byte for byte. What comes
back over the bridge are the same quantized layers on the other base class.

    twin = to_keras3(model)              # a float or quantized tf_keras model
    q = to_tf_keras(quantize_model(twin, read_graph(twin), plan))

Names, weights and `trainable` flags are kept. What only training needs (initializers, regularizers,
constraints) the twin does not understand but carries along (`Carried`), the user's own ones, too. A
layer that cannot cross is represented by a stand-in that has its name and its kind, so that the
graph reader can list it beside everything else that is not supported.
"""

from __future__ import annotations

import inspect
import json
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tf_keras

from faq_keras.compat import is_tf_keras, keras_of
from faq_keras.graph import activation_name
from faq_keras.graph_reader import LAYER_KINDS
from faq_keras.layers import QUANTIZED_LAYERS, QuantizedInput
from faq_keras.quantized_layer import QuantizedLayer
from faq_keras.rewrite.rebuild import LayerCopies, rebuild

_CROSSING = frozenset(cls.__name__ for cls in LAYER_KINDS)
# TensorFlow functions called on Keras tensors, which tf_keras turns into layers.
_FUNCTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "__operators__.add": ("Add", {}),
    "math.add": ("Add", {}),
    "nn.relu": ("ReLU", {}),
    "nn.relu6": ("ReLU", {"max_value": 6.0}),
}
_CARRIED = ("initializer", "regularizer", "constraint")


def to_keras3(model: Any) -> keras.Model:
    """The Keras 3 twin of a tf_keras model, in float32; a Keras 3 model itself.

    Args:
        model: A functional or sequential model, nested ones too, float or quantized.

    Raises:
        ValueError: If the model has no graph of layers.
    """
    return _rebuilt(model, keras)


def to_tf_keras(model: Any) -> Any:
    """The tf_keras twin of a Keras 3 model that `to_keras3` or its rewriting made."""
    return _rebuilt(model, tf_keras)


def _rebuilt(model: Any, library: ModuleType) -> Any:
    if keras_of(model) is library:
        return model
    crossing = _Crossing(library)
    twin = crossing.model(model)
    crossing.copies.transfer_weights()
    return twin


@keras.saving.register_keras_serializable("faq_keras")
class Carried:
    """An initializer, regularizer or constraint of tf_keras that a Keras 3 twin only carries.

    Args:
        config: Its tf_keras configuration, as JSON.
    """

    def __init__(self, config: str) -> None:
        self.config = config

    def __call__(self, shape_or_tensor: Any, dtype: Any = None) -> Any:
        """Zeros for an initializer (the weights are set afterwards), zero for a regularizer."""
        is_shape = isinstance(shape_or_tensor, tuple | list)
        return keras.ops.zeros(shape_or_tensor if is_shape else (), dtype)

    def get_config(self) -> dict[str, Any]:
        """The argument of the constructor."""
        return {"config": self.config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Carried:
        """The inverse of `get_config`."""
        return cls(**config)


class _Crossing:
    """Makes the twins of the layers of one model."""

    def __init__(self, library: ModuleType) -> None:
        self.copies = LayerCopies(self._float_layer)
        self._library = library
        self._twins: dict[int, Any] = {}  # by id of the original

    def model(self, model: Any) -> Any:
        """The twin of a model, without weights yet."""
        return rebuild(model, self._library, lambda call: [self._twin(call)])

    def _twin(self, call: Any) -> Any:
        """The twin of a layer: one, however often the layer is called."""
        layer = call.operation
        if id(layer) not in self._twins:
            self._twins[id(layer)] = self._new_twin(layer, call)
        return self._twins[id(layer)]

    def _new_twin(self, layer: Any, call: Any) -> Any:
        if isinstance(layer, keras_of(layer).Model):
            return self.model(layer)
        if isinstance(layer, QuantizedLayer):
            return self._quantized(layer)
        kind = type(layer).__name__
        if kind == "TFOpLambda":
            function = layer.get_config()["function"]
            kind, arguments = _FUNCTIONS.get(function, (f"tf.{function}", {}))
            if kind in _CROSSING:
                return getattr(keras.layers, kind)(
                    name=twin_name(layer.name), dtype="float32", **arguments
                )
        elif kind in _CROSSING and type(layer) is getattr(keras_of(layer).layers, kind):
            activation = _activation(layer)
            if activation is None or hasattr(keras.activations, activation):
                return self.copies(layer)
            kind = f"{kind} with the activation '{activation}'"
        elif hasattr(layer, "quantize_config"):  # tfmot's wrapper
            kind = f"{kind} with {type(layer.quantize_config).__name__}"
        return _stand_in(twin_name(layer.name), kind, call.outputs)

    def _quantized(self, layer: QuantizedLayer) -> QuantizedLayer:
        arguments = {"settings": layer.settings} if isinstance(layer, QuantizedInput) else {}
        parts = [self.copies(part) for part in layer.float_layers]
        return QUANTIZED_LAYERS[self._library][layer.plan.kind](
            layer.plan, layer.input_specs, parts, name=layer.name, **arguments
        )

    def _float_layer(self, layer: Any) -> Any:
        """The layer of the same class in the other library, without its weights."""
        twin = getattr(self._library.layers, type(layer).__name__)
        accepted = inspect.signature(twin.__init__).parameters.keys()
        config = layer.get_config()
        arguments = {key: _argument(key, config[key]) for key in accepted & config.keys()}
        arguments |= {"name": twin_name(layer.name), "dtype": "float32"}
        if "activation" in config:
            arguments["activation"] = _activation(layer)
        if is_tf_keras(layer) and isinstance(config.get("axis"), list | tuple):
            arguments["axis"] = tuple(config["axis"])
            if twin is keras.layers.BatchNormalization:
                (arguments["axis"],) = config["axis"]
        new = twin(**arguments)
        new.trainable = layer.trainable
        return new


def twin_name(name: str) -> str:
    """The name of a layer's twin: Keras 3 does not allow slashes in names."""
    return name.replace("/", "_")


def _activation(layer: Any) -> str | None:
    """What a layer's activation is called; None for a layer that has none by its kind."""
    function = getattr(layer, "activation", None)
    if function is None:
        return None
    name = activation_name(function, keras_of(layer))
    return (
        name
        or f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
    )


def _argument(key: str, value: Any) -> Any:
    """An argument of a layer for the other Keras."""
    if isinstance(value, np.ndarray):
        return value.tolist()  # tf_keras gives ReLU's limit like this
    if isinstance(value, dict) and value.get("class_name") == "__numpy__":
        return value["config"]["value"]  # and Keras 3 a Rescaling's numbers like this
    if value is None or not key.endswith(_CARRIED):
        return value
    if value.get("registered_name") == keras.saving.get_registered_name(Carried):
        return json.loads(value["config"]["config"])
    return Carried(json.dumps(value, default=np.ndarray.tolist))


def _stand_in(name: str, kind: str, outputs: list[Any]) -> keras.layers.Layer:
    """A layer that cannot cross: it has a name, a kind and outputs, and computes nothing."""

    def compute_output_spec(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = [
            keras.KerasTensor(tuple(t.shape), keras.backend.standardize_dtype(t.dtype))
            for t in outputs
        ]
        return found if len(found) > 1 else found[0]

    members = {"compute_output_spec": compute_output_spec}
    return type(kind, (keras.layers.Layer,), members)(name=name)
