"""The whole state of a training in one file: resume gives bit for bit what would have come.

A checkpoint holds every variable (weights, batch norm statistics, the optimizer's velocities and
gathered gradients, the sums behind the epoch's metrics, the states of random generators), the
position in the epoch, and the plan. It is an `.npz` file of plain arrays, written under another
name and renamed: after a kill or on a full disk the previous one is still there, whole.

    save(path, model, Position(epoch=3, step=100), best=0.91)
    state = load(path)
    state.restore(model)                  # refuses another architecture or plan, by name
    state.position, state.best            # Position(epoch=3, step=100), 0.91
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from faq_keras.archives import MOST_JSON, read_arrays, size_of_json
from faq_keras.files import atomic_write
from faq_keras.plan import QuantPlan
from faq_keras.quantized_layer import QuantizedLayer
from faq_keras.rewrite.keras3 import plan_of
from faq_keras.workers import team

FORMAT = "faq_keras.checkpoint/1"
_META = "meta.json"
_SHOWN = 5  # differences that are spelled out
_COUNTED = re.compile(r"\b(seed_generator)_\d+")

Arrays = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True, order=True)
class Position:
    """How far a training has come.

    Attributes:
        epoch: The epoch, counted from 0.
        step: Batches of this epoch that are done.
    """

    epoch: int = 0
    step: int = 0

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step}"


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read, or belongs to another model."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        source: The file, for messages.
        position: Where the training stands.
        best: Best validation accuracy so far, or None.
        plan: The plan of a quantized model as JSON text, or None.
        arrays: Value of each variable by role and path.
    """

    source: str
    position: Position
    best: float | None
    plan: str | None
    arrays: Mapping[str, npt.NDArray[Any]]

    def restore(self, model: keras.Model) -> None:
        """Sets every variable of a compiled model whose variables all exist.

        Raises:
            CheckpointError: The model has other layers, shapes or another plan; says which.
        """
        self._check_plan(model)
        variables = dict(_variables(model))
        self._check_variables({name: tuple(v.shape) for name, v in variables.items()})
        for name, variable in variables.items():
            variable.assign(self.arrays[name])

    def _check_plan(self, model: keras.Model) -> None:
        own = _plan_json(model)
        if self.plan is None or own is None:
            if (self.plan is None) != (own is None):
                kinds = ("a quantized", "a float") if own is None else ("a float", "a quantized")
                raise CheckpointError(
                    f"{self.source} belongs to {kinds[0]} network, '{model.name}' is {kinds[1]} "
                    "one. Resume with the configuration that the run was started with."
                )
            return
        problems = plan_differences(
            QuantPlan.from_json(self.plan, self.source), QuantPlan.from_json(own)
        )
        if problems:
            raise CheckpointError(
                f"{self.source} belongs to another plan than '{model.name}': {_few(problems)}. "
                "Resume with the configuration that the run was started with."
            )

    def _check_variables(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        problems = [f"{n} is not in the checkpoint" for n in shapes if n not in self.arrays]
        problems += [f"{n} is not in the model" for n in self.arrays if n not in shapes]
        problems += [
            f"{n} is {self.arrays[n].shape} in the checkpoint and {shape} in the model"
            for n, shape in shapes.items()
            if n in self.arrays and self.arrays[n].shape != shape
        ]
        if problems:
            raise CheckpointError(
                f"{self.source} belongs to another architecture: {_few(problems)}. Resume with "
                "the configuration that the run was started with."
            )


def save(
    path: str | os.PathLike[str],
    model: keras.Model,
    position: Position,
    best: float | None = None,
    metrics: Arrays | None = None,
) -> None:
    """Writes a checkpoint; it replaces the one before when it is complete.

    With several workers all of them call this, since metrics are sums over the workers, and the
    chief writes.

    Args:
        path: The file.
        model: A compiled model that has taken a step.
        position: Where the training stands.
        best: Best validation accuracy so far.
        metrics: Values for the metrics' variables, instead of those they have now.

    Raises:
        CheckpointError: It cannot be written; the file of this name is what it was.
        WorkerLostError: Another worker could not go on.
    """
    arrays = {name: keras.ops.convert_to_numpy(v) for name, v in _variables(model)}
    arrays.update(metrics or {})
    meta = {
        "format": FORMAT,
        "epoch": position.epoch,
        "step": position.step,
        "best": best,
        "plan": _plan_json(model),
    }
    arrays[_META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    team(model.distribute_strategy).first(lambda: _write(Path(path), position, arrays))


def _write(path: Path, position: Position, arrays: Arrays) -> None:
    try:
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        kept = "The checkpoint before it is whole" if path.exists() else "There is none"
        raise CheckpointError(
            f"The checkpoint {path} of {position} cannot be written "
            f"({error.strerror or error}). {kept}. Make room and go on with --resume."
        ) from error


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        CheckpointError: There is none, or the file is something else.
    """
    source = os.fspath(path)
    try:
        arrays = read_arrays(source)
        meta = json.loads(_limited(arrays.pop(_META)))
        if meta["format"] != FORMAT:
            raise ValueError(f"its format is {meta['format']!r}")
        position = Position(int(meta["epoch"]), int(meta["step"]))
        return Checkpoint(source, position, meta["best"], meta["plan"], arrays)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{source} is not a readable checkpoint ({FORMAT}): {error}. Resume from another one, "
            "or start in a new folder."
        ) from error


def _limited(text: npt.NDArray[Any]) -> str:
    if text.nbytes > MOST_JSON:
        raise ValueError(f"it has {size_of_json(text.nbytes)}")
    return text.tobytes().decode()


def metric_arrays(model: keras.Model) -> Arrays:
    """The values of the variables behind the metrics, to put into a later checkpoint."""
    values = _variables(model)
    return {n: keras.ops.convert_to_numpy(v) for n, v in values if n.startswith("metric/")}


def plan_differences(one: QuantPlan, other: QuantPlan) -> list[str]:
    """What differs between two plans, tensor by tensor; the recipe's name does not count."""
    rows = [
        {f"{n} ({r})": d for layer in p.layers for n, r, d in layer.rows()} for p in (one, other)
    ]
    names = list(dict.fromkeys([*rows[0], *rows[1]]))
    found = [
        f"{name} is [{rows[0].get(name, 'absent')}] in the one and "
        f"[{rows[1].get(name, 'absent')}] in the other"
        for name in names
        if rows[0].get(name) != rows[1].get(name)
    ]
    settings = [dataclasses.replace(plan.settings, recipe=None) for plan in (one, other)]
    if not found and settings[0].numerics != settings[1].numerics:
        found.append(f"numerics is {settings[0].numerics} and {settings[1].numerics}")
    return found


def _plan_json(model: keras.Model) -> str | None:
    quantized = any(isinstance(layer, QuantizedLayer) for layer in model._flatten_layers())
    return plan_of(model).to_json() if quantized else None


def _variables(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Every variable that the next step depends on, named by role, number and path.

    Numbers make the names unique; `model.variables` has the random generators' states as well.
    """
    metrics = [variable for metric in model.metrics for variable in metric.variables]
    counted = {id(variable) for variable in metrics}
    own = [variable for variable in model.variables if id(variable) not in counted]
    optimizer = list(model.optimizer.variables)
    for role, variables in (("model", own), ("optimizer", optimizer), ("metric", metrics)):
        for number, variable in enumerate(variables):
            # Names that Keras counts up in a process are no part of what a variable is.
            path = variable.path if role == "model" else variable.path.partition("/")[2]
            path = _COUNTED.sub(r"\1", path)
            yield f"{role}/{number:04d}/{path}", variable


def _few(problems: list[str]) -> str:
    rest = len(problems) - _SHOWN
    return "; ".join(problems[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
