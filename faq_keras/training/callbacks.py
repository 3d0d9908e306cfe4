"""What happens around the epochs of a fit: schedules, a log that survives, an alarm for NaN.

Ordinary Keras callbacks, usable with any model and any optimizer:

    model.fit(data, epochs=30, callbacks=[
        LearningRate(Exponential.between(0.01, 1e-6, epochs=30)),
        MetricsLog("run/metrics.jsonl"),
        NaNAlarm(),
    ])

They work in the `fit` of Keras 3 and of tf_keras.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tf_keras

from faq_keras.files import append_line, drop_torn_line
from faq_keras.layers import QuantizedFoldedLayer


class Callback(keras.callbacks.Callback, tf_keras.callbacks.Callback):
    """A callback for both Kerases, whose hooks have the same names."""


class FrozenStatistics(Callback):
    """Trains with the moving statistics of all quantized batch normalizations, as they are.

    Each step then computes what the integer network computes. Gamma and beta are trained.
    """

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Freezes them."""
        self._set(True)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Lets them move again."""
        self._set(False)

    def _set(self, frozen: bool) -> None:
        for layer in self.model._flatten_layers():
            if isinstance(layer, QuantizedFoldedLayer):
                layer.frozen_statistics = frozen


class LearningRate(keras.callbacks.LearningRateScheduler, Callback):
    """Sets the optimizer's learning rate at the start of each epoch, and logs it.

    With `steps_per_epoch` it is set before every batch instead, from the same course at the
    fraction of the epoch that is done: an exponential falls smoothly.

    Attributes:
        rate: Learning rate as a function of the epoch, counted from 0.
        steps_per_epoch: Batches per epoch, or None to keep the rate during an epoch.
    """

    def __init__(self, rate: Callable[[float], float], steps_per_epoch: int | None = None) -> None:
        super().__init__(lambda epoch, _previous: float(rate(epoch)))
        self.rate = rate
        self.steps_per_epoch = steps_per_epoch
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Sets the epoch's rate."""
        self._epoch = epoch
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Sets the batch's rate."""
        if self.steps_per_epoch is not None:
            now = self._epoch + batch / self.steps_per_epoch
            self.model.optimizer.learning_rate = float(self.rate(now))


class VirtualBatches(Callback):
    """Sets how many real batches make one update, at the start of each epoch.

    Attributes:
        count: Number of batches as a function of the epoch, counted from 0.
    """

    def __init__(self, count: Callable[[int], float]) -> None:
        super().__init__()
        self.count = count

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Sets the optimizer's `virtual_batches`.

        Raises:
            ValueError: The optimizer cannot gather batches and should.
        """
        count = int(self.count(epoch))
        optimizer = _innermost(self.model.optimizer)
        if hasattr(optimizer, "virtual_batches"):
            if optimizer.virtual_batches != count:
                optimizer.virtual_batches = count
        elif count != 1:
            raise ValueError(
                f"Epoch {epoch} asks for virtual batches of {count}, but the optimizer "
                f"{type(optimizer).__name__} has none. Compile the model with the recipe's "
                "optimizer (faq_keras.training.optimizer.SGD)."
            )


def _innermost(optimizer: Any) -> Any:
    """The optimizer inside mixed precision's loss scaling."""
    return getattr(optimizer, "inner_optimizer", optimizer)


class LayerStates(Protocol):
    """What `MetricsLog` needs of a `LayerWatch`."""

    latest: dict[str, dict[str, float | int]]


class MetricsLog(Callback):
    """Appends one JSON object per epoch to a file: epoch, learning rate, seconds, every metric.

    Each line is on the disk before the next epoch begins. A resumed run goes on in the same file
    (a line that a kill tore in two is dropped first); where an epoch was run twice, the later line
    counts. Values that are not finite are written as null, which JSON has and NaN it has not.

    Attributes:
        path: The file, made with the first epoch's line.
        layers: Where the entry "layers" of each line comes from (a `LayerWatch` that runs before
            this callback), or None for lines without it.
    """

    def __init__(self, path: str | os.PathLike[str], layers: LayerStates | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.layers = layers
        self._started = 0.0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Drops a torn last line."""
        drop_torn_line(self.path)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes the line of the epoch."""
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        line: dict[str, Any] = {
            "epoch": epoch,
            "learning_rate": rate,
            "seconds": round(time.monotonic() - self._started, 3),
        }
        for key, value in (logs or {}).items():
            line[key] = float(value) if math.isfinite(float(value)) else None
        if self.layers is not None and self.layers.latest:
            line["layers"] = self.layers.latest
        append_line(self.path, json.dumps(line, allow_nan=False))


class TrainingDivergedError(ValueError):
    """A metric or a weight is no longer a finite number."""


class NaNAlarm(Callback):
    """Stops a training whose loss is no longer a finite number, and says where it happened.

    Raises `TrainingDivergedError` after the batch (loss) or the epoch (any metric, any weight) that
    shows it, naming the metric and the first layer with such weights or, given images to look at,
    with such an output.
    """

    def __init__(self, look: Callable[[keras.Model], str | None] | None = None) -> None:
        """Prepares the alarm.

        Args:
            look: Names the first layer of a model whose output is not finite, or None.
        """
        super().__init__()
        self._epoch = 0
        self._look = look

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Remembers the epoch for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Looks at the loss."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(float(loss)):
            self._raise(f"in epoch {self._epoch}, batch {batch}", f"'loss' is {float(loss)}")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Looks at every metric and every weight."""
        for name, value in (logs or {}).items():
            if not math.isfinite(float(value)):
                self._raise(f"in epoch {epoch}", f"{name!r} is {float(value)}")
        if first_not_finite(self.model) is not None:
            self._raise(f"in epoch {epoch}", "its metrics are finite, but not its weights")

    def _raise(self, when: str, what: str) -> None:
        culprit = first_not_finite(self.model)
        output = self._look(self.model) if self._look and not culprit else None
        if culprit:
            where = f"The first weights that are not finite: {culprit}."
        elif output:
            where = f"All weights are finite; the first output that is not: {output}."
        else:
            where = "All weights are finite, so look at the images and labels first."
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        raise TrainingDivergedError(
            f"The training of {self.model.name!r} diverged {when}: {what}. {where} "
            f"The learning rate is {rate:.3g}: try a lower one."
        )


def first_not_finite(model: Any) -> str | None:
    """Names the first layer with weights that are NaN or infinite, and how many; None if none."""
    for layer in model._flatten_layers(include_self=False):
        if len(list(layer._flatten_layers())) > 1:
            continue  # its parts come by themselves
        for weight in layer.weights:
            values = np.asarray(keras.ops.convert_to_numpy(weight))
            if not np.issubdtype(values.dtype, np.floating):
                continue
            bad = int(np.count_nonzero(~np.isfinite(values)))
            if bad:
                return f"layer {layer.name!r}, {weight.name} ({bad} of {values.size})"
    return None
