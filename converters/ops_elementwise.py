"""Activations, sums and products.

The one idea: an operation between two tensors is a Keras merge layer, one between a tensor and a
constant per channel is a `Rescaling` layer (it is how a normalisation of the input looks), and what
the exporter took apart is put together again: `x * sigmoid(x)` is one `silu`.

    Add(branch, shortcut)                     ->  keras.layers.Add
    Sub(image, mean [1, 3, 1, 1])             ->  keras.layers.Rescaling(1, [-.485, -.456, -.406])
"""

from __future__ import annotations

import keras
import numpy as np

from faq_keras.converters import ops_constant as constants
from faq_keras.converters.network import Network, handles
from faq_keras.converters.onnx_file import Node
from faq_keras.converters.values import Channel, Value

_MOST_CHANNELS = 1 << 16
_GATED = {"sigmoid": "silu", "hard_sigmoid": "hard_silu"}
"""What x times an activation of x is called."""


@handles("Relu")
def relu(network: Network, node: Node) -> Value:
    """max(x, 0)."""
    value = network.value(node, 0)
    layer = keras.layers.ReLU(name=network.name(node))
    return value.like(network.apply(layer, value.tensor), nonnegative=True)


@handles("Clip")
def clip(network: Network, node: Node) -> Value:
    """ReLU6 and its like: values limited to [0, maximum]."""
    value = network.value(node, 0)
    low, high = network.optional(node, 1, "min"), network.optional(node, 2, "max")
    if low is None or low.size != 1 or float(low.item()) != 0.0:
        raise node.error(f"it clips at {low}; only a minimum of 0 (ReLU6) has a Keras layer.")
    top = None if high is None or not np.isfinite(high).all() else float(high.item())
    if top is not None and top < 0.0:
        raise node.error(f"its maximum {top} is below its minimum 0.")
    layer = keras.layers.ReLU(max_value=top, name=network.name(node))
    return value.like(network.apply(layer, value.tensor), nonnegative=True)


@handles("LeakyRelu")
def leaky_relu(network: Network, node: Node) -> Value:
    """X where positive, else alpha times x."""
    value = network.value(node, 0)
    alpha = float(str(np.float32(node.attributes.get("alpha", 0.01))))
    layer = keras.layers.LeakyReLU(negative_slope=alpha, name=network.name(node))
    return value.like(network.apply(layer, value.tensor))


@handles("Sigmoid", "Tanh", "HardSwish", "HardSigmoid")
def activation(network: Network, node: Node) -> Value:
    """Smooth activations and their piecewise linear stand-ins."""
    value = network.value(node, 0)
    names = {"Sigmoid": "sigmoid", "Tanh": "tanh", "HardSwish": "hard_silu"}
    if node.op == "HardSigmoid":
        given = [node.attributes.get(key, usual) for key, usual in (("alpha", 0.2), ("beta", 0.5))]
        if not np.allclose(given, [1 / 6, 1 / 2], rtol=1e-6):
            raise node.error(f"alpha and beta are {given}; Keras has only 1/6 and 1/2.")
        names["HardSigmoid"] = "hard_sigmoid"
    layer = keras.layers.Activation(names[node.op], name=network.name(node))
    nonnegative = node.op in ("Sigmoid", "HardSigmoid")
    return value.like(network.apply(layer, value.tensor), nonnegative)


@handles("Softmax")
def softmax(network: Network, node: Node) -> Value:
    """Class probabilities of a vector."""
    value = network.value(node, 0)
    axis = int(node.attributes.get("axis", 1 if network.file.opset < 13 else -1))
    if len(value.shape) != 1 or axis not in (1, -1):
        raise node.error(f"over axis {axis} of shape {value.shape}; only [batch, classes] works.")
    value = network.plain(value)
    layer = keras.layers.Softmax(name=network.name(node))
    return value.like(network.apply(layer, value.tensor), nonnegative=True)


@handles("Add")
@constants.constant_or(constants.arithmetic(np.add))
def add(network: Network, node: Node) -> Value | Channel:
    """Sum of two tensors, or of a tensor and a constant."""
    return _merge(network, node, keras.layers.Add)


@handles("Sub")
@constants.constant_or(constants.arithmetic(np.subtract))
def subtract(network: Network, node: Node) -> Value | Channel:
    """Difference of two tensors, or of a tensor and a constant."""
    return _merge(network, node, keras.layers.Subtract)


@handles("Mul")
@constants.constant_or(constants.arithmetic(np.multiply))
def multiply(network: Network, node: Node) -> Value | Channel:
    """Product of two tensors (squeeze-and-excite, silu), or of a tensor and a constant."""
    gated = _gated(network, node)
    return _merge(network, node, keras.layers.Multiply) if gated is None else gated


