"""The Keras network under construction, and the one table of ONNX op handlers.

A handler is a function of the network and the node; it returns the value of the node's output (a
list of values if there are several). Registering is all it takes to support an op:

    @handles("Sigmoid")
    def sigmoid(network: Network, node: Node) -> Value:
        value = network.value(node, 0)
        layer = keras.layers.Activation("sigmoid", name=network.name(node))
        return value.like(network.apply(layer, value.tensor))
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from faq_keras.converters.errors import ConversionError, first_line
from faq_keras.converters.onnx_bounds import MOST_VALUES
from faq_keras.converters.onnx_file import Node, OnnxNetwork
from faq_keras.converters.values import IMAGE, Channel, Value, plain

Anything = Value | Channel | np.ndarray | tuple[Value, ...]
Handler = Callable[["Network", Node], Anything | list[Anything]]

HANDLERS: dict[str, Handler] = {}

_MOST_COMPUTED, _USES_OF_WEIGHTS = 1 << 26, 4
"""Numbers that a file may ask us to compute: so many, and so many times those that it holds."""


def handles(*ops: str) -> Callable[[Handler], Handler]:
    """Registers a handler for ONNX op types."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(ops, handler))
        return handler

    return register


class Network:
    """Values by ONNX name, the layers made so far, and what handlers need to make more.

    Attributes:
        file: The ONNX network that is being converted.
        values: What is known so far, by the ONNX name.
        uses: How often each ONNX name is still read, by nodes to come and by the outputs.
        node: The node that is being converted.
    """

    node: Node

    def __init__(
        self, file: OnnxNetwork, constants: Mapping[str, np.ndarray], source: Value
    ) -> None:
        self.file = file
        self.values: dict[str, Anything] = {**constants, file.input_name: source}
        self.uses = Counter([name for node in file.nodes for name in node.inputs] + [*file.outputs])
        self._left = _MOST_COMPUTED + _USES_OF_WEIGHTS * sum(
            array.size for array in constants.values()
        )
        self._names: Counter[str] = Counter([source.tensor.name])
        self._producers: dict[int, tuple[keras.layers.Layer, Any]] = {}

    def spend(self, node: Node, numbers: int) -> None:
        """Counts numbers that are computed or become weights, for a file that asks for too many.

        Raises:
            ConversionError: They are many times more than the file holds.
        """
        self._left -= numbers
        if self._left < 0:
            raise node.error(
                "up to here the file asks for many times more numbers than it holds. If it is "
                "sound, simplify it (onnxsim) and convert the result."
            )

    # Operands.

    def value(self, node: Node, index: int) -> Value:
        """An operand that depends on the network's input.

        Raises:
            ConversionError: It is a constant, or a part of an affine input transform.
        """
        value = self.values[node.inputs[index]]
        if isinstance(value, Value):
            return value
        if isinstance(value, Channel):
            raise node.error(
                "single channels of the input can only be scaled, shifted and concatenated in "
                "their order (transform_input). Move this into the preprocessing."
            )
        raise node.error(f"input {node.inputs[index]!r} is a constant, a tensor was expected.")

    def image(self, node: Node, index: int = 0) -> Value:
        """An operand [batch, channels, height, width], its Keras tensor channels-last."""
        value = self.value(node, index)
        if len(value.shape) != 3:
            raise node.error(
                f"it is applied to shape {value.shape}, only 2-D images are supported."
            )
        return self.in_order(value, IMAGE)

    def constant(self, node: Node, index: int, what: str) -> np.ndarray:
        """An operand that has to be a constant; `what` names it in the message."""
        array = self.optional(node, index, what)
        if array is None:
            raise node.error(f"{what} is missing.")
        return array

    def optional(self, node: Node, index: int, what: str) -> np.ndarray | None:
        """A constant operand, or None if the node leaves it out."""
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        array = self.values[node.inputs[index]]
        if not isinstance(array, np.ndarray):
            raise node.error(f"{what} is computed from the image; it has to be a constant.")
        return array

    def axes(self, node: Node, rank: int, default: tuple[int, ...] | None = None) -> list[int]:
        """The axes of an op, an attribute in old opsets and operand 1 in newer ones.

        Args:
            node: The op.
            rank: Rank of its operand, with the batch; negative axes count from there.
            default: What stands for left out axes.
        """
        array = self.optional(node, 1, "the list of axes")
        axes = node.attributes.get("axes", default) if array is None else array.tolist()
        if axes is None:
            raise node.error("it does not say which axes. Export with explicit axes.")
        if not all(-rank <= axis < rank for axis in axes):
            raise node.error(f"axes {list(axes)} are outside a tensor of rank {rank}.")
        return sorted(int(axis) % rank for axis in axes)

    # Layers.

    def name(self, node: Node, weight: int | None = None) -> str:
        """A unique layer name: from the weight's name if it has one, else from the node's.

        Args:
            node: The op.
            weight: Index of the operand whose name says which layer of the original this is.
        """
        source = node.name
        if weight is not None and not re.match(r"onnx::|val_\d+$", node.inputs[weight]):
            source = re.sub(r"\.(weight|bias|running_mean|running_var)$", "", node.inputs[weight])
        return self.unique(readable(source) or node.op.lower())

    def unique(self, name: str) -> str:
        """`name`, or `name` with the first free number if it is taken."""
        self._names[name] += 1
        if self._names[name] == 1:
            return name
        return self.unique(f"{name}_{self._names[name] - 1}")

    def apply(
        self,
        layer: keras.layers.Layer,
        inputs: keras.KerasTensor | Sequence[keras.KerasTensor],
        weights: Sequence[np.ndarray] = (),
    ) -> keras.KerasTensor:
        """Calls a new layer, fills in its weights and remembers it as the output's producer."""
        if weights:
            self.spend(self.node, sum(array.size for array in weights))
            output = _build_with(layer, inputs, weights)
        else:
            output = layer(inputs)
        self._producers[id(output)] = (layer, inputs)
        return output

    def producer(self, tensor: keras.KerasTensor) -> tuple[keras.layers.Layer | None, Any]:
        """The layer that computed a tensor and what it was computed from."""
        return self._producers.get(id(tensor), (None, None))

    def is_only_use(self, value: Value) -> bool:
        """Whether nothing but the node that is being converted ever reads a tensor."""
        readers = sum(
            self.uses[name]
            for name, other in self.values.items()
            if isinstance(other, Value) and other.tensor is value.tensor
        )
        read = (inputs for _, inputs in self._producers.values())
        tensors = (t for inputs in read for t in (inputs if isinstance(inputs, list) else [inputs]))
        return readers == 1 and not any(tensor is value.tensor for tensor in tensors)

    # Layout.

    def in_order(self, value: Value, order: tuple[int, ...]) -> Value:
        """The same value with the ONNX axes `order` on its Keras axes."""
        if value.order == order:
            return value
        permute = keras.layers.Permute(
            [value.axis(axis) for axis in order], name=self.unique("permute")
        )
        tensor = self.apply(permute, value.tensor)
        return Value(tensor, value.shape, order, value.nonnegative)

    def plain(self, value: Value) -> Value:
        """The same value, its Keras tensor laid out exactly as the ONNX tensor."""
        if value.rows is None:
            return self.in_order(value, plain(len(value.shape)))
        channels, height, width = value.rows
        unflatten = keras.layers.Reshape((height, width, channels), name=self.unique("unflatten"))
        tensor = self.apply(unflatten, value.tensor)
        restored = self.in_order(Value(tensor, value.rows, IMAGE, value.nonnegative), (1, 2, 3))
        flatten = keras.layers.Flatten(name=self.unique("flatten"))
        return Value(self.apply(flatten, restored.tensor), value.shape, (1,), value.nonnegative)

    def channels_last(self, value: Value) -> Value:
        """The same value, its Keras tensor [batch, ..., channels], where ONNX has axis 1 last."""
        rank = len(value.shape)
        return self.in_order(value, (*range(2, rank + 1), 1)) if rank > 1 else self.plain(value)


