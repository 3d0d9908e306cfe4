"""How far a training is and when it will be over: a bar on a terminal, plain lines elsewhere.

callbacks = [..., Progress(epochs=110, steps_per_epoch=5004, batch_size=256)]

epoch 3/110, step 1200/5004: loss 1.234, accuracy 0.612; 431 images/s, 83 h 12 min left
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

_SECONDS = 30.0  # between two lines within an epoch


class Progress(keras.callbacks.Callback):
    """Shows epoch, step, the epoch's metrics, images per second and the time that is left.

    Args:
        epochs: Epochs of the whole training.
        steps_per_epoch: Batches per epoch.
        batch_size: Images per batch.
        console: Where to show it; None: standard output.
    """

    def __init__(
        self, epochs: int, steps_per_epoch: int, batch_size: int, console: Console | None = None
    ) -> None:
        super().__init__()
        self.epochs, self.steps, self.batch_size = epochs, steps_per_epoch, batch_size
        self._console = console or Console(width=None if sys.stdout.isatty() else 400)
        self._bar: Bar | None = None
        self._epoch = 0
        self._done = 0  # steps of this process
        self._begun = self._shown = 0.0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._begun = self._shown = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Starts the epoch's bar."""
        self._epoch = epoch
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._bar.add_task(f"epoch {epoch + 1}/{self.epochs}", total=self.steps)
            self._bar.start()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Moves the bar, or prints a line now and then."""
        self._done += 1
        if self._bar is not None:
            text = f"epoch {self._epoch + 1}/{self.epochs}: {self._text(batch + 1, logs)}"
            self._bar.update(self._bar.task_ids[0], completed=batch + 1, description=text)
        elif time.monotonic() - self._shown > _SECONDS:
            self._shown = time.monotonic()
            self._print(f", step {batch + 1}/{self.steps}: {self._text(batch + 1, logs)}")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Prints the epoch's line."""
        self._stop()
        self._shown = time.monotonic()
        self._print(f": {self._text(self.steps, logs)}")

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Takes the bar away, also after an error."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, text: str) -> None:
        line = f"epoch {self._epoch + 1}/{self.epochs}{text}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _text(self, step: int, logs: Mapping[str, Any] | None) -> str:
        values = ", ".join(f"{key} {float(value):.4g}" for key, value in (logs or {}).items())
        seconds = (time.monotonic() - self._begun) / max(1, self._done)
        left = (self.epochs - self._epoch) * self.steps - step
        rate = self.batch_size / seconds if seconds else 0.0
        return f"{values}; {rate:.0f} images/s, {duration(left * seconds)} left"


def duration(seconds: float) -> str:
    """A duration for people: `83 h 12 min`, `5 min 10 s`, `12 s`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
