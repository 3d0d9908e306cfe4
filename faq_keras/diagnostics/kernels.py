"""The kernels of a network, float or quantized, under the names that both share.

A quantized layer is named after its convolution or dense layer, so what is measured on one network
can be laid beside the other:

    for kernel in kernels_of(q):
        kernel.name, kernel.variable.shape, kernel.quantized(kernel.variable)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from faq_keras.layers import QuantizedKernelLayer
from faq_keras.quantizers import KernelQuantizer

_FLOAT_LAYERS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The weights of a convolution or dense layer.

    Attributes:
        name: The layer's name.
        variable: The float weights: `[height, width, in, out]`, depthwise `[height, width, in,
            multiplier]`, dense `[in, out]`.
        neurons: Number of output channels; those of a depthwise kernel are its last two axes.
        quantizer: How they are quantized; None in a float network.
    """

    name: str
    variable: Any
    neurons: int
    quantizer: KernelQuantizer | None

    def quantized(self, weights: Any) -> tf.Tensor:
        """What the network multiplies with: `Q(weights)`, or the weights of a float network."""
        weights = tf.convert_to_tensor(weights)
        return weights if self.quantizer is None else self.quantizer(weights)


def kernels_of(model: keras.Model) -> list[Kernel]:
    """The kernels of a model, in the order of its layers.

    Args:
        model: A built Keras 3 model: one of `faq_keras.apply`, or a float model, nested ones too.

    Raises:
        ValueError: It has no convolution or dense layer, or two of one name.
    """
    kernels = []
    for layer in _layers_of(model):
        if isinstance(layer, QuantizedKernelLayer):
            kernels.append(_of_quantized(layer))
        elif isinstance(layer, _FLOAT_LAYERS):
            kernels.append(_of_float(layer))
    names = [kernel.name for kernel in kernels]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"Model {model.name!r} has several layers of the same name: {', '.join(twice)}. Rename "
            "them, so that what is measured can be told apart."
        )
    if not kernels:
        raise ValueError(f"Model {model.name!r} has no convolution and no dense layer.")
    return kernels


def _layers_of(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers in their order, those of nested models in their place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers_of(layer)
        else:
            yield layer


def _of_quantized(layer: QuantizedKernelLayer) -> Kernel:
    neurons = tf.TensorShape(layer.channel_shape).num_elements()
    quantizer = layer.quantize_config.kernel_quantizer
    return Kernel(layer.name, layer.kernel_layer.kernel, neurons, quantizer)


def _of_float(layer: Any) -> Kernel:
    if not layer.built:
        raise ValueError(f"Layer {layer.name!r} is not built: call its model on an input first.")
    last_axes = 2 if isinstance(layer, keras.layers.DepthwiseConv2D) else 1
    neurons = tf.TensorShape(layer.kernel.shape[-last_axes:]).num_elements()
    return Kernel(layer.name, layer.kernel, neurons, None)
