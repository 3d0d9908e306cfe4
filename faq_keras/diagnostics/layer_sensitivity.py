"""Which layers lose how much: quantize one layer to few bits, everything else to 8.

The network is calibrated once. From the measured ranges comes one plan per layer and bit width, and
only the part of the network behind the changed layer runs again, so ResNet-20 takes a minute or
two for 1,000 images.

    s = sensitivity(model, (images, labels), bits=4)
    print(s)                                    # a table, the worst layer first
    s.drops["conv1"]                            # 0.013: accuracy lost by this layer alone
    s = sensitivity(model, (images, labels), bits=(2, 3, 4, 5, 6), parts="weights")
    q = faq_keras.apply(model, 4, images, policy=suggest_policy(s, s.uniform_bytes(4)))

Second-order rounding recovers most of what some layers lose and little of what others do. For a
network that is going to be reconstructed, measure with `after="reconstruct"`.

Few images show an accuracy only in coarse steps. Layers are therefore ranked by a finer measure:
the divergence (Kullback-Leibler, in nats, mean over images) of the network's class probabilities
from the float network's, which needs no labels.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.calibration import Range, calibrate
from faq_keras.diagnostics.corrected_layers import corrected_layers
from faq_keras.diagnostics.labelled_data import labelled_arrays
from faq_keras.diagnostics.plan_runner import PlanRunner, Variant
from faq_keras.graph import KERNEL_KINDS, Graph
from faq_keras.graph_reader import read_graph
from faq_keras.plan import PlanSettings, QuantPlan
from faq_keras.plan_maker import make_plan
from faq_keras.policy import (
    Bits,
    Policy,
    check_bits,
    first_layers,
    last_layers,
    layer_bits,
    percentiles,
)

WIDE = 8  # bits of everything else
PARTS = ("layer", "weights", "activations")
AFTER = ("apply", "reconstruct")
_MOST_VALUES = 2**26  # of all tensors of a chunk of images together

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class LayerSensitivity:
    """What the network loses when one layer alone is quantized to few bits.

    Attributes:
        name: The layer.
        kind: Its kind in the graph, such as "conv" or "add".
        bits: Its bits; all other layers have 8.
        accuracy: Top-1 of the network (0..1); without labels, the share of images on which it
            agrees with the float network.
        drop: Accuracy lost against all layers at 8 bits.
        divergence: Mean divergence of the class probabilities from the float network's, in nats.
    """

    name: str
    kind: str
    bits: int
    accuracy: float
    drop: float
    divergence: float


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """The sensitivity of all layers of a network.

    Attributes:
        model: The network's name.
        images: How many images were used.
        parts: What of a layer was quantized: "layer", "weights" or "activations".
        float_accuracy: Top-1 of the float network (1 without labels).
        accuracy: Top-1 with all layers at 8 bits.
        divergence: Divergence with all layers at 8 bits.
        layers: One entry per layer and width, in the order of the network.
        weights: Number of weights of every kernel, also of those that were not measured.
        ends: The first and the last layers, which a policy keeps at 8 bits.
        after: "apply": layers as they are quantized; "reconstruct": the layer with few bits was
            corrected first.
    """

    model: str
    images: int
    parts: str
    float_accuracy: float
    accuracy: float
    divergence: float
    layers: tuple[LayerSensitivity, ...]
    weights: Mapping[str, int]
    ends: tuple[str, ...]
    after: str = "apply"

    @property
    def ranked(self) -> list[LayerSensitivity]:
        """The entries, the largest divergence first."""
        return sorted(self.layers, key=lambda layer: -layer.divergence)

    @property
    def drops(self) -> dict[str, float]:
        """Accuracy lost by each layer, at the lowest width measured."""
        by_width = sorted(self.layers, key=lambda layer: -layer.bits)
        found = {layer.name: layer.drop for layer in by_width}
        return {layer.name: found[layer.name] for layer in self.layers}

    def uniform_bytes(self, bits: int) -> int:
        """Bytes of all kernels at one width, first and last layers at 8 bits."""
        widths = {name: WIDE if name in self.ends else bits for name in self.weights}
        return sum(kernel_bytes(self.weights[name], width) for name, width in widths.items())

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(dataclasses.asdict(self) | {"weights": dict(self.weights)})

    @classmethod
    def from_json(cls, text: str) -> Sensitivity:
        """The inverse of `to_json`; what was written before there was `after` has "apply"."""
        data = json.loads(text)
        data["layers"] = tuple(LayerSensitivity(**layer) for layer in data["layers"])
        return cls(**data | {"ends": tuple(data["ends"])})

    def __str__(self) -> str:
        width = max(len("all at 8 bits"), *(len(layer.name) for layer in self.layers))
        what = self.parts if self.after == "apply" else f"{self.parts}, after {self.after}"
        lines = [
            f"Sensitivity of {self.model} ({what}) on {self.images:,} images",
            f"{'layer':<{width}}  bits  accuracy    drop  divergence",
            f"{'float':<{width}}     -  {self.float_accuracy:8.4f}",
            f"{'all at 8 bits':<{width}}     8  {self.accuracy:8.4f} {'':7}  "
            f"{self.divergence:10.5f}",
        ]
        lines += [
            f"{row.name:<{width}}  {row.bits:4d}  {row.accuracy:8.4f} {row.drop:7.4f}  "
            f"{row.divergence:10.5f}"
            for row in self.ranked
        ]
        return "\n".join(lines)


def kernel_bytes(weights: int, bits: int) -> int:
    """Bytes of a kernel whose weights are packed at their own width."""
    return math.ceil(weights * bits / 8)


def sensitivity(
    model: keras.Model,
    data: Any,
    bits: int | Sequence[int] = 4,
    calibration_data: Any = None,
    calibration_batches: int = 5,
    parts: str = "layer",
    images: int = 1000,
    policy: Policy | None = None,
    after: str = "apply",
) -> Sensitivity:
    """Measures what each layer alone loses at few bits.

    Args:
        model: A float classifier, as for `faq_keras.apply`, with one input and one output.
        data: `(images, labels)` arrays, a `tf.data.Dataset` or iterable of such batches, or images
            without labels. Labels are class numbers or one-hot rows.
        bits: The width, or several, from 2 to 7.
        calibration_data: As for `faq_keras.apply`; None takes the images of `data`.
        calibration_batches: As for `faq_keras.apply`.
        parts: "layer" quantizes a layer's weights and its output, "weights" or "activations" one of
            them. Outputs without a ReLU always have 8 bits.
        images: How many images to use at most.
        policy: Deviations from the paper's rules for the network at 8 bits.
        after: "reconstruct" rounds the kernel with few bits as `faq_keras.reconstruct` does, and
            corrects its channel means, on the first 256 of the images (at least 32), before its
            effect is measured; the layers at 8 bits are left alone. With parts="weights" only.

    Raises:
        ValueError: As for `faq_keras.apply`; a network with several inputs or outputs, or without
            classes; data without images, too few of them, or labels that do not fit.
    """
    _check_choices(parts, after)
    widths = _checked_widths(bits)
    graph = read_graph(model)
    x, y = labelled_arrays(graph, data, images)
    plans = _Plans(graph, policy or Policy(), parts)
    plans.calibrate(
        x if calibration_data is None else calibration_data, calibration_batches, widths
    )
    variants = _variants(plans, widths)
    if after == "reconstruct":
        variants = _corrected(model, graph, plans.base, x, variants)
    runner = PlanRunner(graph, plans.base)
    totals = _measure(runner, x, y, _chunk(graph), [Variant("", WIDE, plans.base), *variants])
    float_total, base, *rest = (total.means() for total in totals)
    rows = [
        LayerSensitivity(v.name, graph[v.name].kind, v.bits, accuracy, base[0] - accuracy, nats)
        for v, (accuracy, nats) in zip(variants, rest, strict=True)
    ]
    found = _result(graph, parts, len(x), float_total[0], base, rows)
    return dataclasses.replace(found, after=after)


def _variants(plans: _Plans, widths: Iterable[int]) -> list[Variant]:
    """All that differ from the base."""
    return [
        Variant(name, width, plan)
        for width in widths
        for name, plan in plans.variants(width)
        if plan != plans.base
    ]


def _corrected(
    model: keras.Model, graph: Graph, base: QuantPlan, x: Array, variants: list[Variant]
) -> list[Variant]:
    """The same with corrected layers."""
    named = [(variant.name, variant.plan) for variant in variants]
    layers = corrected_layers(model, graph, base, x, named)
    pairs = zip(variants, layers, strict=True)
    return [dataclasses.replace(variant, layer=layer) for variant, layer in pairs]


def _check_choices(parts: str, after: str) -> None:
    if parts not in PARTS:
        raise ValueError(f"parts has to be one of {', '.join(PARTS)}. Received: {parts!r}.")
    if after not in AFTER:
        raise ValueError(f"after has to be one of {', '.join(AFTER)}. Received: {after!r}.")
    if after == "reconstruct" and parts != "weights":
        raise ValueError(
            f"after='reconstruct' corrects kernels: give parts='weights'. Received: {parts!r}."
        )


def _checked_widths(bits: int | Sequence[int]) -> list[int]:
    widths = [check_bits(w, "bits") for w in (bits if isinstance(bits, Sequence) else [bits])]
    if not widths or max(widths) >= WIDE:
        raise ValueError(f"bits have to be below {WIDE}, which all other layers have: {bits!r}.")
    return widths


def _result(
    graph: Graph,
    parts: str,
    images: int,
    float_accuracy: float,
    base: tuple[float, float],
    rows: Sequence[LayerSensitivity],
) -> Sensitivity:
    """The rows in the order of the network, with what is known of its kernels."""
    order = {node.name: place for place, node in enumerate(graph.nodes)}
    kernels = [node for node in graph.nodes if node.kind in KERNEL_KINDS]
    ends = first_layers(graph) | last_layers(graph)
    return Sensitivity(
        model=graph.name,
        images=images,
        parts=parts,
        float_accuracy=float_accuracy,
        accuracy=base[0],
        divergence=base[1],
        layers=tuple(sorted(rows, key=lambda row: (order[row.name], row.bits))),
        weights={node.name: math.prod(node.layers[0].kernel.shape) for node in kernels},
        ends=tuple(node.name for node in kernels if node.name in ends),
    )


class _Plans:
    """The plans of one network, all from the same measured ranges.

    Attributes:
        base: The plan with all layers at 8 bits.
    """

    def __init__(self, graph: Graph, policy: Policy, parts: str) -> None:
        self._graph, self._policy, self._parts = graph, policy, parts
        self._settings = PlanSettings(WIDE, WIDE, scales=policy.scales)
        self._ranges: dict[tuple[str, float], Range] = {}

    def calibrate(self, data: Any, batches: int, widths: Iterable[int]) -> None:
        """Measures every percentile that one of the plans needs, each tensor in one or two runs."""
        if isinstance(data, Iterator):  # it is read twice
            data = list(itertools.islice(data, batches))
        narrow = {node.name: min(widths) for node in self._graph.quantized_nodes}
        for overrides in ({}, {re.escape(n): b for n, b in narrow.items() if n in self._names()}):
            wanted = self._percentiles(self._with(overrides))
            missing = {n: p for n, p in wanted.items() if (n, p) not in self._ranges}
            found = calibrate(self._graph, data, batches, missing)
            self._ranges.update({(n, wanted[n]): measured for n, measured in found.items()})
        self.base = self._plan(self._policy)

    def variants(self, bits: int) -> Iterator[tuple[str, QuantPlan]]:
        """The plan of each layer that alone has few bits."""
        choices: dict[str, Bits] = {
            "layer": bits,
            "weights": (bits, None),
            "activations": (None, bits),
        }
        for name in self._names():
            yield name, self._plan(self._with({re.escape(name): choices[self._parts]}))

    def _names(self) -> list[str]:
        return [node.name for node in self._graph.quantized_nodes if node.kind != "input"]

    def _with(self, overrides: Mapping[str, Bits]) -> Policy:
        return dataclasses.replace(self._policy, overrides={**self._policy.overrides, **overrides})

    def _percentiles(self, policy: Policy) -> dict[str, float]:
        return percentiles(self._graph, layer_bits(self._graph, self._settings, policy), None)

    def _plan(self, policy: Policy) -> QuantPlan:
        ranges = {name: self._ranges[name, p] for name, p in self._percentiles(policy).items()}
        return make_plan(self._graph, ranges, self._settings, policy)


@dataclasses.dataclass
class _Total:
    """Sums over images."""

    images: int = 0
    correct: int = 0
    divergence: float = 0.0

    def add(self, reference: Array, scores: Array, labels: Array) -> None:
        """Takes in log-probabilities of the float network, scores, and the right classes."""
        logs = _log_softmax(scores)
        self.images += len(logs)
        self.correct += int(np.count_nonzero(logs.argmax(-1) == labels))
        self.divergence += float(np.sum(np.exp(reference) * (reference - logs)))

    def means(self) -> tuple[float, float]:
        """Accuracy and divergence."""
        return self.correct / self.images, self.divergence / self.images


def _measure(
    runner: PlanRunner, x: Array, y: Array | None, chunk: int, variants: Sequence[Variant]
) -> list[_Total]:
    """The float network's total, and each variant's."""
    totals = [_Total() for _ in range(len(variants) + 1)]
    for start in range(0, len(x), chunk):
        images = tf.constant(x[start : start + chunk])
        reference = _log_softmax(runner.float_scores(images).numpy())
        labels = reference.argmax(-1) if y is None else y[start : start + chunk]
        totals[0].add(reference, reference, labels)
        tensors = runner.tensors(images)
        for total, variant in zip(totals[1:], variants, strict=True):
            total.add(reference, variant.scores(runner, tensors), labels)
        _log().info("Sensitivity: %d of %d images.", start + len(images), len(x))
    return totals


def _log_softmax(scores: Array) -> Array:
    scores = scores.astype(np.float64)
    scores = scores - scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def _chunk(graph: Graph) -> int:
    """How many images' tensors are affordable at once."""
    shapes = [[size or 1 for size in node.shape[1:]] for node in graph.nodes]
    return max(1, _MOST_VALUES // sum(map(math.prod, shapes)))


def _log() -> logging.Logger:
    return logging.getLogger(__name__)
