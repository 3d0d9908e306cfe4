"""Reads a Keras model into a normalised `Graph`.

The model's layers become raw nodes, one per call, nested models laid out flat; then what the device
computes in one op is fused: preprocessing into the input, a batch normalization into its
convolution, a ReLU into the op before it. What finds nothing to fuse with, as in DenseNet, becomes
an affine op of its own. Everything that cannot be quantized is reported at once.

    graph = read_graph(model)
    print([node.name for node in graph.nodes])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from faq_keras.compat import is_tf_keras
from faq_keras.graph import (
    HEAD_KIND,
    KERNEL_KINDS,
    LIST_KINDS,
    PASSING_KINDS,
    Graph,
    Node,
    activation_name,
    functional_of,
    layer_calls,
    unused_name,
)

# What each supported layer is in the graph.
LAYER_KINDS: dict[type, str] = {
    keras.layers.InputLayer: "input",
    keras.layers.Conv2D: "conv",
    keras.layers.DepthwiseConv2D: "depthwise",
    keras.layers.Dense: "dense",
    keras.layers.BatchNormalization: "batch_norm",
    keras.layers.ReLU: "activation",
    keras.layers.Activation: "activation",
    keras.layers.Softmax: "activation",
    keras.layers.Add: "add",
    keras.layers.Concatenate: "concat",
    keras.layers.MaxPooling2D: "max_pool",
    keras.layers.AveragePooling2D: "average_pool",
    keras.layers.GlobalAveragePooling2D: "global_pool",
    keras.layers.ZeroPadding2D: "pad",
    keras.layers.Flatten: "flatten",
    keras.layers.Reshape: "reshape",
    keras.layers.Dropout: "identity",
    keras.layers.SpatialDropout2D: "identity",
    keras.layers.Identity: "identity",
    keras.layers.Rescaling: "preprocess",
    keras.layers.Normalization: "preprocess",
}
# What these layers compute when nothing before them takes them in.
_AFFINE_KINDS = ("batch_norm", "activation")


def read_graph(model: keras.Model) -> Graph:
    """Reads and normalises a model.

    Args:
        model: A built functional or sequential Keras 3 model; nested models too.

    Raises:
        ValueError: If the model has no graph (subclassed), is not built, or contains something that
            cannot be quantized: every such layer is listed.
    """
    if is_tf_keras(model):
        raise ValueError(
            f"Model '{model.name}' belongs to tf_keras (Keras 2): read the graph of its Keras 3 "
            "twin, faq_keras.rewrite.bridge.to_keras3(model)."
        )
    functional = functional_of(model)
    reader = _Reader()
    reader.visit(functional)
    outputs = tuple(reader.producer[id(tensor)] for tensor in functional.outputs)
    nodes = reader.nodes
    for can_fuse in (_is_preprocessing, _is_batch_norm_of_conv, _is_relu_of_op):
        nodes, outputs = _fuse(nodes, outputs, can_fuse)
    nodes = [
        dataclasses.replace(node, kind="affine") if node.kind in _AFFINE_KINDS else node
        for node in nodes
    ]
    inputs = tuple(reader.producer[id(tensor)] for tensor in functional.inputs)
    graph = Graph(model.name, tuple(nodes), inputs, outputs)
    _check(graph, reader.problems)
    return dataclasses.replace(graph, nodes=tuple(_on_common_grids(graph)))


class _Reader:
    """Lays a functional model and the models in it out as raw nodes, one per layer call."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.producer: dict[int, str] = {}  # id(KerasTensor) -> node name
        self.problems: list[str] = []
        self._names: set[str] = set()
        self._seen: set[int] = set()

    def visit(
        self, functional: Any, outer: Sequence[str] | None = None, model_name: str = ""
    ) -> None:
        """Adds the nodes of a model.

        Args:
            functional: The model.
            outer: If it is nested, names of the producers of its inputs.
            model_name: If it is nested, its name, for layers whose own name is taken.
        """
        if outer is not None:
            for tensor, name in zip(functional.inputs, outer, strict=True):
                self.producer[id(tensor)] = name
        for call in layer_calls(functional):
            operation = call.operation
            if isinstance(operation, keras.layers.InputLayer):
                if outer is None:
                    self._add(operation, call, model_name)
            elif isinstance(operation, keras.Model):
                self._visit_nested(operation, call)
            else:
                self._add(operation, call, model_name)

    def _visit_nested(self, model: keras.Model, call: Any) -> None:
        inner = functional_of(model)
        if id(inner) in self._seen:
            self.problems.append(f"Model '{model.name}' is called more than once (shared weights)")
            return
        self._seen.add(id(inner))
        read = [self.producer[id(tensor)] for tensor in call.input_tensors]
        self.visit(inner, read, model.name)
        for tensor, result in zip(call.outputs, inner.outputs, strict=True):
            self.producer[id(tensor)] = self.producer[id(result)]

    def _add(self, operation: Any, call: Any, model_name: str) -> None:
        layer = _as_layer(operation)
        name = layer.name
        if name in self._names:
            name = unused_name(f"{model_name}_{name}" if model_name else name, self._names)
        inputs = tuple(self.producer[id(tensor)] for tensor in call.input_tensors)
        if id(operation) in self._seen and getattr(layer, "weights", None):
            self.problems.append(f"Layer '{layer.name}' is called more than once (shared weights)")
        elif id(operation) in self._seen and type(layer) in LAYER_KINDS:
            name = unused_name(layer.name, self._names)
            layer = type(layer).from_config(layer.get_config() | {"name": name})
        self._seen.add(id(operation))
        self._names.add(name)
        shape = tuple(call.outputs[0].shape)
        kind = LAYER_KINDS.get(type(layer))
        if kind is None:
            self.problems.append(f"Layer '{name}' ({type(layer).__name__}) is not supported")
            kind = "identity"
        node, *heads = _split_activation(Node(name, kind, (layer,), inputs, shape), self.problems)
        self.nodes.append(node)
        for head in heads:
            self.nodes.append(dataclasses.replace(head, name=unused_name(head.name, self._names)))
            self._names.add(self.nodes[-1].name)
        for tensor in call.outputs:
            self.producer[id(tensor)] = self.nodes[-1].name


