"""Calibration: how far every activation of the pretrained network reaches (paper section 3.2).

Five training batches run through the unquantized network. A tensor's range is the maximum over the
batches of the batch's 99.99th percentile (99.9th where the tensor gets fewer than 8 bits). The
percentile is exact, yet no tensor is kept: a batch runs in chunks of images, and of each tensor
only the largest values that the percentile can still depend on survive, and a random sample of all
values (`fitting` measures errors on it). In the scope of a `tf.distribute` strategy the workers
share out the batches, and a worker's devices the chunks; the ranges are the same.

    graph = read_graph(model)
    ranges = calibrate(graph, dataset, batches=5, percentile={"conv1": 99.9, ...})
    ranges["conv1"].high                  # feeds `fixed_point.range_exponent`
    ranges["conv1"].sample                # feeds `fitting.fit_values`
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.data.batches import Batch, input_batches
from faq_keras.graph import Graph, evaluate
from faq_keras.workers import Team, team

CHUNK = 32  # images per forward pass
SAMPLE = 100_000  # values of each tensor that are kept


@dataclasses.dataclass(frozen=True)
class Range:
    """The measured range of one tensor over all calibration batches.

    Attributes:
        high: Maximum over the batches of the batch's percentile of the magnitude.
        minimum: Smallest value seen.
        maximum: Largest value seen.
        sample: Random values of all batches, about `SAMPLE` of them; None if there is none.
    """

    high: float
    minimum: float
    maximum: float
    sample: npt.NDArray[np.float32] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    @property
    def largest(self) -> float:
        """The largest magnitude seen."""
        return max(self.maximum, -self.minimum)


def calibrate(
    graph: Graph,
    data: Any,
    batches: int,
    percentile: Mapping[str, float],
    look: Callable[[Batch], None] | None = None,
) -> dict[str, Range]:
    """Runs the float network and measures its tensors.

    Args:
        graph: The float network.
        data: `tf.data.Dataset`, numpy array, or iterable of `x` or `(x, y)` batches, as
            `data.batches` reads them; what the model's inputs take.
        batches: How many batches to use; fewer if the data has fewer.
        percentile: Percentile (50 to 100) of each tensor to measure, by node name; 100 is the
            maximum.
        look: Is shown each batch, before it is measured.

    Returns:
        The range of each of these tensors.

    Raises:
        ValueError: If the data is empty, has NaN or infinite values, or another shape than the
            model's input.
    """
    shapes = {name: tuple(graph[name].layers[0].batch_shape) for name in graph.inputs}
    forward = float_forward(graph, list(percentile))
    ranges: dict[str, Range] = {}
    crew = team()
    for number, batch in enumerate(input_batches(data, batches, shapes, "calibration")):
        if look is not None:
            look(batch)
        if number % crew.workers != crew.worker:
            continue
        quota = _Quota(number, batches)
        for name, measured in _measure_batch(
            forward, batch, percentile, crew.devices, quota
        ).items():
            ranges[name] = widest([ranges[name], measured]) if name in ranges else measured
    return _of_all_workers(ranges, list(percentile), crew)


def _of_all_workers(ranges: Mapping[str, Range], names: list[str], crew: Team) -> dict[str, Range]:
    """The widest range of each tensor; a worker that got no batch has none."""
    if crew.workers == 1:
        return dict(ranges)
    nothing = Range(-math.inf, math.inf, -math.inf)
    own = [_numbers(ranges.get(name, nothing)) for name in names]
    # One worker's infinity times another one's zero would be NaN in a sum; these are finite.
    limit = np.finfo(np.float64).max
    table = crew.exchange(np.clip(np.ravel(own), -limit, limit).tolist())
    rows = table.reshape(crew.workers, len(names), 3)
    found = {}
    for column, name in enumerate(names):
        together = widest(Range(*row) for row in rows[:, column].tolist())
        own_sample = ranges[name].sample if name in ranges else None
        found[name] = dataclasses.replace(together, sample=_joined_sample(own_sample, crew))
    return found


def _joined_sample(
    own: npt.NDArray[np.float32] | None, crew: Team
) -> npt.NDArray[np.float32] | None:
    """The samples of all workers, in their order; each sends its own, padded to one length."""
    own = np.empty(0, np.float32) if own is None else own
    sizes = crew.exchange([own.size])[:, 0].astype(int)
    if not sizes.max():
        return None
    table = crew.exchange(np.pad(own, (0, sizes.max() - own.size)).tolist())
    parts = [row[:size] for row, size in zip(table, sizes, strict=True)]
    return np.concatenate(parts).astype(np.float32)


def float_forward(graph: Graph, taps: list[str]) -> Any:
    """A compiled function from inputs by name to the float tensors of these nodes, by name."""

    @tf.function(reduce_retracing=True, jit_compile=False)
    def forward(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        values = evaluate(graph, inputs, lambda node, read: node.float_call(read))
        return {name: values[name] for name in taps}

    return forward


@dataclasses.dataclass(frozen=True)
class _Quota:
    """Which values of a batch go into the samples: the same ones however the work is shared out."""

    batch: int
    batches: int

    def choose(
        self, name: str, start: int, images: int, values: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Random values of the chunk that begins at an image of a batch."""
        chunks = self.batches * -(-images // CHUNK)
        seed = [zlib.crc32(name.encode()), self.batch, start]
        places = np.random.default_rng(seed).integers(0, values.size, -(-SAMPLE // chunks))
        return values[places]


def _measure_batch(
    forward: Any,
    batch: Batch,
    percentile: Mapping[str, float],
    devices: Sequence[str | None],
    quota: _Quota,
) -> dict[str, Range]:
    """Runs a batch in chunks, whose tensors are searched in parallel (numpy frees the GIL)."""
    trackers: dict[str, _TopValues] = {}
    images = len(next(iter(batch.values())))

    def run(start: int, device: str | None) -> Mapping[str, tf.Tensor]:
        with tf.device(device):
            chunk = {name: tf.constant(x[start : start + CHUNK]) for name, x in batch.items()}
            return forward(chunk)

    starts = range(0, images, CHUNK)
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(starts), len(devices)):
            here = starts[first : first + len(devices)]
            for start, tensors in zip(here, pool.map(run, here, devices), strict=True):
                for name, tensor in tensors.items():
                    if name not in trackers:
                        total = int(tf.size(tensor)) // min(CHUNK, images - start) * images
                        trackers[name] = _TopValues(name, total, percentile[name])
                # A memoryview, unlike .numpy(), is no copy.
                arrays = [np.asarray(memoryview(tensor)).ravel() for tensor in tensors.values()]
                list(pool.map(_TopValues.update, [trackers[name] for name in tensors], arrays))
                for name, array in zip(tensors, arrays, strict=True):
                    trackers[name].sample.append(quota.choose(name, start, images, array))
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
        self.sample: list[npt.NDArray[np.float32]] = []

    def update(self, values: npt.NDArray[np.floating]) -> None:
        """Takes in one chunk, a vector."""
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
        sample = np.concatenate(self.sample) if self.sample else None
        return Range(high, self.minimum, self.maximum, sample)


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
    ranges = list(ranges)
    highs, minima, maxima = zip(*map(_numbers, ranges), strict=True)
    samples = [r.sample for r in ranges if r.sample is not None]
    sample = np.concatenate(samples) if samples else None
    return Range(max(highs), min(minima), max(maxima), sample)


def _numbers(measured: Range) -> tuple[float, float, float]:
    return measured.high, measured.minimum, measured.maximum
