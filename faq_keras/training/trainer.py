"""The whole fine-tuning in one call: compile, fit by a recipe, leave everything in a folder.

    history = fine_tune(q, train_data, recipe="w4a4", epochs=4, validation_data=test_data,
                        workdir="runs/resnet20")

It is no more than `compile` and `fit` with the recipe's optimizer and callbacks, so it works for a
quantized network and, unchanged, for the float network as the control: both take the same steps.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from faq_keras.compat import keras_of
from faq_keras.files import atomic_write, make_folder, refuse_links
from faq_keras.quantized_layer import QuantizedLayer
from faq_keras.rewrite.keras3 import plan_of, record
from faq_keras.training.callbacks import MetricsLog, NaNAlarm
from faq_keras.training.distribution import synchronize
from faq_keras.training.losses import classification_loss
from faq_keras.training.recipes import Recipe
from faq_keras.training.recipes import recipe as recipe_named
from faq_keras.workers import team


def fine_tune(
    model: Any,
    train_data: Any,
    recipe: str | Recipe = "w4a4",
    epochs: int | None = None,
    validation_data: Any = None,
    loss: Any = None,
    metrics: Sequence[Any] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    verbose: str | int = "auto",
    callbacks: Sequence[Any] = (),
    steps_per_epoch: int | None = None,
) -> Any:
    """Trains a model by one of the paper's recipes.

    A model made in the scope of `tf.distribute.MirroredStrategy` trains on its devices; batches are
    those of all devices together.

    Args:
        model: Any model of Keras 3 or tf_keras, quantized or float; it is compiled anew and trained
            in place.
        train_data: A batched `tf.data.Dataset` of `(images, labels)` or a pair of arrays, which are
            shuffled and batched by the recipe's batch size. Images as the model takes them.
        recipe: Name of a recipe (see `faq_keras.recipe`) or a `Recipe`.
        epochs: Number of epochs, to which the recipe is stretched. None: the recipe's own.
        validation_data: Like `train_data`; evaluated after each epoch.
        loss: What to minimise. None: the cross-entropy that fits the model's end and the labels.
        metrics: Metrics of the model's Keras. None: accuracy.
        workdir: Folder for `metrics.jsonl`, TensorBoard events (`tensorboard/`), and at the end
            `model.keras` and, of a quantized model, `plan.json`. It is made if missing.
        verbose: As in `fit`, where "auto" is a progress bar on a terminal and one line per epoch
            elsewhere.
        callbacks: Further callbacks, run after the recipe's.
        steps_per_epoch: Batches per epoch of an endless data set.

    Returns:
        The `History` of the model's Keras, also of the learning rate.

    Raises:
        ValueError: Data that does not fit the model, no loss that can be inferred, unknown recipe;
            `TrainingDivergedError` if the loss is no longer finite.
        LinkError: There are links in `workdir`.
        OSError: `workdir` cannot be written.
    """
    if workdir is not None:
        refuse_links(workdir)
    if team(model.distribute_strategy).workers > 1:
        raise ValueError(
            "fine_tune is Keras' fit, which fails with several workers. Use "
            "faq_keras.training.experiment.run, or faq train --distribution=multi_worker."
        )
    library, course = keras_of(model), _recipe(recipe, epochs)
    train, images, labels = _fit_data(train_data, course.batch_size, "train_data")
    _check_images(model, images, "train_data")
    fit_arguments: dict[str, Any] = {**train, "steps_per_epoch": steps_per_epoch}
    if validation_data is not None:
        validation, images, _ = _fit_data(validation_data, course.batch_size, "validation_data")
        _check_images(model, images, "validation_data")
        fit_arguments["validation_data"] = (
            (validation["x"], validation["y"]) if "y" in validation else validation["x"]
        )
    model.compile(
        optimizer=course.optimizer_for(model),
        loss=loss if loss is not None else classification_loss(model, labels),
        metrics=list(metrics) if metrics is not None else ["accuracy"],
        jit_compile=jit_compile() if library is keras else False,
    )
    synchronize(model)
    folder = None if workdir is None else Path(workdir)
    history = model.fit(
        **fit_arguments,
        epochs=course.epochs,
        callbacks=[*course.callbacks, NaNAlarm(), *callbacks, *_logs(model, folder)],
        verbose=_verbosity(verbose),
    )
    record(model, recipe=course.name)
    if folder is not None:
        save_result(model, folder)
    return history


def jit_compile() -> bool | str:
    """What to pass to `compile`: XLA makes training on a CPU 1.6 times slower, so not there."""
    return "auto" if tf.config.list_logical_devices("GPU") else False


def _recipe(recipe: str | Recipe, epochs: int | None) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe if epochs in (None, recipe.epochs) else recipe.with_epochs(int(epochs or 0))
    return recipe_named(recipe, epochs)


def _verbosity(verbose: str | int) -> str | int:
    if verbose != "auto":
        return verbose
    return 1 if sys.stdout.isatty() else 2


def _logs(model: Any, folder: Path | None) -> list[Any]:
    if folder is None:
        return []
    make_folder(folder)
    events = keras_of(model).callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False)
    return [MetricsLog(folder / "metrics.jsonl"), events]


def save_result(model: Any, folder: Path) -> None:
    """Writes `model.keras` and, of a quantized model, `plan.json`; each whole or not at all."""
    with atomic_write(folder / "model.keras", within=folder) as partial:
        model.save(partial)
    if any(isinstance(layer, QuantizedLayer) for layer in model._flatten_layers()):
        plan_of(model).save(folder / "plan.json")


def _fit_data(data: Any, batch_size: int, name: str) -> tuple[dict[str, Any], Any, Any]:
    """Arguments for `fit`, and the shapes `[batch, ...]` of a batch's images and labels."""
    if isinstance(data, tf.data.Dataset):
        spec = data.element_spec
        if not (isinstance(spec, tuple) and len(spec) in (2, 3)):
            raise ValueError(
                f"{name}: the dataset gives {spec}. Expected: batches of (images, labels)."
            )
        if any(s.shape.rank is None for s in keras.tree.flatten(spec[:2])):
            raise ValueError(
                f"{name}: the dataset does not say the shapes of its batches, without which Keras "
                "cannot train. Give its generator an output_signature with shapes."
            )
        images, labels = (
            keras.tree.map_structure(lambda s: s.shape.as_list(), part) for part in spec[:2]
        )
        return {"x": data, "shuffle": False}, images, labels  # a dataset shuffles itself
    if isinstance(data, tuple | list) and len(data) == 2 and _same_length(*data):
        images, labels = (np.shape(part) for part in data)
        return (
            {"x": data[0], "y": data[1], "batch_size": batch_size},
            [None, *images[1:]],
            [None, *labels[1:]],
        )
    raise ValueError(
        f"{name} has to be a batched tf.data.Dataset of (images, labels), or a pair of arrays "
        f"(images, labels) of one length >= 1. Received: {_described(data)}."
    )


def _same_length(images: Any, labels: Any) -> bool:
    return (
        hasattr(images, "shape")
        and np.ndim(images) > 0
        and np.ndim(labels) > 0
        and len(images) == len(labels) > 0
    )


def _described(data: Any) -> str:
    if isinstance(data, tuple | list):
        shapes = [getattr(part, "shape", type(part).__name__) for part in data[:4]]
        return f"{type(data).__name__} of {len(data)}: {shapes}"
    return type(data).__name__


def _check_images(model: Any, images: Any, name: str) -> None:
    """Compares the data's shape with a model's single input; others are left to Keras."""
    expected = getattr(model, "input_shape", None)
    if not (isinstance(expected, tuple) and isinstance(images, list)):
        return
    fits = len(images) == len(expected) and all(
        want is None or have is None or want == have
        for want, have in zip(expected[1:], images[1:], strict=True)
    )
    if not fits:
        hint = " Is .batch(n) missing?" if len(images) == len(expected) - 1 else ""
        raise ValueError(
            f"{name}: the model {model.name!r} takes batches of shape {expected}, the data gives "
            f"{tuple(images)}.{hint}"
        )
