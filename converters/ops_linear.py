"""Layers with weights: convolution, batch normalisation, fully connected.

The one idea: weights are transposed once, here, so that no Transpose is left in the network. ONNX's
[out, in / groups, height, width] becomes Keras' [height, width, in / groups, out], and the rows of
a matrix behind a Flatten are permuted from (channels, height, width) to (height, width, channels):

    Conv(x, weight [64, 3, 7, 7])  ->  keras.layers.Conv2D(64, 7), kernel [7, 7, 3, 64]
"""

from __future__ import annotations

import keras
import numpy as np

from faq_keras.converters.network import Network, handles
from faq_keras.converters.onnx_file import Node
from faq_keras.converters.ops_pooling import padded, window
from faq_keras.converters.values import Value, image, vector


@handles("Conv")
def conv(network: Network, node: Node) -> Value:
    """Ordinary, grouped and depthwise 2-D convolution."""
    value = network.image(node)
    kernel = network.constant(node, 1, "the kernel")
    bias = _bias(network, node)
    groups = int(node.attributes.get("group", 1))
    if kernel.ndim != 4 or groups < 1 or value.shape[0] != kernel.shape[1] * groups:
        raise node.error(
            f"a kernel of shape {kernel.shape} in {groups} groups does not fit "
            f"{value.shape[0]} channels of a 2-D image."
        )
    win = window(node, value, (kernel.shape[2], kernel.shape[3]))
    name = network.name(node, weight=1)
    tensor, padding = padded(network, value, win, name)
    common = {
        "kernel_size": win.size,
        "strides": win.strides,
        "padding": padding,
        "dilation_rate": win.dilations,
        "use_bias": bias is not None,
        "name": name,
    }
    if max(win.strides) > 1 and max(win.dilations) > 1:
        raise node.error("strides and dilations above 1 at once have no Keras layer.")
    if groups > 1 and groups == value.shape[0]:
        if win.strides[0] != win.strides[1]:
            raise node.error(f"a depthwise convolution needs equal strides, not {win.strides}.")
        multiplier = kernel.shape[0] // groups
        layer = keras.layers.DepthwiseConv2D(depth_multiplier=multiplier, **common)
        matrix = kernel.reshape(groups, multiplier, *win.size).transpose(2, 3, 0, 1)
    else:
        layer = keras.layers.Conv2D(kernel.shape[0], groups=groups, **common)
        matrix = kernel.transpose(2, 3, 1, 0)
    weights = [matrix] if bias is None else [matrix, bias]
    return image(network.apply(layer, tensor, weights))


def _bias(network: Network, node: Node) -> np.ndarray | None:
    """The bias, or None; zeros that the exporter computed stand for no bias at all."""
    bias = network.optional(node, 2, "the bias")
    if bias is not None and node.inputs[2] not in network.file.constants and not bias.any():
        return None
    return bias


@handles("BatchNormalization")
def batch_normalization(network: Network, node: Node) -> Value:
    """Batch normalisation of images and of vectors, with its running statistics."""
    if node.attributes.get("training_mode", 0) or sum(map(bool, node.outputs)) > 1:
        raise node.error(
            "it was exported in training mode and uses the statistics of the batch. "
            "Call model.eval() before the export."
        )
    value = network.channels_last(network.value(node, 0))
    names = ("the scale", "the bias", "the mean", "the variance")
    weights = [network.constant(node, 1 + i, what) for i, what in enumerate(names)]
    if weights[3].min(initial=0.0) < 0.0:
        raise node.error("its variance is negative. The checkpoint is damaged.")
    layer = keras.layers.BatchNormalization(
        axis=-1,
        epsilon=_shortest(node.attributes.get("epsilon", 1e-5)),
        momentum=_shortest(node.attributes.get("momentum", 0.9)),
        name=network.name(node, weight=1),
    )
    return value.like(network.apply(layer, value.tensor, weights))


def _shortest(number: float) -> float:
    """The decimal that was meant: 1e-05, not 9.99999974737875e-06, which float32 made of it."""
    return float(str(np.float32(number)))


@handles("Gemm")
def gemm(network: Network, node: Node) -> Value:
    """A fully connected layer with a bias."""
    if node.attributes.get("transA", 0):
        raise node.error("its input is transposed (transA), so that the batch is not first.")
    alpha, beta = (np.float32(node.attributes.get(key, 1.0)) for key in ("alpha", "beta"))
    matrix = network.constant(node, 1, "the matrix")
    matrix = matrix if alpha == 1.0 else matrix * alpha  # it may be large: no copy without need
    if node.attributes.get("transB", 0):
        matrix = matrix.T
    bias = network.optional(node, 2, "the bias")
    if bias is not None:
        if bias.ndim > 1 and bias.shape[0] != 1:
            raise node.error("its bias differs within the batch.")
        bias = np.broadcast_to((bias * beta).reshape(-1), matrix.shape[1:])
    return _dense(network, node, matrix, bias)


@handles("MatMul")
def matmul(network: Network, node: Node) -> Value:
    """A fully connected layer without a bias."""
    return _dense(network, node, network.constant(node, 1, "the matrix"), None)


def _dense(network: Network, node: Node, matrix: np.ndarray, bias: np.ndarray | None) -> Value:
    value = network.value(node, 0)
    if matrix.ndim != 2 or value.shape != matrix.shape[:1]:
        raise node.error(
            f"a matrix of shape {matrix.shape} does not fit a tensor of shape {value.shape}; "
            "only [batch, features] times a matrix is supported."
        )
    if value.rows is not None:
        channels, height, width = value.rows
        matrix = matrix.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)
        matrix = matrix.reshape(value.shape[0], -1)
    layer = keras.layers.Dense(
        matrix.shape[1], use_bias=bias is not None, name=network.name(node, weight=1)
    )
    return vector(network.apply(layer, value.tensor, [matrix] if bias is None else [matrix, bias]))
