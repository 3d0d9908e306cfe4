"""Arithmetic on shapes and other constants, in numpy, while the network is read.

Exporters compute shapes inside the graph (Shape, Gather, Mul, Concat, Reshape). With the image size
known, all of it is constant but the batch size, which is the marker `BATCH` in an object array:

    Shape(image)         -> [BATCH, 116, 28, 28]
    Gather(shape, 2)     -> 28
    Concat([batch], [2]) -> [BATCH, 2]     which Reshape understands

`constant_or` makes a handler of an op that computes with constants as well as with tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from faq_keras.converters.network import Anything, Handler, Network, handles
from faq_keras.converters.onnx_file import Node
from faq_keras.converters.values import BATCH, Channel, Value

_LARGEST = 1 << 24
"""Entries of the largest constant that a file may ask us to compute."""

Function = Callable[[Node, list[np.ndarray]], np.ndarray]


def constant_or(function: Function) -> Callable[[Handler], Handler]:
    """Computes an op by `function` when every operand is constant, else by the handler."""

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def either(network: Network, node: Node) -> Anything | list[Anything]:
            operands = [network.values[name] for name in node.inputs if name]
            arrays = [operand for operand in operands if isinstance(operand, np.ndarray)]
            if len(arrays) == len(operands):
                result = _settled(np.asarray(function(node, arrays)))
                if not any(np.may_share_memory(result, array) for array in arrays):
                    network.spend(node, result.size)
                return result
            return handler(network, node)

        return either

    return decorate


def _settled(array: np.ndarray) -> np.ndarray:
    """Integers again once the batch size is gone from a shape."""
    if array.dtype == object and not any(entry is BATCH for entry in array.ravel()):
        return array.astype(np.int64)
    return array


def arithmetic(function: Callable[..., np.ndarray]) -> Function:
    """Element-wise arithmetic that refuses the unknown batch size."""

    def compute(node: Node, operands: list[np.ndarray]) -> np.ndarray:
        if any(operand.dtype == object for operand in operands):
            raise node.error(
                "it computes with the batch size. Export with a dynamic batch dimension "
                "and take the batch size out of the arithmetic."
            )
        _limit(node, np.broadcast_shapes(*(operand.shape for operand in operands)))
        result = function(*operands)
        return np.asarray(result, operands[0].dtype)

    return compute


def divide(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """ONNX's Div: integers are truncated towards zero."""
    if left.dtype.kind in "iu":
        return np.sign(left) * np.sign(right) * (np.abs(left) // np.abs(right))
    return left / right


def gather(node: Node, operands: list[np.ndarray]) -> np.ndarray:
    """Entries of a constant."""
    array, indices = operands
    axis = int(node.attributes.get("axis", 0))
    _limit(node, (array.size // max(1, array.shape[axis]), *indices.shape))
    return np.take(array, indices.astype(np.int64), axis=axis)


def concat(node: Node, operands: list[np.ndarray]) -> np.ndarray:
    """Constants behind one another."""
    _limit(node, [sum(operand.size for operand in operands)])
    return np.concatenate(operands, axis=int(node.attributes["axis"]))


def reshape(node: Node, operands: list[np.ndarray]) -> np.ndarray:
    """A constant in another shape; 0 copies the old size."""
    array, sizes = operands
    zero_copies = not node.attributes.get("allowzero", 0)
    shape = [
        array.shape[axis] if size == 0 and zero_copies else int(size)
        for axis, size in enumerate(sizes.tolist())
    ]
    return array.reshape(shape)


def squeeze(node: Node, operands: list[np.ndarray]) -> np.ndarray:
    """A constant without axes of size 1."""
    axes = operands[1].tolist() if len(operands) > 1 else node.attributes.get("axes")
    return np.squeeze(operands[0], None if axes is None else tuple(int(axis) for axis in axes))


def unsqueeze(node: Node, operands: list[np.ndarray]) -> np.ndarray:
    """A constant with further axes of size 1."""
    axes = operands[1].tolist() if len(operands) > 1 else node.attributes["axes"]
    return np.expand_dims(operands[0], tuple(int(axis) for axis in axes))


def cut(node: Node, operands: list[np.ndarray]) -> np.ndarray:
    """ONNX's Slice of a constant."""
    starts, ends, *more = (operand.tolist() for operand in operands[1:])
    axes = more[0] if more else range(len(starts))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    index = [slice(None)] * operands[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return operands[0][tuple(index)]


def transpose(node: Node, operands: list[np.ndarray]) -> np.ndarray:
    """A constant with permuted axes."""
    return operands[0].transpose(node.attributes.get("perm"))


@handles("Shape")
def shape(network: Network, node: Node) -> np.ndarray:
    """Sizes of a tensor; the batch size is the marker `BATCH` unless the file fixes it."""
    operand = network.values[node.inputs[0]]
    if isinstance(operand, Value):
        batch = BATCH if network.file.batch is None else network.file.batch
        sizes = np.array([batch, *operand.shape], object if batch is BATCH else np.int64)
    elif isinstance(operand, np.ndarray):
        sizes = np.array(operand.shape, np.int64)
    else:
        raise node.error("the shape of a part of the image is not supported.")
    return sizes[node.attributes.get("start", 0) : node.attributes.get("end")]


@handles("Expand")
def expand(network: Network, node: Node) -> np.ndarray:
    """A constant repeated to a shape."""
    array = network.constant(node, 0, "what is expanded")
    sizes = [int(size) for size in network.constant(node, 1, "the shape").tolist()]
    target = np.broadcast_shapes(array.shape, tuple(sizes))
    _limit(node, target)
    network.spend(node, math.prod(target))
    return np.broadcast_to(array, target)


@handles("ConstantOfShape")
def constant_of_shape(network: Network, node: Node) -> np.ndarray:
    """One value, repeated."""
    sizes = [int(size) for size in network.constant(node, 0, "the shape").tolist()]
    _limit(node, sizes)
    network.spend(node, math.prod(sizes))
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32)))
    return np.full(sizes, value.ravel()[0], value.dtype)


@handles("Cast", "CastLike", "Identity", "Dropout")
def same(network: Network, node: Node) -> Anything:
    """The operand itself: Keras computes in float32, and inference knows no dropout.

    Only a constant's type is changed, so that shape arithmetic stays in integers.
    """
    operand = network.values[node.inputs[0]]
    if node.op in ("Cast", "CastLike") and isinstance(operand, np.ndarray):
        network.spend(node, operand.size)
    if node.op == "Cast":
        target = int(node.attributes["to"])
        if isinstance(operand, np.ndarray):
            return _cast(node, operand, target)
        if target != 1:
            raise node.error("the image is cast to another type. Re-export in float32.")
    if node.op == "CastLike" and isinstance(operand, np.ndarray):
        like = network.values[node.inputs[1]]
        return operand.astype(like.dtype if isinstance(like, np.ndarray) else np.float32)
    if node.op == "Dropout" and isinstance(operand, Channel):
        raise node.error("dropout on a single input channel is not supported.")
    return operand


def _cast(node: Node, array: np.ndarray, target: int) -> np.ndarray:
    types = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}
    if target not in types:
        raise node.error(f"a constant is cast to ONNX type {target}; re-export in float32.")
    return array if array.dtype == object else array.astype(types[target])


def _limit(node: Node, sizes: tuple[int, ...] | list[int]) -> None:
    if min(sizes, default=1) < 0 or np.prod(sizes, dtype=object) > _LARGEST:
        raise node.error(f"it asks for a constant of shape {list(sizes)}, which is not sensible.")
