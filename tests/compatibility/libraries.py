"""The same small networks in both Kerases, with the same weights and names."""

from types import ModuleType
from typing import Any

import keras
import tf_keras

from tests import networks

LIBRARIES = (keras, tf_keras)


def tiny_resnet(library: ModuleType) -> Any:
    """`networks.tiny_resnet` in one of the Kerases."""
    return in_library(networks.tiny_resnet(), library)


def in_library(model: keras.Model, library: ModuleType) -> Any:
    """A float Keras 3 model, or what tf_keras makes of the same architecture and weights.

    Written without the bridge of faq_keras: by hand, from each layer's configuration.
    """
    if library is keras:
        return model
    made: dict[str, Any] = {}
    values: dict[int, Any] = {}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for call in model._nodes_by_depth[depth]:
            layer = call.operation
            read = [values[id(tensor)] for tensor in call.input_tensors]
            if not read:
                value = tf_keras.Input(layer.batch_shape[1:], name=layer.name)
            else:
                made[layer.name] = _layer(layer)
                value = made[layer.name](read if len(read) > 1 else read[0])
            values[id(call.outputs[0])] = value
    inputs = [values[id(tensor)] for tensor in model.inputs]
    outputs = keras.tree.map_structure(lambda tensor: values[id(tensor)], model.output)
    twin = tf_keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name=model.name)
    for name, layer in made.items():
        layer.set_weights(model.get_layer(name).get_weights())
    return twin


# What the tests' networks consist of, and the arguments that make the layers what they are.
_ARGUMENTS = {
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "use_bias", "dilation_rate"),
    "DepthwiseConv2D": ("kernel_size", "strides", "padding", "use_bias", "depth_multiplier"),
    "Dense": ("units", "use_bias"),
    "BatchNormalization": ("momentum", "epsilon", "center", "scale"),
    "ReLU": ("max_value",),
    "Concatenate": ("axis",),
    "MaxPooling2D": ("pool_size", "strides", "padding"),
    "AveragePooling2D": ("pool_size", "strides", "padding"),
    "GlobalAveragePooling2D": ("keepdims",),
    "ZeroPadding2D": ("padding",),
    "Reshape": ("target_shape",),
    "Dropout": ("rate",),
    "Rescaling": ("scale", "offset"),
    "Softmax": ("axis",),
}


def _layer(layer: Any) -> Any:
    kind = type(layer).__name__
    arguments = {name: getattr(layer, name) for name in _ARGUMENTS.get(kind, ())}
    if hasattr(layer, "activation"):
        arguments["activation"] = layer.activation.__name__
    return getattr(tf_keras.layers, kind)(**arguments, name=layer.name)
