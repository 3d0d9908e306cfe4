"""`distill`: a quantized network learns its float network's answers from unlabelled images.

Only the multipliers and offsets of the batch normalizations (gamma and beta) learn, at most a few
thousand numbers, so some hundred images and some hundred steps are enough and there is little to
overfit. Statistics stay frozen: what learns is the folded arithmetic of inference itself, through
which gradients pass straight. No labels are used, and no training pipeline.

    q = faq_keras.apply(model, bits=4, calibration_data=x)
    faq_keras.reconstruct(q, x[:256])
    print(faq_keras.distill(q, x[:1024]))     # loss 0.0389 -> 0.0359 ...
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from rich.progress import track

from faq_keras.compat import keras_of
from faq_keras.data.batches import input_batches
from faq_keras.graph import functional_of
from faq_keras.layers import QuantizedInput
from faq_keras.plan_parts import Agreement
from faq_keras.post_training.augmentation import augmented_batches
from faq_keras.post_training.comparison import Comparison, Distance
from faq_keras.post_training.teachers import teacher_of
from faq_keras.quantized_layer import QuantizedLayer
from faq_keras.rewrite.keras3 import record

Array = npt.NDArray[np.float32]

LAYERS = ("batch_norm", "all")
LEAST_IMAGES = 16
# With fewer, kernels learn the images by heart.
_ENOUGH_FOR_KERNELS = 10_000


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What `distill` did.

    Losses and agreement are those on the first 1,024 images it learned from, as they are; the
    accuracy on other images is another question.

    Attributes:
        before: How close each output was to the teacher's before the first step.
        after: The same after the last one.
        loss_first: The loss before the first step, summed over the outputs.
        loss_last: The same after the last one.
        images: Number of images.
        steps: Number of steps.
        seconds: What it took.
        teacher: What the teacher was.
        layers: "batch_norm" or "all".
        kept: False if the loss did not fall: the network is then what it was before.
    """

    before: tuple[Agreement, ...]
    after: tuple[Agreement, ...]
    loss_first: float
    loss_last: float
    images: int
    steps: int
    seconds: float
    teacher: str
    layers: str
    kept: bool

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    def __str__(self) -> str:
        lines = [
            f"Distilled {self.steps} steps on {self.images:,} images in {self.seconds:.0f} s "
            f"({self.layers}); teacher: {self.teacher}.",
            f"  loss {self.loss_first:.4g} -> {self.loss_last:.4g}",
        ]
        for when, entries in (("before", self.before), ("after", self.after)):
            lines += [f"  {when}: {entry}" for entry in entries]
        if not self.kept:
            lines.append("  The loss did not fall: the network is what it was before.")
        return "\n".join(lines)


