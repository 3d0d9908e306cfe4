"""Graph: a Keras model as nodes, normalised so that one node is one integer op.

`graph_reader.read_graph` makes it. What the device computes in one op is one node: a convolution
with its batch normalization and ReLU, an addition with its ReLU. Calibration, policy and rewriting
see only these nodes.

    graph = read_graph(model)
    for node in graph.nodes:
        print(node.name, node.kind, [layer.name for layer in node.layers], node.inputs)
    values = evaluate(graph, {"input": x}, lambda node, inputs: node.float_call(inputs))
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

import keras
import tensorflow as tf

from faq_keras.compat import is_tf_keras, keras_of
from faq_keras.plan import CUSTOM_PREFIX

Value = TypeVar("Value")

KERNEL_KINDS = ("conv", "depthwise", "dense")
# These do not touch the codes: an ordinary Keras layer computes them on quantized values.
PASSING_KINDS = ("max_pool", "pad", "flatten", "reshape", "identity")
# This stays in float, behind the logits.
HEAD_KIND = "head"
QUANTIZED_KINDS = (
    "input", *KERNEL_KINDS, "affine", "add", "concat", "requantize", "average_pool", "global_pool",
)  # fmt: skip
# Their values have a sign if what they read has one.
_KEEPING_KINDS = (*PASSING_KINDS, HEAD_KIND, "concat", "average_pool", "global_pool")
# They read a list of tensors.
LIST_KINDS = ("add", "concat")
# They have the bits and the exponent of what they read.
JOINING_KINDS = ("concat", "average_pool")


@dataclasses.dataclass(frozen=True)
class Node:
    """One op of the network.

    Attributes:
        name: Name of its first layer.
        kind: One of `QUANTIZED_KINDS`, `PASSING_KINDS` or `HEAD_KIND`, or `CUSTOM_PREFIX` and the
            name of a user's own layer.
        layers: The model's own layers that it stands for, in order; none for a "requantize" node,
            which moves a tensor onto the grid of those that it is concatenated with.
        inputs: Names of the nodes it reads.
        shape: Shape of its output, batch first and None.
        activation: None, "relu" or "relu6".
    """

    name: str
    kind: str
    layers: tuple[keras.layers.Layer, ...]
    inputs: tuple[str, ...]
    shape: tuple[int | None, ...]
    activation: str | None = None

    @property
    def label(self) -> str:
        """How error messages call it."""
        return (
            f"Layer '{self.name}' ({type(self.layers[0]).__name__ if self.layers else self.kind})"
        )

    @property
    def is_custom(self) -> bool:
        """Whether it is a user's own layer with a tensor of its own."""
        return self.kind.startswith(CUSTOM_PREFIX)

    @property
    def is_quantized(self) -> bool:
        """Whether its output is a tensor of its own in the plan."""
        return self.kind in QUANTIZED_KINDS or self.is_custom

    @property
    def has_kernel(self) -> bool:
        """Whether it is a kernel layer, or a user's own layer that has weights."""
        return self.kind in KERNEL_KINDS or (self.is_custom and bool(self.layers[0].weights))

    @property
    def batch_norm(self) -> keras.layers.BatchNormalization | None:
        """The batch normalization in it, or None."""
        for layer in self.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                return layer
        return None

    def float_call(self, inputs: Sequence[Any]) -> Any:
        """Applies the float layers, in inference."""
        value = list(inputs) if self.kind in LIST_KINDS else inputs[0]
        for layer in self.layers:
            if not isinstance(layer, keras.layers.InputLayer):
                value = layer(value)
        return value


@dataclasses.dataclass(frozen=True)
class Graph:
    """A normalised network.

    Attributes:
        name: The model's name.
        nodes: In topological order.
        inputs: Names of the input nodes, in the order of the model's inputs.
        outputs: Names of the nodes whose tensors the model returns.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @functools.cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @functools.cached_property
    def _readers(self) -> dict[str, list[Node]]:
        readers: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers[name].append(node)
        return readers

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    def consumers(self, name: str) -> list[Node]:
        """The nodes that read a node's output."""
        return self._readers[name]

    @property
    def quantized_nodes(self) -> list[Node]:
        """The nodes with an output tensor of their own in the plan."""
        return [node for node in self.nodes if node.is_quantized]

    def carriers(self) -> dict[str, str]:
        """For every node the quantized node whose codes it hands on: itself if it is one."""
        found: dict[str, str] = {}
        for node in self.nodes:
            found[node.name] = node.name if node.is_quantized else found[node.inputs[0]]
        return found

    def is_signed(self, node: Node) -> bool:
        """Whether a node's values may be negative; an input's may, as far as the graph knows."""
        if node.kind in _KEEPING_KINDS:
            return any(self.is_signed(self[name]) for name in node.inputs)
        return node.activation is None