@handles("Div")
@constants.constant_or(constants.arithmetic(constants.divide))
def divide(network: Network, node: Node) -> Value | Channel:
    """A tensor divided by a constant."""
    return _merge(network, node, None)


def _merge(network: Network, node: Node, kind: type | None) -> Value | Channel:
    left, right = (network.values[name] for name in node.inputs)
    for operand, other in ((left, right), (right, left)):
        if isinstance(other, np.ndarray):
            scale, offset = _affine(node, other, first=operand is left)
            if isinstance(operand, Channel):
                return _shift_channel(node, operand, scale, offset)
            value = network.value(node, 0 if operand is left else 1)
            return _rescale(network, node, network.channels_last(value), scale, offset)
    a, b = network.value(node, 0), network.value(node, 1)
    if kind is None:
        raise node.error("the quotient of two tensors has no Keras layer.")
    if len(a.shape) != len(b.shape):
        raise node.error(f"shapes {a.shape} and {b.shape} have different ranks.")
    if a.rows != b.rows:
        a, b = network.plain(a), network.plain(b)
    b = network.in_order(b, a.order)
    sizes = np.broadcast_shapes(a.shape, b.shape)
    tensor = network.apply(kind(name=network.name(node)), [a.tensor, b.tensor])
    nonnegative = a.nonnegative and b.nonnegative and kind is not keras.layers.Subtract
    return Value(tensor, sizes, a.order, nonnegative, a.rows)


def _gated(network: Network, node: Node) -> Value | None:
    """`x * sigmoid(x)` as one layer; None for any other product."""
    operands = [network.values[name] for name in node.inputs]
    for gate, other in (operands, operands[::-1]):
        if isinstance(gate, Value) and isinstance(other, Value):
            layer, inputs = network.producer(gate.tensor)
            name = getattr(getattr(layer, "activation", None), "__name__", "")
            same = inputs is other.tensor and gate.order == other.order and gate.rows == other.rows
            if name in _GATED and same:
                layer = keras.layers.Activation(_GATED[name], name=network.name(node))
                return other.like(network.apply(layer, other.tensor))
    return None


def _affine(node: Node, constant: np.ndarray, first: bool) -> tuple[np.ndarray, np.ndarray]:
    """The scale and the offset that an operation with a constant means.

    Args:
        node: Add, Sub, Mul or Div.
        constant: Its constant operand.
        first: The tensor is the first operand, the constant the second.
    """
    if constant.dtype.kind != "f":
        raise node.error(f"its constant is of type {constant.dtype}; re-export in float32.")
    one, zero = np.ones((), np.float32), np.zeros((), np.float32)
    if node.op == "Add":
        return one, constant
    if node.op == "Sub":
        return (one, -constant) if first else (-one, constant)
    if node.op == "Div":
        if not first or not constant.all():
            raise node.error("division by a tensor, or by zero, has no Keras layer.")
        return one / constant, zero
    return constant, zero


def _shift_channel(node: Node, channel: Channel, scale: np.ndarray, offset: np.ndarray) -> Channel:
    if np.size(scale) != 1 or np.size(offset) != 1:
        raise node.error("one channel of the image is combined with more than a single number.")
    factor, summand = np.float64(np.ravel(scale)[0]), np.float64(np.ravel(offset)[0])
    return Channel(
        channel.source,
        channel.index,
        float(channel.scale * factor),
        float(channel.offset * factor + summand),
    )


def _rescale(
    network: Network, node: Node, value: Value, scale: np.ndarray, offset: np.ndarray
) -> Value:
    numbers = [_per_channel(node, value, array) for array in (scale, offset)]
    layer = keras.layers.Rescaling(*numbers, name=network.name(node))
    return value.like(network.apply(layer, value.tensor))


def _per_channel(node: Node, value: Value, array: np.ndarray) -> float | list[float]:
    """A constant as one number, or as one per channel of an image or entry of a vector."""
    array = np.asarray(array)
    if array.size == 1 and array.ndim <= 1 + len(value.shape):
        return float(array.item())
    wanted = (value.shape[0], *[1] * (len(value.shape) - 1))
    if array.shape not in (wanted, (1, *wanted)):
        raise node.error(
            f"a constant of shape {array.shape} is combined with a tensor of shape {value.shape}; "
            "only one number, or one per channel, has a Keras layer."
        )
    if array.size > _MOST_CHANNELS:
        raise node.error(f"a constant of {array.size:,} entries; at most {_MOST_CHANNELS:,} work.")
    return [float(number) for number in array.ravel()]
