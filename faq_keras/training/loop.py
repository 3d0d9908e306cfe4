"""A training that can be killed at any moment and goes on as if nothing had happened.

Keras' `fit` cannot begin in the middle of an epoch, so the loop is written out: the batches of each
epoch, its validation, its callbacks. What happens in a step is Keras' own `train_function`, or on
several devices what `distribution` makes of it.

    loop = Loop(model, pipeline, recipe, "runs/first", checkpoint_steps=1000)
    history = loop.run(resume=True)        # from checkpoints/last.npz, if there is one

Checkpoints lie in `checkpoints/`: `last.npz`, the whole state, written every `checkpoint_steps`
batches, at the end of each epoch and when a signal asks to stop; `best.keras`, the model of the
epoch with the best validation accuracy.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import tensorflow as tf

from faq_keras.files import atomic_write
from faq_keras.training import checkpoints
from faq_keras.training.checkpoints import Position
from faq_keras.training.distribution import steps_of
from faq_keras.training.interruption import Interrupted, StopRequest, stop_requests
from faq_keras.training.recipes import Recipe
from faq_keras.workers import team

CHECKPOINTS, LAST, BEST = "checkpoints", "last.npz", "best.keras"


class Data(Protocol):
    """What the loop needs of a `faq_keras.data.pipeline.Pipeline`."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""

    def train(self, epoch: int, skip: int = 0) -> Iterable[Any]:
        """The batches of an epoch after the first `skip`; always the same ones."""

    def validation(self) -> Iterable[Any]:
        """The validation batches."""


class Loop:
    """Trains a compiled model.

    Args:
        model: A compiled Keras 3 model with the metric "accuracy"; trained in place.
        data: Batches for training and validation.
        recipe: Number of epochs; its callbacks are to be among `callbacks`.
        folder: Where `checkpoints/` goes; it has to exist.
        checkpoint_steps: Batches between two checkpoints within an epoch; 0: only at its end.
            With several workers, which all run the loop, the chief alone writes.
        callbacks: Keras callbacks; they are told the number of the batch within its epoch, also
            after a resume.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Data,
        recipe: Recipe,
        folder: str | os.PathLike[str],
        checkpoint_steps: int = 1000,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        self.model, self.data, self.epochs = model, data, recipe.epochs
        self.folder = Path(folder) / CHECKPOINTS
        self.checkpoint_steps = checkpoint_steps
        self.best: float | None = None
        self.start = Position()
        self._callbacks = list(callbacks)
        self._team = team(model.distribute_strategy)
        self._steps = steps_of(model)

    @property
    def last(self) -> Path:
        """The file of the last checkpoint."""
        return self.folder / LAST

    def run(self, resume: bool = False) -> keras.callbacks.History:
        """Trains until the end.

        Args:
            resume: Go on from the last checkpoint, if there is one.

        Returns:
            The history of the epochs of this call.

        Raises:
            Interrupted: A signal asked to stop; everything is saved.
            CheckpointError: A checkpoint cannot be written, or belongs to another model.
            WorkerLostError: Another worker could not go on.
            ValueError: What callbacks raise, such as `TrainingDivergedError`.
        """
        self._team.first(lambda: self.folder.mkdir(exist_ok=True))
        self._steps.build(next(iter(self.data.validation())))
        if self._team.first(lambda: resume and self.last.exists()):
            checkpoint = checkpoints.load(self.last)
            checkpoint.restore(self.model)
            self.start, self.best = checkpoint.position, checkpoint.best
        else:
            self._save(Position())  # tells early whether a checkpoint can be written at all
        callbacks = keras.callbacks.CallbackList(
            self._callbacks, add_history=True, model=self.model, epochs=self.epochs
        )
        self.model.stop_training = False
        callbacks.on_train_begin()
        try:
            with stop_requests() as request:
                for epoch in range(self.start.epoch, self.epochs):
                    self._epoch(epoch, callbacks, request)
                    if self.model.stop_training:
                        break
        finally:
            callbacks.on_train_end()  # closes files and the progress bar, whatever happened
        return self.model.history

    def _epoch(
        self, epoch: int, callbacks: keras.callbacks.CallbackList, request: StopRequest
    ) -> None:
        first = self.start.step if epoch == self.start.epoch else 0
        if not first:
            self.model.reset_metrics()
        callbacks.on_epoch_begin(epoch)
        iterator = self._steps.batches(self.data.train(epoch, first))
        for step in itertools.count(first):
            if step >= self.data.steps_per_epoch:
                break
            callbacks.on_train_batch_begin(step)
            try:
                logs = self._steps.step(iterator, request)
            except (StopIteration, tf.errors.OutOfRangeError):
                break  # images that could not be read were left out
            callbacks.on_train_batch_end(step, logs)
            self._after_step(Position(epoch, step + 1), request)
        self._end_epoch(epoch, callbacks, request)

    def _after_step(self, position: Position, request: StopRequest) -> None:
        due = self.checkpoint_steps and position.step % self.checkpoint_steps == 0
        if due or self._steps.asked(request):
            self._save(position)
        self._stop_if_asked(position, request)

    def _end_epoch(
        self, epoch: int, callbacks: keras.callbacks.CallbackList, request: StopRequest
    ) -> None:
        logs = dict(self.model.get_metrics_result())
        during = checkpoints.metric_arrays(self.model)  # the validation resets them
        validation = self._steps.evaluate(self.data.validation(), request)
        if self._steps.asked(request):
            position = Position(epoch, self.data.steps_per_epoch)
            self._save(position, during)
            self._stop_if_asked(position, request)
        callbacks.on_epoch_end(epoch, logs | {f"val_{k}": v for k, v in validation.items()})
        self._keep_best(validation["accuracy"])
        self._save(Position(epoch + 1, 0))
        self._stop_if_asked(Position(epoch + 1, 0), request)

    def _keep_best(self, accuracy: float) -> None:
        if self.best is None or accuracy > self.best:
            self._team.first(self._write_best)
            self.best = accuracy

    def _write_best(self) -> None:
        try:
            with atomic_write(self.folder / BEST, within=self.folder) as partial:
                self.model.save(partial)
        except OSError as error:
            raise checkpoints.CheckpointError(
                f"The best model cannot be written to {self.folder / BEST} "
                f"({error.strerror or error}). Make room and go on with --resume."
            ) from error

    def _save(self, position: Position, metrics: checkpoints.Arrays | None = None) -> None:
        checkpoints.save(self.last, self.model, position, self.best, metrics)

    def _stop_if_asked(self, position: Position, request: StopRequest) -> None:
        if number := self._steps.asked(request):
            raise Interrupted(
                number,
                f"Stopped by signal {number} at {position} of {self.epochs} epochs; the "
                f"state is in {self.last}. Go on with the same command and --resume.",
            )
