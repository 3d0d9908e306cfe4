"""What quantization does to each activation tensor: ranges, saturation, and the noise it adds.

The images run through the quantized network and its float twin, side by side:

    statistics = activation_statistics(q, images)
    print(statistics)                               # a table
    tensor = statistics["conv1"]
    tensor.sqnr, tensor.own_sqnr                    # dB: all noise up to here; this tensor's alone
    tensor.histogram, tensor.edges, tensor.clip     # of the float tensor, and where it is cut off

A tensor whose own ratio is low has the wrong range or too few bits (many saturated codes: the clip
line is too low; few bits used: too high). Where only the first ratio is low, the noise comes from
layers before it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from faq_keras.calibration import float_forward
from faq_keras.data.batches import input_batches
from faq_keras.graph_reader import read_graph
from faq_keras.plan import LayerPlan
from faq_keras.plan_fit import check_fits
from faq_keras.quantized_layer import QuantizedLayer
from faq_keras.rewrite.keras3 import float_model, plan_of
from faq_keras.training.watch import Taps, code_counts, state_of_counts

_REACH = 2.0  # the histogram goes to this multiple of the clip line

Values = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class TensorStatistics:
    """The output of one quantized layer.

    Attributes:
        name: The layer.
        kind: Its kind in the plan.
        bits: Bits of its codes.
        exponent: The paper's `l`: a step of the grid is `2**exponent`.
        signed: Whether codes may be negative.
        clip: The largest value that has a code; an unsigned tensor begins at 0, a signed one
            about at `-clip`.
        saturation: Share of the codes at the end of the range.
        zeros: Share of the codes that are zero.
        bits_used: Logarithm to base 2 of the number of distinct codes.
        sqnr: Power of the float tensor over that of the difference, in dB; with the noise of all
            layers before it. None if there is no difference or nothing but zeros.
        own_sqnr: The same if the float tensor alone were quantized.
        minimum: Smallest value of the float tensor.
        maximum: Largest value of the float tensor.
        edges: Edges of the histogram's bins, from 0 or `-2 * clip` to `2 * clip`.
        histogram: Values of the float tensor in each bin; the outer bins have all that is beyond.
    """

    name: str
    kind: str
    bits: int
    exponent: int
    signed: bool
    clip: float
    saturation: float
    zeros: float
    bits_used: float
    sqnr: float | None
    own_sqnr: float | None
    minimum: float
    maximum: float
    edges: tuple[float, ...]
    histogram: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ActivationStatistics:
    """The tensors of a network.

    Attributes:
        model: The network's name.
        images: How many images were used.
        tensors: One entry per quantized layer, in the order of the network.
    """

    model: str
    images: int
    tensors: tuple[TensorStatistics, ...]

    def __getitem__(self, name: str) -> TensorStatistics:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        names = ", ".join(tensor.name for tensor in self.tensors)
        raise KeyError(f"There are no statistics of {name!r}; there are those of {names}.")

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ActivationStatistics:
        """The inverse of `to_json`."""
        data = json.loads(text)
        tensors = [
            TensorStatistics(**t | {"edges": tuple(t["edges"]), "histogram": tuple(t["histogram"])})
            for t in data["tensors"]
        ]
        return cls(data["model"], data["images"], tuple(tensors))

    def __str__(self) -> str:
        width = max(len("tensor"), *(len(tensor.name) for tensor in self.tensors))
        lines = [
            f"Activations of {self.model} on {self.images:,} images (ratios in dB)",
            f"{'tensor':<{width}}  bits  used       clip    maximum  saturated  zeros   sqnr"
            "    own",
        ]
        lines += [
            f"{t.name:<{width}}  {t.bits:4d}  {t.bits_used:4.1f} {t.clip:10.4g} {t.maximum:10.4g}  "
            f"{100 * t.saturation:7.3f} %  {t.zeros:5.3f} {_decibels(t.sqnr)} "
            f"{_decibels(t.own_sqnr)}"
            for t in self.tensors
        ]
        return "\n".join(lines)


def _decibels(ratio: float | None) -> str:
    return "     -" if ratio is None else f"{ratio:6.1f}"


def activation_statistics(
    quantized: keras.Model,
    images: Any,
    model: keras.Model | None = None,
    bins: int = 64,
) -> ActivationStatistics:
    """Compares the activations of a quantized network with those of its float twin.

    Args:
        quantized: A network of `faq_keras.apply` with one input.
        images: `[images, height, width, channels]`, as the network takes them.
        model: The float network. None: `faq_keras.to_float(quantized)`, with the same (fine-tuned)
            weights, so that the difference is the quantization alone.
        bins: Bins of the histograms.

    Raises:
        ValueError: The network carries no plan or has several inputs; the float network is another
            one; images that are not finite or of another shape.
    """
    plan = plan_of(quantized)
    graph = read_graph(model if model is not None else float_model(quantized))
    check_fits(plan, graph)
    if len(graph.inputs) != 1:
        raise ValueError(f"Model '{quantized.name}' has {len(graph.inputs)} inputs, not one.")
    shapes = {graph.inputs[0]: graph[graph.inputs[0]].layers[0].batch_shape}
    x = np.concatenate(
        [batch[graph.inputs[0]] for batch in input_batches(images, None, shapes, "data")]
    )
    found = {entry.name: _Tensor(entry, bins) for entry in plan.layers}
    forward, taps = float_forward(graph, list(found)), Taps(quantized)
    start = 0
    while start < len(x):
        outputs = taps(x[start:])  # as many images as are affordable
        count = len(outputs[0])
        exact = forward({graph.inputs[0]: x[start : start + count]})
        for layer, values in zip(taps.layers, outputs, strict=True):
            if isinstance(layer, QuantizedLayer):
                found[layer.plan.name].add(exact[layer.plan.name].numpy(), values)
        start += count
    return ActivationStatistics(quantized.name, len(x), tuple(t.result() for t in found.values()))


class _Tensor:
    """Sums over the images of one tensor."""

    def __init__(self, entry: LayerPlan, bins: int) -> None:
        self.entry, self.spec = entry, entry.output
        self.clip = self.spec.highest * self.spec.step
        low = -_REACH * self.clip if self.spec.signed else 0.0
        self.edges = np.linspace(low, _REACH * self.clip, bins + 1)
        self.histogram = np.zeros(bins, np.int64)
        self.codes: Any = 0
        self.signal = self.noise = self.own_noise = 0.0
        self.minimum, self.maximum = math.inf, -math.inf

    def add(self, exact: Values, quantized: Values) -> None:
        """Takes in the float tensor and the quantized one."""
        spec = self.spec
        exact, quantized = exact.ravel().astype(np.float64), quantized.ravel()
        alone = np.clip(np.rint(exact / spec.step), spec.lowest, spec.highest) * spec.step
        self.signal += float(np.sum(exact**2))
        self.noise += float(np.sum((quantized - exact) ** 2))
        self.own_noise += float(np.sum((alone - exact) ** 2))
        self.codes += code_counts(quantized, spec)
        inside = np.clip(exact, self.edges[0], self.edges[-1])
        self.histogram += np.histogram(inside, self.edges)[0]
        self.minimum = min(self.minimum, float(exact.min()))
        self.maximum = max(self.maximum, float(exact.max()))

    def result(self) -> TensorStatistics:
        """The statistics of all images."""
        return TensorStatistics(
            name=self.entry.name,
            kind=self.entry.kind,
            bits=self.spec.bits,
            exponent=self.spec.exponent,
            signed=self.spec.signed,
            clip=self.clip,
            **state_of_counts(self.codes, self.spec),
            sqnr=_ratio(self.signal, self.noise),
            own_sqnr=_ratio(self.signal, self.own_noise),
            minimum=self.minimum,
            maximum=self.maximum,
            edges=tuple(self.edges.tolist()),
            histogram=tuple(self.histogram.tolist()),
        )


def _ratio(signal: float, noise: float) -> float | None:
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
