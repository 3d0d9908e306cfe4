"""How much noise quantization puts on the weights' steps, layer by layer (paper 4.7, Figure 1).

SGD with momentum moves the float copy of a kernel by `dw_t = w_t - w_{t-1}`. The network that runs
moves by `Q(w_t) - Q(w_{t-1})`: mostly by nothing, now and then by a whole step of the grid. Where
both point the same way on average, learning goes where it wants to. The measure is the cosine of
the angle between

    dw_t    and    m_t = smoothing * m_{t-1} + (1 - smoothing) * (Q(w_t) - Q(w_{t-1}))

per layer and update. Few bits, small steps: small cosine; fine-tuning then needs what averages
noise away: more epochs, larger batches, a lower learning rate.

    noise = GradientNoise("run/gradient_noise.jsonl")
    q.fit(data, epochs=4, callbacks=[noise])
    noise.latest                 # {"conv1": 0.61, "block1_conv1": 0.23, ...}
    noise.history[0].layers      # the first 100 updates

The paper says that 1.0 "corresponds to an fp32 network". Its formula gives a float network a
little less: its own step is compared with an average of its steps. Give the callback a float
network (Q is then the identity) and it measures this ceiling.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from faq_keras.archives import read_lines
from faq_keras.diagnostics.kernels import Kernel, kernels_of
from faq_keras.files import append_line, atomic_write, drop_torn_line


@dataclasses.dataclass(frozen=True)
class NoiseRecord:
    """The similarity over some consecutive updates.

    Attributes:
        epoch: The epoch in which they ended, counted from 0.
        step: Updates of the whole training up to here (the optimizer's `iterations`).
        updates: How many of them the record is the mean of.
        layers: Mean cosine of each layer; None where it is not defined: nothing moved (a frozen
            layer, or no weight crossed to another code yet), or weights are not finite.
    """

    epoch: int
    step: int
    updates: int
    layers: Mapping[str, float | None]

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> NoiseRecord:
        """The inverse of `to_json`."""
        return cls(**json.loads(line))


def read_records(path: str | os.PathLike[str]) -> list[NoiseRecord]:
    """The records of a file that `GradientNoise` wrote; a torn last line is left out.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is not a record; it is named.
    """
    records = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            records.append(NoiseRecord.from_json(line))
        except (RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{os.fspath(path)}, line {number}: not a record of gradient noise ({error})."
            ) from error
    return records


class GradientNoise(keras.callbacks.Callback):
    """Measures the similarity at every update of a training; works with `fit` and with `Loop`.

    Only updates count: batches that are gathered for a virtual batch move nothing. All kernels are
    measured by one compiled function whose sums stay on the device; the host reads them once per
    record.

    After a resume the moving average starts again from nothing (with a smoothing of 0.9 it has
    forgotten that after some 20 updates), and so does the record under way. Records in the file of
    updates that the resumed training repeats are taken out.

    Attributes:
        latest: The layers of the last record.
        history: All records, with those found in the file of a resumed training.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        every: int = 100,
        smoothing: float = 0.9,
    ) -> None:
        """Prepares the measurement.

        Args:
            path: File to which each record is appended as a line of JSON.
            every: Updates per record; the last record of an epoch may have fewer.
            smoothing: Share of the moving average that is kept at each update, in [0, 1).

        Raises:
            ValueError: A number is out of its range.
        """
        super().__init__()
        if every < 1:
            raise ValueError(f"GradientNoise: every has to be at least 1. Received: {every!r}.")
        if not 0 <= smoothing < 1:
            raise ValueError(
                f"GradientNoise: smoothing has to lie in [0, 1). Received: {smoothing!r}."
            )
        self.path = None if path is None else Path(path)
        self.every, self.smoothing = every, smoothing
        self.latest: dict[str, float | None] = {}
        self.history: list[NoiseRecord] = []
        self._epoch = self._seen = 0
        self._broken: set[str] = set()
        self._similarity: _Similarity | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Notes the weights as they are, and goes on with the file.

        Raises:
            ValueError: The model has no kernels, runs several steps at once, or the file is not
                one of records.
        """
        if getattr(self.model, "steps_per_execution", 1) != 1:
            raise ValueError(
                "GradientNoise looks at the weights after every step, but the model is compiled "
                f"with steps_per_execution={self.model.steps_per_execution}. Compile it with 1."
            )
        self._similarity = _Similarity(kernels_of(self.model), self.smoothing)
        self._seen = self._updates()
        self._take_up_file()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Remembers the epoch for the records."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Measures, if the batch made an update."""
        updates = self._updates()
        if updates == self._seen:
            return
        self._seen = updates
        assert self._similarity is not None
        self._similarity.measure()
        if self._similarity.updates >= self.every:
            self._record()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Closes the record under way."""
        if self._similarity is not None and self._similarity.updates:
            self._record()

    def _updates(self) -> int:
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def _record(self) -> None:
        assert self._similarity is not None
        updates = self._similarity.updates
        self.latest, broken = self._similarity.take()
        record = NoiseRecord(self._epoch, self._seen, updates, self.latest)
        self.history.append(record)
        if self.path is not None:
            append_line(self.path, record.to_json())
        if new := [name for name in broken if name not in self._broken]:
            self._broken.update(new)
            _log().warning(
                "Gradient noise: the weights of %s are not finite after update %d; these layers "
                "have no similarity any more. The training diverged: try a lower learning rate.",
                ", ".join(new),
                self._seen,
            )

    def _take_up_file(self) -> None:
        if self.path is None or not self.path.exists():
            return
        drop_torn_line(self.path)
        found = read_records(self.path)
        self.history = [record for record in found if record.step <= self._seen]
        if len(self.history) < len(found):
            _log().warning(
                "%s: %d records of updates after %d, where the training begins, are replaced.",
                self.path,
                len(found) - len(self.history),
                self._seen,
            )
            with atomic_write(self.path) as partial:
                lines = (record.to_json() + "\n" for record in self.history)
                partial.write_text("".join(lines), encoding="utf-8")


class _Similarity:
    """The cosines of all kernels, summed up on the device.

    Attributes:
        updates: How many updates were measured since the last `take`.
    """

    def __init__(self, kernels: Sequence[Kernel], smoothing: float) -> None:
        self.updates = 0
        self._names = [kernel.name for kernel in kernels]
        self._kernels = [_MovingKernel(kernel, smoothing) for kernel in kernels]
        # One row per kernel: sum of cosines, updates with a cosine, updates without a finite one.
        self._sums = tf.Variable(tf.zeros((len(kernels), 3)), trainable=False)
        self._measure = tf.function(self._measure_once, jit_compile=False)

    def measure(self) -> None:
        """Measures one update."""
        self._measure()
        self.updates += 1

    def take(self) -> tuple[dict[str, float | None], list[str]]:
        """Mean cosine of each layer, and the layers that are not finite; starts a new mean."""
        sums = self._sums.numpy()
        self._sums.assign(np.zeros_like(sums))
        self.updates = 0
        means = {
            name: float(total / count) if count and not broken else None
            for name, (total, count, broken) in zip(self._names, sums, strict=True)
        }
        return means, [name for name, row in zip(self._names, sums, strict=True) if row[2]]

    def _measure_once(self) -> None:
        self._sums.assign_add(tf.stack([_counted(kernel.move()) for kernel in self._kernels]))


class _MovingKernel:
    """A kernel, where it was at the last update, and the average of its quantized steps."""

    def __init__(self, kernel: Kernel, smoothing: float) -> None:
        weights = tf.convert_to_tensor(kernel.variable)
        self._kernel, self._smoothing = kernel, smoothing
        self._weights = tf.Variable(weights, trainable=False)
        self._quantized = tf.Variable(kernel.quantized(weights), trainable=False)
        self._average = tf.Variable(tf.zeros_like(weights), trainable=False)

    def move(self) -> tf.Tensor:
        """Takes in the present weights; `[[a.a, a.t], [t.a, t.t]]` of the step asked and taken."""
        weights = tf.convert_to_tensor(self._kernel.variable)
        quantized = self._kernel.quantized(weights)
        asked = weights - self._weights
        taken = (quantized - self._quantized) * (1.0 - self._smoothing)
        average = self._average * self._smoothing + taken
        self._weights.assign(weights)
        self._quantized.assign(quantized)
        self._average.assign(average)
        steps = tf.stack([tf.reshape(asked, [-1]), tf.reshape(average, [-1])])
        return tf.matmul(steps, steps, transpose_b=True)


def _counted(products: tf.Tensor) -> tf.Tensor:
    """`[cosine, 1, 0]`, or `[0, 0, 0]` where it is not defined, `[0, 0, 1]` where not finite."""
    squares = tf.linalg.diag_part(products)
    lengths = tf.reduce_prod(tf.sqrt(squares))
    finite = tf.reduce_all(tf.math.is_finite(products))
    defined = tf.logical_and(finite, lengths > 0)
    cosine = tf.where(defined, products[0, 1] / tf.where(defined, lengths, 1.0), 0.0)
    flags = [tf.cast(flag, tf.float32) for flag in (defined, tf.logical_not(finite))]
    return tf.stack([cosine, *flags])


def _log() -> logging.Logger:
    return logging.getLogger(__name__)