class _Given(keras.initializers.Initializer):
    """Initialises a kernel with known numbers: random ones would cost time and twice the memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        if tuple(shape) != self.array.shape:
            raise ValueError(f"a kernel of shape {self.array.shape} where {shape} is needed")
        return keras.ops.convert_to_tensor(self.array, dtype)


def _build_with(
    layer: keras.layers.Layer, inputs: Any, weights: Sequence[np.ndarray]
) -> keras.KerasTensor:
    """Calls a new layer and fills in its weights.

    The layer's configuration keeps the usual initializer, for who trains it again from scratch.
    """
    kernels = [
        key for key in ("kernel_initializer", "depthwise_initializer") if hasattr(layer, key)
    ]
    usual = {key: getattr(layer, key) for key in kernels}
    for key in kernels:
        setattr(layer, key, _Given(weights[0]))
    try:
        output = layer(inputs)
    finally:
        for key, initializer in usual.items():
            setattr(layer, key, initializer)
    given = len(kernels)
    for variable, array in zip(layer.weights[given:], weights[given:], strict=True):
        variable.assign(array)
    return output


def readable(name: str) -> str:
    """A layer name made of a node's name or a weight's.

    `/layer1/layer1.0/relu/Relu` becomes `layer1_0_relu`: a module path repeats its parents, and
    the op at its end only repeats the module.
    """
    parts = [part for part in name.split("/") if part]
    parts = [
        part
        for part, following in zip(parts, [*parts[1:], ""], strict=True)
        if not following.startswith(part + ".")
    ]
    if name.startswith("/"):
        parts[-1] = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", parts[-1]).lower()
        if len(parts) > 1 and parts[-1] == re.sub(r"_\d+$", "", parts[-2]).lower():
            del parts[-1]
    return re.sub(r"[^A-Za-z0-9_]+", "_", "_".join(parts)).strip("_")


def run(network: Network, node: Node) -> None:
    """Converts one node and checks the result against ONNX's shape inference.

    Raises:
        ConversionError: Whatever goes wrong, with the node's name.
    """
    network.node = node
    try:
        results = HANDLERS[node.op](network, node)
    except ConversionError:
        raise
    except Exception as error:  # a damaged file can trip any check of numpy, Keras or TensorFlow
        raise node.error(f"{first_line(error)} (shapes or attributes that do not fit).") from error
    if not isinstance(results, list):
        results = [results]
    for name, result in zip(node.outputs, results, strict=False):
        _check_shape(network, node, name, result)
        network.values[name] = result


def _check_shape(network: Network, node: Node, name: str, result: Anything) -> None:
    if isinstance(result, Value) and math.prod(result.shape) > MOST_VALUES:
        raise node.error(
            f"its result has the shape {result.shape}, {math.prod(result.shape):,} values for each "
            f"image; at most {MOST_VALUES:,} can be converted."
        )
    expected = network.file.shapes.get(name)
    if expected is None or isinstance(result, tuple | Channel):
        return
    shape = result.shape if isinstance(result, np.ndarray) else (None, *result.shape)
    if len(shape) != len(expected) or any(
        None not in (got, wanted) and got != wanted
        for got, wanted in zip(shape, expected, strict=True)
    ):
        raise node.error(
            f"its result has shape {shape}, but ONNX infers {expected} for {name!r}. "
            "Export the file again; if that does not help, please report it."
        )
