"""Calibration: how far every activation of the pretrained network reaches (paper section 3.2).

Five training batches run through the unquantized network. A tensor's range is the maximum over the
batches of the batch's 99.99th percentile (99.9th where the tensor gets fewer than 8 bits). The
percentile is exact, yet no tensor is kept: a batch runs in chunks of images, and of each tensor
only the largest values that the percentile can still depend on survive.

    graph = read_graph(model)
    ranges = calibrate(graph, dataset, batches=5, percentile={"conv1": 99.9, ...})
    ranges["conv1"].high                  # feeds `fixed_point.range_exponent`
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.graph import Graph, Node, evaluate

CHUNK = 32  # images per forward pass
ARRAY_BATCH = 256  # images per batch when an array is given instead of batches (the paper's batch)


@dataclasses.dataclass(frozen=True)
class Range:
    """The measured range of one tensor over all calibration batches.

    Attributes:
        high: Maximum over the batches of the batch's percentile of the magnitude.
        minimum: Smallest value seen.
        maximum: Largest value seen.
    """

    high: float
    minimum: float
    maximum: float


def calibrate(
    graph: Graph, data: Any, batches: int, percentile: Mapping[str, float]
) -> dict[str, Range]:
    """Runs the float network and measures its tensors.

    Args:
        graph: The float network.
        data: `tf.data.Dataset`, numpy array, or iterable of `x` or `(x, y)` batches; what the
            model's input takes.
        batches: How many batches to use; fewer if the data has fewer.
        percentile: Percentile (50 to 100) of each tensor to measure, by node name; 100 is the
            maximum.

    Returns:
        The range of each of these tensors.

    Raises:
        ValueError: If the data is empty, has NaN or infinite values, or another shape than the
            model's input.
    """
    if len(graph.inputs) != 1:
        raise ValueError(
            f"Model '{graph.name}' has {len(graph.inputs)} inputs ({', '.join(graph.inputs)}); "
            "calibration supports one. Quantize each single-input part by itself."
        )
    forward = _forward(graph, list(percentile))
    ranges: dict[str, Range] = {}
    count = 0
    for batch in itertools.islice(as_batches(data, batches), batches):
        batch = _checked(batch, graph[graph.inputs[0]], count)
        for name, measured in _measure_batch(forward, batch, percentile).items():
            ranges[name] = widest([measured, ranges.get(name, measured)])
        count += 1
    if not count:
        raise ValueError(
            "The calibration data is empty: give at least one batch of training images."
        )
    return ranges


def as_batches(data: Any, batches: int) -> Iterator[npt.NDArray[Any]]:
    """The inputs of each batch; an array is cut into `batches` parts of at most 256 images."""
    if isinstance(data, (np.ndarray, tf.Tensor)):
        data = np.asarray(data)
        size = max(1, min(ARRAY_BATCH, math.ceil(len(data) / batches)))
        yield from (data[i : i + size] for i in range(0, len(data), size))
        return
    if isinstance(data, tuple) and len(data) == 2 and hasattr(data[0], "shape"):
        raise ValueError(
            "The calibration data is a tuple of arrays. Pass the inputs alone (x), or an iterable "
            "of (x, y) batches."
        )
    if not isinstance(data, Iterable):
        raise ValueError(
            f"Calibration data of type {type(data).__name__} is not supported: pass a "
            f"tf.data.Dataset, a numpy array or an "
            "iterable of batches."
        )
    for batch in data:
        yield np.asarray(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _checked(batch: npt.NDArray[Any], node: Node, index: int) -> npt.NDArray[np.float32]:
    expected = tuple(node.layers[0].batch_shape)
    fits = batch.ndim == len(expected) and all(
        want in (None, got) for want, got in zip(expected[1:], batch.shape[1:], strict=True)
    )
    if not fits:
        hint = " Did you forget .batch(...)?" if batch.ndim == len(expected) - 1 else ""
        raise ValueError(
            f"Calibration batch {index} has the shape {batch.shape}; the model's input "
            f"'{node.name}' takes "
            f"{expected}.{hint}"
        )
    if not batch.size:
        raise ValueError(f"Calibration batch {index} is empty.")
    batch = batch.astype(np.float32)
    if not np.isfinite(batch).all():
        raise ValueError(
            f"Calibration batch {index} contains NaN or infinite values: check the input pipeline."
        )
    return batch


def _forward(graph: Graph, taps: list[str]) -> Any:
    """A compiled function from a chunk of inputs to the tapped tensors."""

    @tf.function(reduce_retracing=True, jit_compile=False)
    def forward(x: tf.Tensor) -> dict[str, tf.Tensor]:
        values = evaluate(graph, {graph.inputs[0]: x}, lambda node, read: node.float_call(read))
        return {name: values[name] for name in taps}

    return forward


def _measure_batch(
    forward: Any, batch: npt.NDArray[np.float32], percentile: Mapping[str, float]
) -> dict[str, Range]:
    """Runs a batch in chunks, whose tensors are searched in parallel (numpy frees the GIL)."""
    trackers: dict[str, _TopValues] = {}
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(batch), CHUNK):
            chunk = batch[start : start + CHUNK]
            tensors = forward(tf.constant(chunk))
            for name, tensor in tensors.items():
                if name not in trackers:
                    total = int(tf.size(tensor)) // len(chunk) * len(batch)
                    trackers[name] = _TopValues(name, total, percentile[name])
            # A memoryview, unlike .numpy(), is no copy.
            arrays = [np.asarray(memoryview(tensor)) for tensor in tensors.values()]
            list(pool.map(_TopValues.update, [trackers[name] for name in tensors], arrays))
    return {name: tracker.range() for name, tracker in trackers.items()}


class _TopValues:
    """The exact percentile of a stream of known length: only the largest values are kept.

    `np.percentile` interpolates between the order statistics around position `(n - 1) * p / 100`;
    so the `n - floor(position)` largest magnitudes suffice. Values below the smallest candidate
    cannot count any more.
    """

    def __init__(self, name: str, total: int, percentile: float) -> None:
        position = (total - 1) * percentile / 100.0
        self.name = name
        self.fraction = position - math.floor(position)
        self.keep = total - math.floor(position)
        self.threshold = -np.inf
        self.largest = np.empty(0, np.float32)
        self.minimum, self.maximum = np.inf, -np.inf

    def update(self, values: npt.NDArray[np.floating]) -> None:
        """Takes in one chunk."""
        values = values.ravel()
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                f"Layer '{self.name}' gives NaN or infinite values on the calibration data: check "
                f"the model's weights."
            )
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        known = np.isfinite(self.threshold)
        bound = self.threshold if known else self._guess(values)
        candidates = _magnitudes_above(values, bound, signed=low < 0)
        if not known and candidates.size < self.keep:
            candidates = np.abs(values)
        self._merge(candidates)

    def _guess(self, values: npt.NDArray[np.floating]) -> float:
        """A bound from a sample that about four times the values to keep exceed, or -inf."""
        sample = np.abs(values[:: max(1, values.size // 20_000)])
        wanted = 4 * self.keep * sample.size // max(1, values.size) + 32
        if wanted >= sample.size:
            return -np.inf
        return float(np.partition(sample, sample.size - wanted)[sample.size - wanted])

    def _merge(self, candidates: npt.NDArray[np.floating]) -> None:
        merged = np.concatenate([self.largest, candidates])
        if merged.size > self.keep:
            merged = np.partition(merged, merged.size - self.keep)[merged.size - self.keep :]
        self.largest = merged
        if merged.size == self.keep:
            self.threshold = merged.min()

    def range(self) -> Range:
        """The result, after the last chunk."""
        ordered = np.sort(self.largest)
        above = ordered[min(1, ordered.size - 1)]
        high = float(ordered[0]) + self.fraction * (float(above) - float(ordered[0]))
        return Range(high, self.minimum, self.maximum)


def _magnitudes_above(
    values: npt.NDArray[np.floating], bound: float, signed: bool
) -> npt.NDArray[np.floating]:
    """The magnitudes beyond a bound; few, so no array of all magnitudes is made."""
    if bound < 0:
        return np.abs(values)
    above = values[np.flatnonzero(values > bound)]
    if not signed:
        return above
    return np.concatenate([above, -values[np.flatnonzero(values < -bound)]])


def widest(ranges: Iterable[Range]) -> Range:
    """The range that covers all of them; at least one."""
    highs, minima, maxima = zip(*(dataclasses.astuple(r) for r in ranges), strict=True)
    return Range(max(highs), min(minima), max(maxima))