def distill(
    model: Any,
    images: Any,
    steps: int = 200,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    layers: str = "batch_norm",
    temperature: float = 1.0,
    augment: bool = True,
    teacher: Any = None,
    seed: int = 0,
) -> Distillation:
    """Teaches a quantized network its float network's outputs, in place, from unlabelled images.

    What is minimised is, summed over the outputs, the Kullback-Leibler divergence of the float
    network's classes (outputs `[batch, units]` of several units, outputs that end in a softmax), or
    the squared error relative to the variance of the float output (all others, for example after a
    sigmoid). Adam's rate falls to zero along a cosine. The layers' `trainable` flags and
    regularizers, which are for `fit`, play no part.

    Args:
        model: A model that `apply` made, of either Keras, reconstructed or not.
        images: 500 to some thousand inputs as the model takes them, unlabelled: an array `[images,
            height, width, channels]`, a dictionary of them by input, a `tf.data.Dataset` or an
            iterable of `x` or `(x, y)` batches, whose labels are not looked at. They are kept in
            memory.
        steps: Number of batches.
        batch_size: Images per batch.
        learning_rate: Adam's rate at the first step.
        layers: "batch_norm": gamma and beta; of a network without batch normalizations the biases.
            "all": kernels and biases, too, for which 1,000 images are too few: from 10,000 on.
        temperature: What scores of classes are divided by before they are compared.
        augment: Whether to flip images horizontally and shift them by up to an eighth of their
            size. Turn it off where mirror images do not occur (text, spectrograms).
        teacher: The float network, or another one with the same inputs and outputs. None: the model
            that `apply` quantized in this process, with the weights that it has now; of a model
            that was loaded from a file, the float layers in it, unless `reconstruct` or `distill`
            changed them before it was saved.
        seed: Order and augmentation of the images.

    Returns:
        What changed; print it. If the distance from the teacher has not shrunk, the network is as
        it was (`kept` is False) and a warning says so.

    Raises:
        ValueError: If an argument is out of range; the images do not fit, are fewer than 16 or not
            finite; the model is not quantized, or has nothing to learn with; there is no teacher;
            or the loss is no longer a finite number. The network is then as it was before.
    """
    begun = time.monotonic()
    course = _Course(steps, batch_size, learning_rate, temperature, augment, seed)
    found = teacher_of(model, teacher)
    variables = _variables(model, layers)
    inputs = _inputs(model, images)
    count = len(inputs[0])
    if layers == "all" and count < _ENOUGH_FOR_KERNELS:
        warnings.warn(
            f"distill(layers='all') on {count:,} images: with fewer than {_ENOUGH_FOR_KERNELS:,}, "
            "kernels learn the images by heart. Take more images, or layers='batch_norm'.",
            stacklevel=2,
        )
    before, after, kept = _learned(model, found.model, variables, inputs, course)
    result = Distillation(
        tuple(distance.agreement for distance in before),
        tuple(distance.agreement for distance in after),
        _total(before),
        _total(after),
        count,
        steps,
        time.monotonic() - begun,
        str(found),
        layers,
        kept,
    )
    if kept:
        record(model, post_training="distill", agreement=result.after)
    else:
        warnings.warn(
            f"distill did not bring '{model.name}' closer to its teacher (loss "
            f"{result.loss_first:.4g} -> {result.loss_last:.4g}); the network is what it was "
            f"before. Try a lower learning rate than {learning_rate:g}.",
            stacklevel=2,
        )
    return result


@dataclasses.dataclass(frozen=True)
class _Course:
    """The numbers of a distillation, checked; see `distill`."""

    steps: int
    batch_size: int
    learning_rate: float
    temperature: float
    augment: bool
    seed: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if int(value) != value or value < 1:
                raise ValueError(f"{name} has to be a whole number >= 1. Received: {value!r}.")
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} has to be a number > 0. Received: {value!r}.")


def _learned(
    model: Any, teacher: Any, variables: Sequence[Any], inputs: Sequence[Array], course: _Course
) -> tuple[tuple[Distance, ...], tuple[Distance, ...], bool]:
    """Trains the variables; the distances before and after, and whether the result was kept."""
    count = len(inputs[0])
    batch_size = min(course.batch_size, count)
    compared = Comparison(model, teacher)
    before = compared.measure(inputs, batch_size)
    start = _total(before)
    _check_finite(model, start, 0, count, course)
    with _restored_on_error(variables) as restore:
        update = _update(model, compared, variables, course, [d.variance for d in before])
        batches = augmented_batches(inputs, batch_size, course.steps, course.seed, course.augment)
        bar = track(
            enumerate(batches, start=1),
            "distill",
            course.steps,
            transient=True,
            disable=not sys.stdout.isatty(),
        )
        for step, batch in bar:
            loss = float(update([tf.constant(part) for part in batch]))
            _check_finite(model, loss, step, count, course)
        after = compared.measure(inputs, batch_size)
        _check_finite(model, _total(after), course.steps, count, course)
        kept = _total(after) < start
        if not kept:
            restore()
    return before, after, kept


