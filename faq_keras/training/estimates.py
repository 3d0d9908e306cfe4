"""What a training will cost, before it begins: steps, hours, memory; and its schedules, drawn.

    cost = estimate(network, experiment.recipe, data, images)
    cost.steps, cost.hours, cost.gigabytes
    plot_schedules(recipe, "schedule.png")

Estimates: a step takes three times the forward pass that is timed here (forward, and backward with
respect to inputs and weights); for the backward pass the output of every layer is kept.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from faq_keras.data.pipeline import Pipeline
from faq_keras.files import atomic_write
from faq_keras.graph import functional_of, layer_calls
from faq_keras.training.recipes import Recipe

_FORWARD_PASSES = 3  # in the time of one training step
_COPIES = 4  # of each parameter: value, velocity, gradient, gathered gradients
_FLOAT = 4  # bytes


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The cost of a training.

    Attributes:
        steps: Batches of all epochs.
        updates: Updates of the weights: fewer with virtual batches.
        images_per_second: Of the training step on this machine, estimated.
        hours: Of all steps on this machine, without validation, estimated.
        parameters: Number of weights that are trained.
        gigabytes: Memory for parameters and activations of one batch, estimated.
    """

    steps: int
    updates: int
    images_per_second: float
    hours: float
    parameters: int
    gigabytes: float


def estimate(
    network: keras.Model, recipe: Recipe, data: Pipeline, images: npt.NDArray[np.float32]
) -> Estimate:
    """Estimates the cost of a training.

    Args:
        network: The float network.
        recipe: Its course.
        data: Its data.
        images: A few images to time the network on.
    """
    steps = data.steps_per_epoch
    counts = [int(recipe.virtual_batches(epoch)) for epoch in range(recipe.epochs)]
    seconds = _FORWARD_PASSES * _forward_seconds(network, images) / len(images)
    total = steps * recipe.epochs
    parameters = sum(math.prod(weight.shape) for weight in network.trainable_weights)
    values = parameters * _COPIES + _values_per_image(network) * data.batch_size
    return Estimate(
        steps=total,
        updates=sum(steps // count for count in counts),
        images_per_second=1 / seconds,
        hours=total * data.batch_size * seconds / 3600,
        parameters=parameters,
        gigabytes=values * _FLOAT / 1e9,
    )


def _forward_seconds(network: keras.Model, images: npt.NDArray[np.float32]) -> float:
    """The fastest of three runs: the first one also sets things up."""
    return min(_timed(lambda: network.predict_on_batch(images)) for _ in range(3))


def _timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _values_per_image(network: keras.Model) -> int:
    """Sizes of all layers' outputs together."""
    total = 0
    for call in layer_calls(functional_of(network)):
        if isinstance(call.operation, keras.Model):
            total += _values_per_image(call.operation)
        else:
            total += sum(math.prod(tensor.shape[1:]) for tensor in call.outputs)
    return total


def schedule_rows(recipe: Recipe, batch_size: int) -> list[tuple[int, float, int]]:
    """`(epoch, learning rate, images per update)`: every change, or about ten of many.

    Epochs count from 1, as they are shown.
    """
    rows = [
        (epoch + 1, recipe.learning_rate(epoch), batch_size * int(recipe.virtual_batches(epoch)))
        for epoch in range(recipe.epochs)
    ]
    changes = [row for i, row in enumerate(rows) if i == 0 or row[1:] != rows[i - 1][1:]]
    if len(changes) > 12:
        batches = {row[0] for i, row in enumerate(rows) if i and row[2] != rows[i - 1][2]}
        step = len(rows) // 10
        changes = [row for i, row in enumerate(rows) if i % step == 0 or row[0] in batches]
    return changes if changes[-1] == rows[-1] else [*changes, rows[-1]]


def plot_schedules(recipe: Recipe, batch_size: int, path: str) -> None:
    """Draws learning rate and images per update over the epochs.

    Raises:
        ValueError: The file is no .png.
        OSError: It cannot be written.
    """
    if Path(path).suffix != ".png":
        raise ValueError(f"The picture {path} of the schedule has to end in .png.")
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state
    from matplotlib.ticker import MaxNLocator

    epochs = range(recipe.epochs)
    rates = [recipe.learning_rate(epoch) for epoch in epochs]
    batches = [batch_size * int(recipe.virtual_batches(epoch)) for epoch in epochs]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.stairs(rates, range(recipe.epochs + 1), baseline=None)
    upper.set_yscale("log")
    upper.set_ylabel("learning rate")
    upper.set_title(f"Recipe {recipe.name}, {recipe.epochs} epochs")
    lower.stairs(batches, range(recipe.epochs + 1), color="#7aa874", fill=True)
    lower.set_ylabel("images\nper update")
    lower.set_xlabel("epochs done")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