def _as_layer(operation: Any) -> Any:
    """`x + y` and `keras.ops.relu(x)` are operations in a functional model: their layer twins."""
    module = type(operation).__module__
    if isinstance(operation, keras.layers.Layer) or not module.startswith("keras."):
        return operation
    kind = type(operation).__name__
    if kind == "Concatenate":
        return keras.layers.Concatenate(operation.axis, name=operation.name)
    twins = {"Add": keras.layers.Add, "Relu": keras.layers.ReLU, "Identity": keras.layers.Identity}
    twin = twins.get(kind)
    return twin(name=operation.name) if twin else operation


def _activation_name(layer: Any) -> str | None:
    """One of relu, relu6, softmax, sigmoid and linear; None for everything else."""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    if isinstance(layer, keras.layers.ReLU):
        if layer.negative_slope or layer.threshold:
            return None
        limits: dict[Any, str] = {None: "relu", 6: "relu6"}
        return limits.get(layer.max_value)
    name = activation_name(layer.activation, keras)
    return name if name in ("relu", "relu6", "softmax", "sigmoid", "linear") else None


def _split_activation(node: Node, problems: list[str]) -> list[Node]:
    """Separates a layer's activation: a ReLU becomes the node's, softmax and sigmoid a node."""
    layer = node.layers[0]
    if node.kind == "activation":
        name = _activation_name(layer)
        if name is None:
            problems.append(
                f"{node.label} is not supported: only relu, relu6, softmax and sigmoid are"
            )
        kinds = {"softmax": HEAD_KIND, "sigmoid": HEAD_KIND, "linear": "identity"}
        kind = kinds.get(name or "linear", "activation")
        return [
            dataclasses.replace(node, kind=kind, activation=name if kind == "activation" else None)
        ]
    if node.kind not in KERNEL_KINDS:
        return [node]
    name = _activation_name(layer)
    if name in ("relu", "relu6"):
        return [dataclasses.replace(node, activation=name)]
    if name in ("softmax", "sigmoid") and node.kind == "dense":
        config = layer.get_config() | {"activation": "linear"}
        linear = type(layer).from_config(config)
        linear.build(layer.kernel.shape[:1])
        linear.set_weights(layer.get_weights())
        head = keras.layers.Activation(name, name=f"{node.name}_{name}")
        return [
            dataclasses.replace(node, layers=(linear,)),
            Node(head.name, HEAD_KIND, (head,), (node.name,), node.shape),
        ]
    if name != "linear":
        problems.append(
            f"{node.label} has an activation that is not supported: only relu, relu6 and linear are"
        )
    return [node]


def _is_preprocessing(producer: Node, node: Node) -> bool:
    """Rescaling or Normalization of the input: applied in float, then quantized."""
    return node.kind == "preprocess" and producer.kind == "input"


def _is_batch_norm_of_conv(producer: Node, node: Node) -> bool:
    """A batch normalization folds into the convolution before it."""
    convolution = producer.kind in ("conv", "depthwise")
    return node.kind == "batch_norm" and convolution and producer.activation is None


def _is_relu_of_op(producer: Node, node: Node) -> bool:
    """A ReLU is the clamp of the op before it."""
    can_clamp = producer.kind in (*KERNEL_KINDS, "batch_norm", "add")
    return node.kind == "activation" and can_clamp and producer.activation is None