def _update(
    model: Any,
    compared: Comparison,
    variables: Sequence[Any],
    course: _Course,
    variances: Sequence[float],
) -> Callable[[list[tf.Tensor]], tf.Tensor]:
    """A compiled step of Adam on a batch, which returns the batch's loss before it."""
    optimizers = keras_of(model).optimizers
    schedule = optimizers.schedules.CosineDecay(course.learning_rate, course.steps)
    optimizer = optimizers.Adam(schedule)
    optimizer.build(variables)
    tensors = [_tf_variable(variable) for variable in variables]

    @tf.function(jit_compile=False)
    def update(inputs: list[tf.Tensor]) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            loss = tf.add_n(compared.losses(inputs, course.temperature, variances))
        gradients = tape.gradient(loss, tensors, unconnected_gradients="zero")
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    return update


def _variables(model: Any, layers: str) -> list[Any]:
    """What learns.

    Raises:
        ValueError: If `layers` is unknown, or the model has no such variables.
    """
    if layers not in LAYERS:
        raise ValueError(f"layers has to be one of {', '.join(LAYERS)}. Received: {layers!r}.")
    affine: list[Any] = []
    others: list[Any] = []
    biases: list[Any] = []
    for layer in model._flatten_layers():
        if not isinstance(layer, QuantizedLayer) or isinstance(layer, QuantizedInput):
            continue
        for part in layer.float_layers:
            if isinstance(part, keras_of(part).layers.BatchNormalization):
                affine += [v for v in (part.gamma, part.beta) if v is not None]
                continue
            others += [v for v in part.weights if _tf_variable(v).dtype.is_floating]
            if getattr(part, "use_bias", False):
                biases.append(part.bias)
    chosen = affine + others if layers == "all" else affine or biases
    if not chosen:
        hint = "" if layers == "all" else " Pass layers='all' to train its kernels."
        raise ValueError(
            f"Model '{model.name}' has no batch normalization and no bias, so there is nothing to "
            f"distill into.{hint}"
        )
    return chosen


def _tf_variable(variable: Any) -> tf.Variable:
    """The TensorFlow variable of a variable of either Keras."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def _inputs(model: Any, images: Any) -> list[Array]:
    """The images as one array per input, in the order of `model.inputs`.

    Raises:
        ValueError: If they do not fit, are too few, or never end.
    """
    if isinstance(images, tf.data.Dataset) and images.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The dataset for distill never ends: pass images.take(16), for example.")
    shapes = {t._keras_history[0].name: tuple(t.shape) for t in functional_of(model).inputs}
    batches = list(input_batches(images, None, shapes, "distillation"))
    inputs = [np.concatenate([batch[name] for batch in batches]) for name in shapes]
    if len(inputs[0]) < LEAST_IMAGES:
        raise ValueError(
            f"distill needs at least {LEAST_IMAGES} images, 500 or more to be of use; received "
            f"{len(inputs[0])}. They need no labels: take what the network will see."
        )
    return inputs


@contextlib.contextmanager
def _restored_on_error(variables: Sequence[Any]) -> Iterator[Callable[[], None]]:
    """Gives the variables their values back if the block fails, or asks for it."""
    values = [_tf_variable(variable).numpy() for variable in variables]

    def restore() -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    try:
        yield restore
    except BaseException:
        restore()
        raise


def _check_finite(model: Any, loss: float, step: int, count: int, course: _Course) -> None:
    """Raises a ValueError that says what to do if the loss is not finite."""
    if math.isfinite(loss):
        return
    if step == 0:
        raise ValueError(
            f"Model '{model.name}' or its teacher gives values that are not finite on the images "
            "before the first step: check both networks' weights."
        )
    raise ValueError(
        f"The distillation of '{model.name}' diverged: after step {step} of {course.steps} the "
        f"loss is {loss}. The network is what it was before. Try a lower learning rate than "
        f"{course.learning_rate:g}, and look for images of another range among the {count:,}."
    )


def _total(distances: Sequence[Distance]) -> float:
    return sum(distance.loss for distance in distances)
