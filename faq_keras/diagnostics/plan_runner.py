"""One network under many plans that differ in a layer or two: only what differs is computed.

The base plan's tensors of a chunk of images are computed once. Another plan takes them over up to
its first layer that differs, and again for every branch that the change does not reach:

    runner = PlanRunner(graph, base_plan)
    tensors = runner.tensors(images)
    scores = runner.scores(other_plan, tensors)      # float32 [images, classes]

Layers are the quantized layers themselves, around the float model's own layers (which are only
read), each compiled once for each different entry in the plans. A layer with weights of its own may
stand for one of them: `runner.scores(other_plan, tensors, {"conv1": layer})`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy.typing as npt
import tensorflow as tf

from faq_keras.graph import HEAD_KIND, Graph, Node, evaluate
from faq_keras.plan import LayerPlan, QuantPlan, TensorSpec
from faq_keras.quantized_layer import QuantizedLayer
from faq_keras.rewrite.keras3 import quantized_layer

Tensors = Mapping[str, tf.Tensor]
_Key = tuple[LayerPlan, tuple[TensorSpec, ...]]


class PlanRunner:
    """Runs plans of one graph.

    Args:
        graph: A float network with one input and one output.
        base: The plan that the others are compared with.
    """

    def __init__(self, graph: Graph, base: QuantPlan) -> None:
        self._graph, self._base = graph, base
        self._layers: dict[tuple[_Key, QuantizedLayer | None], Callable[..., tf.Tensor]] = {}
        self._float = tf.function(self._float_scores, reduce_retracing=True, jit_compile=False)

    @property
    def scored(self) -> Node:
        """The node that gives the scores: the logits, before a softmax."""
        node = self._graph[self._graph.outputs[0]]
        return self._graph[node.inputs[0]] if node.kind == HEAD_KIND else node

    def float_scores(self, images: tf.Tensor) -> tf.Tensor:
        """What the float network gives, `[images, classes]`."""
        return self._float(images)

    def tensors(self, images: tf.Tensor) -> Tensors:
        """The output of every node under the base plan."""
        inputs = {self._graph.inputs[0]: images}
        return evaluate(self._graph, inputs, lambda node, x: self._call(self._base, node, x))

    def scores(
        self,
        plan: QuantPlan,
        tensors: Tensors,
        layers: Mapping[str, QuantizedLayer] | None = None,
    ) -> tf.Tensor:
        """The scores under another plan, `[images, classes]`.

        Args:
            plan: A plan that differs from the base anywhere but in the input.
            tensors: What `tensors` gave.
            layers: Layers that stand for nodes, with weights of their own and the plan's entries.
        """
        own = layers or {}
        changed: dict[str, tf.Tensor] = {}
        for node in self._graph.nodes:
            moved = node.name in own or any(name in changed for name in node.inputs)
            if moved or _key(plan, node) != _key(self._base, node):
                read = [changed.get(name, tensors[name]) for name in node.inputs]
                changed[node.name] = self._call(plan, node, read, own.get(node.name))
        last = self.scored.name
        return changed.get(last, tensors[last])

    def _float_scores(self, images: tf.Tensor) -> tf.Tensor:
        inputs = {self._graph.inputs[0]: images}
        values = evaluate(self._graph, inputs, lambda node, x: node.float_call(x))
        return values[self.scored.name]

    def _call(
        self,
        plan: QuantPlan,
        node: Node,
        inputs: list[tf.Tensor],
        layer: QuantizedLayer | None = None,
    ) -> tf.Tensor:
        key = _key(plan, node)
        if key is None:
            return node.float_call(inputs)
        if (key, layer) not in self._layers:
            used = _around_own(node, plan) if layer is None else layer
            self._layers[key, layer] = self._compiled(node, used)
        return self._layers[key, layer](*inputs)

    def _compiled(self, node: Node, layer: QuantizedLayer) -> Callable[..., tf.Tensor]:
        shapes = [self._graph[name].shape for name in node.inputs] or [node.shape]
        signature = [tf.TensorSpec((None, *shape[1:]), tf.float32) for shape in shapes]

        def call(*inputs: Any) -> tf.Tensor:
            return layer(list(inputs) if len(inputs) > 1 else inputs[0])

        compiled = tf.function(call, input_signature=signature, jit_compile=False)
        return compiled.get_concrete_function()


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """A network of which one layer has few bits.

    Attributes:
        name: That layer.
        bits: Its bits.
        plan: The network's plan.
        layer: The layer with weights of its own, or None.
    """

    name: str
    bits: int
    plan: QuantPlan
    layer: QuantizedLayer | None = None

    def scores(self, runner: PlanRunner, tensors: Tensors) -> npt.NDArray[Any]:
        """Its scores, `[images, classes]`, from the tensors of the runner's base plan."""
        layers = {} if self.layer is None else {self.name: self.layer}
        scores: npt.NDArray[Any] = runner.scores(self.plan, tensors, layers).numpy()
        return scores


def _around_own(node: Node, plan: QuantPlan) -> QuantizedLayer:
    """A node's quantized layer around the float model's own layers."""
    own = [layer for layer in node.layers if not isinstance(layer, keras.layers.InputLayer)]
    return quantized_layer(node, plan, own)


def _key(plan: QuantPlan, node: Node) -> _Key | None:
    """All that a quantized node's arithmetic depends on; None for nodes without a plan entry."""
    if node.name not in plan:
        return None
    return plan[node.name], plan.input_specs(node.name)
