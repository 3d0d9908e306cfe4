"""Layers with few bits, each corrected as if it were the only one that `reconstruct` corrects.

The network around it stays as it is, so one walk through it corrects the variants of all layers: on
what the network gives a layer, each of its variants gets second-order rounding and the float
network's channel means.

    layers = corrected_layers(model, graph, base_plan, images, [("conv1", plan_with_4_bits)])
    runner.scores(plan_with_4_bits, tensors, {"conv1": layers[0]})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from faq_keras.graph import KERNEL_KINDS, Graph, Node
from faq_keras.plan import QuantPlan
from faq_keras.post_training.correction import Inputs, Options, Solution, correct
from faq_keras.post_training.network import Step, trace
from faq_keras.post_training.reconstruction import LEAST_IMAGES
from faq_keras.post_training.store import ActivationStore
from faq_keras.post_training.teacher import Statistics, measure
from faq_keras.post_training.walk import Walk
from faq_keras.quantized_layer import QuantizedLayer
from faq_keras.rewrite.keras3 import quantize_model, quantized_layer
from faq_keras.rewrite.rebuild import LayerCopies

MOST_IMAGES = 256
_BATCH_SIZE = 32


def corrected_layers(
    model: keras.Model,
    graph: Graph,
    base: QuantPlan,
    images: npt.NDArray[np.float32],
    variants: Sequence[tuple[str, QuantPlan]],
    options: Options | None = None,
) -> list[QuantizedLayer | None]:
    """A quantized layer with weights of its own for each variant.

    Args:
        model: The float Keras 3 model, with one input; left untouched.
        graph: Its graph.
        base: The plan of the network in which the variants stand.
        images: `[images, ...]` as the model takes them; the first 256 are used.
        variants: Names of nodes, and plans that differ from the base in that node's weights alone.
        options: What to correct; by default codes and means.

    Returns:
        A layer per variant, in their order; None for nodes that `reconstruct` does not correct.

    Raises:
        ValueError: There are fewer than 32 images; activations that are not finite; a full disk.
    """
    images = images[:MOST_IMAGES]
    if len(images) < LEAST_IMAGES:
        raise ValueError(
            f"after='reconstruct' has {len(images)} images; it needs at least {LEAST_IMAGES}, "
            f"better {MOST_IMAGES}: kernels are rounded on what they give."
        )
    layers = [
        _with_own_weights(graph, graph[name], plan) if graph[name].kind in KERNEL_KINDS else None
        for name, plan in variants
    ]
    waiting: dict[str, list[QuantizedLayer]] = {}
    for (name, _), layer in zip(variants, layers, strict=True):
        if layer is not None:
            waiting.setdefault(name, []).append(layer)

    def solve(step: Step, inputs: Inputs, statistics: Statistics, options: Options) -> Solution:
        for layer in waiting.get(step.name, ()):
            correct(dataclasses.replace(step, layer=layer), inputs, statistics, options)
        return Solution()

    network = trace(quantize_model(model, graph, base))
    with ActivationStore(planned=network.peak_bytes(len(images))) as store:
        for name in network.input_shapes:
            store.append(name, images)
        measured = measure(network, store, len(images), _BATCH_SIZE)
        walk = Walk(network, store, measured, len(images), _BATCH_SIZE, solve=solve)
        walk.run(options or Options())
    return layers


def _with_own_weights(graph: Graph, node: Node, plan: QuantPlan) -> QuantizedLayer:
    """A node's quantized layer around copies of its float layers."""
    copies = LayerCopies()
    layer = quantized_layer(node, plan, [copies(part) for part in node.layers])
    (source,) = node.inputs
    symbolic: Any = keras.KerasTensor((None, *graph[source].shape[1:]), "float32")
    layer(symbolic)  # builds the copies
    copies.transfer_weights()
    return layer
