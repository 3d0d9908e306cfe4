"""The verdict: how close the quantized network is to the float one, and which layers cost most.

A quantized network can be broken without any error: it gives one class for everything, and its
integer file copies that exactly. So `apply` and every post-training step compare the outputs with
the float network's on some images. The figures go into the plan; a poor one is a warning that names
the layers with the most noise of their own and what to do next.

    seen = FirstImages()                               # calibration shows it its batches
    judge(graph, quantized, seen.images)               # into the plan, and a warning if it is poor
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.data.batches import Batch
from faq_keras.graph import HEAD_KIND, LIST_KINDS, Graph, Node, evaluate
from faq_keras.plan_parts import Agreement
from faq_keras.quantized_layer import QuantizedLayer
from faq_keras.rewrite.keras3 import plan_of, record

Array = npt.NDArray[np.floating]

IMAGES = 128  # that a verdict looks at, at most
_CHUNK = 32
_NAMED = 3  # layers that a warning names
_LOOKED_AT = 8  # images for the noise of single layers
# By whether all layers have 8 bits: the least share of images with the float network's top-1, and
# the noise at which an output is far from the float one. Scores with less noise that give another
# top-1 lie close together in the float network already.
_LEAST_TOP1 = {True: 0.97, False: 0.90}
_LEAST_SQNR = {True: 25.0, False: 18.0}


class FirstImages:
    """Keeps the first images that calibration shows it.

    Attributes:
        images: What it has seen, by input name; empty before the first batch.
    """

    def __init__(self, most: int = IMAGES) -> None:
        self._most = most
        self.images: Batch = {}

    def __call__(self, batch: Batch) -> None:
        """Takes in a batch."""
        if not self.images:
            self.images = {name: values[: self._most].copy() for name, values in batch.items()}
            return
        missing = self._most - len(next(iter(self.images.values())))
        if missing > 0:
            self.images = {
                name: np.concatenate([values, batch[name][:missing]])
                for name, values in self.images.items()
            }


def scored_nodes(graph: Graph) -> dict[str, Node]:
    """The quantized node whose tensor is compared for each output, by the output's name.

    That of a softmax or sigmoid is what it reads: the logits.
    """
    carriers = graph.carriers()
    found = {}
    for name in graph.outputs:
        node = graph[name]
        found[name] = graph[carriers[node.inputs[0] if node.kind == HEAD_KIND else name]]
    return found


def is_classifier(graph: Graph, output: str) -> bool:
    """Whether an output holds the scores of classes: a vector, and not behind a sigmoid."""
    node = graph[output]
    function = getattr(node.layers[-1], "activation", None) if node.layers else None
    is_sigmoid = node.kind == HEAD_KIND and getattr(function, "__name__", "") == "sigmoid"
    return len(node.shape) == 2 and (node.shape[-1] or 0) > 1 and not is_sigmoid


def judge(graph: Graph, quantized: keras.Model, images: Batch, warn: bool = True) -> None:
    """Notes in a quantized network's plan how close it is to the float one.

    Args:
        graph: The float network.
        quantized: The Keras 3 model that was made of it.
        images: Inputs by name; nothing happens without any.
        warn: Whether a poor agreement is a warning.
    """
    if images:
        compared = compare(graph, quantized, images)
        record(quantized, agreement=compared)
        if warn:
            warn_if_poor(compared, graph, quantized, images)


def compare(graph: Graph, quantized: keras.Model, images: Batch) -> tuple[Agreement, ...]:
    """Compares the outputs of the float and the quantized network.

    Args:
        graph: The float network.
        quantized: The Keras 3 model that was made of it.
        images: Inputs by name, `[images, ...]` each.

    Returns:
        The agreement of each output: SQNR of its logits, and for classifiers the share of images
        with the same top-1.
    """
    scored = scored_nodes(graph)
    names = list(dict.fromkeys(node.name for node in scored.values()))
    expected = float_values(graph, images, names)
    got = quantized_values(graph, quantized, images, names)
    return tuple(
        agreement_of(output, expected[node.name], got[node.name], is_classifier(graph, output))
        for output, node in scored.items()
    )


def agreement_of(output: str, expected: Array, got: Array, classifier: bool) -> Agreement:
    """How close values are to the float network's.

    Args:
        output: Name of the output.
        expected: The float network's, `[images, ...]`.
        got: The quantized network's, of the same shape.
        classifier: Whether the last axis holds the scores of classes. Then what is added to all of
            an image's scores does not count as noise.
    """
    top1 = None
    if classifier:
        top1 = float(np.mean(expected.argmax(-1) == got.argmax(-1)))
        expected, got = (scores - scores.mean(-1, keepdims=True) for scores in (expected, got))
    return Agreement(output, len(expected), top1, round(sqnr(expected, got), 2))


def sqnr(expected: Array, got: Array) -> float:
    """The signal to quantization noise ratio in dB, between -100 and 100."""
    signal = float(np.sum(np.square(expected, dtype=np.float64)))
    noise = float(np.sum(np.square(np.asarray(got, np.float64) - expected)))
    if not noise:
        return 100.0
    return float(np.clip(10 * np.log10(max(signal / noise, 1e-10)), -100, 100))


def float_values(graph: Graph, images: Batch, names: Sequence[str]) -> dict[str, Array]:
    """The float network's tensors of these nodes, chunk by chunk."""

    def forward(chunk: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return evaluate(graph, chunk, lambda node, read: node.float_call(read), keep=set(names))

    return _in_chunks(forward, images)


def quantized_values(
    graph: Graph, quantized: keras.Model, images: Batch, names: Sequence[str]
) -> dict[str, Array]:
    """The quantized network's tensors of the layers of these names, chunk by chunk."""
    layers = _quantized_layers(quantized)

    def call(node: Node, read: list[tf.Tensor]) -> tf.Tensor:
        if node.name not in layers:  # it leaves codes alone
            return node.float_call(read)
        return layers[node.name](read if node.kind in LIST_KINDS else read[0], training=False)

    return _in_chunks(lambda chunk: evaluate(graph, chunk, call, keep=set(names)), images)


def _quantized_layers(quantized: keras.Model) -> dict[str, QuantizedLayer]:
    """The quantized layers by the names of their nodes."""
    found = [layer for layer in quantized.layers if isinstance(layer, QuantizedLayer)]
    return {layer.plan.name: layer for layer in found}


def _in_chunks(forward: Any, images: Batch) -> dict[str, Array]:
    count = len(next(iter(images.values())))
    parts: list[dict[str, Array]] = []
    for start in range(0, count, _CHUNK):
        chunk = {name: tf.constant(x[start : start + _CHUNK]) for name, x in images.items()}
        parts.append({name: np.asarray(value) for name, value in forward(chunk).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def layer_noise(graph: Graph, quantized: keras.Model, images: Batch) -> dict[str, float]:
    """The noise that each quantized layer adds: SQNR in dB of its output on float inputs.

    Args:
        graph: The float network.
        quantized: The Keras 3 model that was made of it.
        images: Inputs by name; a few are enough.
    """
    layers = _quantized_layers(quantized)
    found: dict[str, float] = {}

    def call(node: Node, read: list[tf.Tensor]) -> tf.Tensor:
        value = node.float_call(read)
        if node.kind != "input" and node.name in layers:
            got = layers[node.name](read if node.kind in LIST_KINDS else read[0], training=False)
            found[node.name] = sqnr(np.asarray(value), np.asarray(got))
        return value

    few = {name: tf.constant(values[:_LOOKED_AT]) for name, values in images.items()}
    evaluate(graph, few, call, keep=())
    return found


def warn_if_poor(
    compared: Sequence[Agreement], graph: Graph, quantized: keras.Model, images: Batch
) -> None:
    """Warns if an output is far from the float network's, and says what to do.

    Args:
        compared: What `compare` gave.
        graph: The float network.
        quantized: The Keras 3 model that was made of it.
        images: Inputs by name, to find the layers that cost most.
    """
    settings = plan_of(quantized).settings
    wide = min(settings.weight_bits, settings.activation_bits) >= 8
    poor = [entry for entry in compared if _is_poor(entry, wide)]
    if poor:
        noise = layer_noise(graph, quantized, images)
        warnings.warn(_warning(poor, noise), UserWarning, stacklevel=4)


def _is_poor(entry: Agreement, wide: bool) -> bool:
    if entry.sqnr >= _LEAST_SQNR[wide]:
        return False
    if entry.top1 is None:
        return True
    differ = round((1 - entry.top1) * entry.images)
    return entry.top1 < _LEAST_TOP1[wide] and differ > 1


def _warning(poor: Sequence[Agreement], noise: Mapping[str, float]) -> str:
    worst = sorted(noise, key=lambda name: noise[name])[:_NAMED]
    layers = ", ".join(f"'{name}' ({noise[name]:.1f} dB)" for name in worst)
    outputs = "; ".join(str(entry) for entry in poor)
    return (
        f"The quantized network is far from the float one: {outputs}. The layers that add the most "
        f"noise: {layers}. Next: faq_keras.reconstruct(q, images) with 64 to 512 unlabelled "
        "images, or faq_keras.fine_tune with labels, or more bits for these layers with "
        "policy=Policy(overrides={name: 8})."
    )
