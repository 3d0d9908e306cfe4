"""Activity regularizers: what a penalty on a layer's output means once layers are one integer op.

The output of the last float layer of an op is the quantized layer's own output, so the quantized
layer has its regularizer. The outputs inside an op (a convolution's before its batch normalization)
are tensors that a quantized network does not have; a penalty on them would silently stop to act, so
such networks are refused.

    layer.activity_regularizer = of_last(layer.float_layers)
    check_graph(read_graph(model))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faq_keras.compat import is_tf_keras
from faq_keras.graph import Graph, Node


def of_last(layers: Sequence[Any]) -> Any:
    """The activity regularizer of the last layer, if there is one."""
    return getattr(layers[-1], "activity_regularizer", None) if layers else None


def check_graph(graph: Graph) -> None:
    """Checks that every regularized output is one that the quantized network has.

    Raises:
        ValueError: If there are others; all are listed.
    """
    _refuse(graph.name, [problem for node in graph.nodes for problem in _problems(node)])


def check_configurations(model: Any) -> None:
    """Checks that a tf_keras model's regularizers stand where copies of its layers get them from.

    Raises:
        ValueError: If one does not; all are listed.
    """
    problems = [
        f"{_label(layer)} has one that tf_keras does not keep in the layer's configuration: give "
        "it to the layer with weights in front, with this activation as its argument"
        for layer in model._flatten_layers(include_self=False)
        if of_last([layer]) is not None and "activity_regularizer" not in layer.get_config()
    ]
    _refuse(model.name, problems if is_tf_keras(model) else [])


def _problems(node: Node) -> list[str]:
    if node.kind == "input":
        return []  # preprocessing layers run as they are
    last = node.layers[-1:]
    problems = [
        f"{_label(layer)} has one, but is computed in one op with '{last[0].name}': give it to "
        "that layer"
        for layer in node.layers[:-1]
        if of_last([layer]) is not None
    ]
    # The graph reader copies a dense layer to separate its softmax or sigmoid from it.
    if node.kind == "dense" and of_last(last) is not None and not last[0]._inbound_nodes:
        problems.append(
            f"{_label(last[0])} has one behind its softmax or sigmoid, which is no part of the op: "
            "make the activation a layer of its own, and give it to that"
        )
    return problems


def _label(layer: Any) -> str:
    return f"Layer '{layer.name}' ({type(layer).__name__})"


def _refuse(name: str, problems: list[str]) -> None:
    if problems:
        listed = "\n  - ".join(problems)
        raise ValueError(
            f"Model '{name}' has activity regularizers that its quantized network could not "
            f"apply:\n  - {listed}\nOr remove them, activity_regularizer=None."
        )