def _fuse(
    nodes: Sequence[Node], outputs: tuple[str, ...], can_fuse: Callable[[Node, Node], bool]
) -> tuple[list[Node], tuple[str, ...]]:
    """Takes nodes into the node before them where `can_fuse` and nobody else reads it."""
    readers = [name for node in nodes for name in node.inputs] + list(outputs)
    fused: dict[str, Node] = {}
    alias: dict[str, str] = {}
    for node in nodes:
        before = fused.get(alias.get(node.inputs[0], node.inputs[0])) if node.inputs else None
        if before and readers.count(node.inputs[0]) == 1 and can_fuse(before, node):
            alias[node.name] = before.name
            fused[before.name] = dataclasses.replace(
                before,
                layers=before.layers + node.layers,
                activation=node.activation,
                shape=node.shape,
            )
        else:
            inputs = tuple(alias.get(name, name) for name in node.inputs)
            fused[node.name] = dataclasses.replace(node, inputs=inputs)
    return list(fused.values()), tuple(alias.get(name, name) for name in outputs)


def _on_common_grids(graph: Graph) -> list[Node]:
    """Makes the inputs of every concatenation alike: TFLite's kernel only copies.

    Unsigned tensors that are concatenated with signed ones, and the network's inputs, get a
    "requantize" node; the plan then gives all of them one exponent.
    """
    signed: dict[str, Node] = {}
    nodes = []
    taken = {node.name for node in graph.nodes}
    for node in graph.nodes:
        if node.kind == "concat":
            inputs = []
            for name in node.inputs:
                source = graph[name]
                alike = graph.is_signed(source) == graph.is_signed(node)
                if alike and not _carries_input(graph, source):
                    inputs.append(name)
                    continue
                if name not in signed:
                    free = unused_name(f"{name}_signed", taken)
                    signed[name] = Node(free, "requantize", (), (name,), source.shape)
                    nodes.append(signed[name])
                inputs.append(signed[name].name)
            node = dataclasses.replace(node, inputs=tuple(inputs))
        nodes.append(node)
    return nodes


def _carries_input(graph: Graph, node: Node) -> bool:
    """Whether its codes or their means are those of the input, whose sign only the data tell."""
    if node.kind in (*PASSING_KINDS, "average_pool", "global_pool"):
        return _carries_input(graph, graph[node.inputs[0]])
    return node.kind == "input"


def _check(graph: Graph, problems: list[str]) -> None:
    """Raises one error that lists everything that cannot be quantized."""
    problems = list(problems)
    if all(node.kind in ("input", "identity", HEAD_KIND) for node in graph.nodes):
        problems.append("It has no layer that computes anything")
    for node in graph.nodes:
        reason = _why_not(node, graph)
        if reason:
            problems.append(f"{node.label} {reason}")
    if problems:
        listed = "\n  - ".join(dict.fromkeys(problems))
        supported = ", ".join(sorted(cls.__name__ for cls in LAYER_KINDS))
        raise ValueError(
            f"Model '{graph.name}' cannot be quantized:\n  - {listed}\n"
            f"Supported layers: {supported}. Replace these layers, or quantize the part of the "
            "model without them, or say how layers of your own are computed in integers: "
            "faq_keras.register(TheLayer, ...), see docs/custom_layers.md."
        )


def _why_not(node: Node, graph: Graph) -> str | None:
    """Why a node cannot be quantized, or None."""
    layer = node.layers[0]
    if getattr(layer, "data_format", None) == "channels_first":
        return "is channels_first: rebuild the model with data_format='channels_last'"
    rank = len(node.shape)
    if node.kind == "input" and node.name not in graph.outputs and not graph.consumers(node.name):
        return "is read by nothing that the model returns: build the model without this input"
    if len(node.inputs) > 1 and node.kind not in LIST_KINDS and type(layer) in LAYER_KINDS:
        return "reads several tensors: only additions and concatenations can"
    if node.kind == "affine" and rank not in (2, 4):
        return f"works on {rank} dimensions: flatten its input first"
    axis = getattr(layer, "axis", -1)
    if node.kind in ("affine", "concat") and axis not in (-1, rank - 1):
        return f"works along axis {axis}: only the last one, the channels, is supported"
    if node.kind == "concat" and rank not in (2, 4):
        return f"concatenates tensors of {rank} dimensions: only 2 and 4 are supported"
    if node.kind == "dense" and len(layer.kernel.shape) == 2 and len(node.shape) != 2:
        return "is applied to more than two dimensions: flatten its input first"
    if node.kind == "add":
        shapes = {graph[name].shape for name in node.inputs}
        if len(node.inputs) != 2 or len(shapes) != 1:
            return "must add exactly two tensors of the same shape"
    if node.kind == HEAD_KIND and graph.consumers(node.name):
        return "is not the model's last layer: softmax and sigmoid are supported at the output only"
    if node.kind == "preprocess":
        return "does not stand at the input, alone: preprocessing layers are supported there only"
    if node.kind != "input" and None in node.shape[1:]:
        return (
            f"has the output shape {node.shape}: height and width must be known. Rebuild the model "
            f"with a fixed "
            "keras.Input(shape)"
        )
    return None