def evaluate(
    graph: Graph,
    inputs: Mapping[str, Value],
    call: Callable[[Node, list[Value]], Value],
    keep: Container[str] | None = None,
) -> dict[str, Value]:
    """Walks the graph in topological order.

    Args:
        graph: The network.
        inputs: What every input node reads: the model's inputs.
        call: Gives a node's value from those it reads (real tensors, symbolic tensors, shapes ...).
        keep: Names of the values that are wanted: others are forgotten once no later node reads
            them, so real tensors take little memory. None keeps everything.

    Returns:
        The value of every node, or of those to keep, by name.
    """
    values: dict[str, Value] = {}
    left = {node.name: len(graph.consumers(node.name)) for node in graph.nodes}
    for node in graph.nodes:
        read = [inputs[node.name]] if node.kind == "input" else [values[n] for n in node.inputs]
        values[node.name] = call(node, read)
        if keep is None:
            continue
        for name in set(node.inputs):
            left[name] -= 1
        for name in {node.name, *node.inputs}:
            if not left[name] and name not in keep:
                del values[name]
    return values


def activation_name(function: Any, library: ModuleType) -> str | None:
    """The name of a Keras' or TensorFlow's own activation; None for any other function."""
    name = getattr(function, "__name__", "")
    known = (getattr(module, name, None) for module in (library.activations, tf.nn, keras.ops))
    return name if any(function is own for own in known) else None


def unused_name(name: str, taken: Container[str]) -> str:
    """A name, or if it is taken, the name with the first number that makes it another one."""
    numbered = (f"{name}_{count}" for count in itertools.count(1))
    return next(free for free in itertools.chain([name], numbered) if free not in taken)


def functional_of(model: Any) -> Any:
    """The functional model behind a model: itself, or what a Sequential keeps inside.

    Raises:
        ValueError: If it has none: a subclassed, unbuilt or no model.
    """
    library = keras_of(model)
    if not isinstance(model, library.Model):
        raise ValueError(f"Expected a Keras model, received {type(model).__name__}.")
    functional = model
    if isinstance(model, library.Sequential):
        functional = model if is_tf_keras(model) else getattr(model, "_functional", None)
        if not model.built or not hasattr(functional, "_nodes_by_depth"):
            raise ValueError(
                f"Model '{model.name}' is not built: its input shape is unknown. Add "
                f"keras.Input(shape) as its first layer "
                "or call model.build(input_shape)."
            )
    elif not hasattr(model, "_nodes_by_depth"):
        raise ValueError(
            f"Model '{model.name}' ({type(model).__name__}) is a subclassed model without a graph "
            f"of layers. Rebuild it with "
            "the functional API: keras.Model(inputs, outputs)."
        )
    return functional


# Layers after an activation that leave its values what they are.
_TRANSPARENT = ("Dropout", "Flatten", "Identity", "Reshape", "SpatialDropout2D")
_ACTIVATION_LAYERS = {"Softmax": "softmax", "Sigmoid": "sigmoid", "ReLU": "relu", "Relu": "relu"}


def last_activation(output: Any) -> str | None:
    """Name of the activation that a model's output comes from; "linear" if there is none.

    None if the output comes from a subclassed model, which has no graph.

    Args:
        output: One of `model.outputs` of a functional model of either Keras, float or quantized.
    """
    operation, node, index = output._keras_history
    while type(operation).__name__ in _TRANSPARENT:
        before = keras.tree.flatten(operation._inbound_nodes[node].input_tensors)[0]
        operation, node, index = before._keras_history
    if isinstance(operation, keras_of(operation).Model):
        inner = getattr(operation, "outputs", None)
        return last_activation(inner[index]) if inner else None
    parts = getattr(operation, "float_layers", None)  # a quantized layer's
    layer = parts[-1] if parts else operation
    for base in type(layer).__mro__:  # layers of either Keras, and Keras 3's operations
        if base.__name__ in _ACTIVATION_LAYERS:
            return _ACTIVATION_LAYERS[base.__name__]
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", None) or "linear"


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One call of a layer in a functional model: a Keras 3 node, as tf_keras has it."""

    operation: Any
    input_tensors: list[Any]
    outputs: list[Any]


def layer_calls(functional: Any) -> Iterator[Any]:
    """The calls (Keras 3 nodes, or `LayerCall`s) of a functional model in topological order."""
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if is_tf_keras(functional):
                outputs = keras.tree.flatten(node.outputs)
                yield LayerCall(node.layer, list(node.keras_inputs), outputs)
            else:
                yield node
