"""A quantized network beside its teacher: how far apart their outputs are.

Scores of classes are compared as distributions, by the Kullback-Leibler divergence; for a network
that ends in a softmax these are the scores before it. Everything else is compared by the squared
error, relative to the variance of the teacher's output.

    both = Comparison(q, float_model)
    for found in both.measure([x]):
        print(found)                    # dense: agreement 97.36 %, 18.2 dB
    losses = both.losses([tf.constant(x[:64])], temperature=1.0, variances=[found.variance])
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.compat import keras_of
from faq_keras.graph import functional_of, last_activation

_LEAST = float(np.finfo(np.float32).tiny)  # logarithms of probabilities go no further down


@dataclasses.dataclass(frozen=True)
class Output:
    """One output of both networks.

    Attributes:
        name: Name of the layer that gives it.
        is_classifier: Whether it holds scores of classes along its last axis.
        softmax: Whether the quantized network gives them after a softmax.
        teacher_softmax: Whether the teacher does.
    """

    name: str
    is_classifier: bool
    softmax: bool
    teacher_softmax: bool


@dataclasses.dataclass(frozen=True)
class Distance:
    """How far an output of the quantized network is from its teacher's, over some images.

    Attributes:
        output: Name of the output.
        loss: The mean divergence, or the squared error by the variance of the teacher's output.
        agreement: Share of the images (or pixels) for which both rank the same class first; None
            for what is no classifier.
        sqnr: Signal to noise of the output in dB; None if there is no noise.
        variance: Of the teacher's output, around the mean of each of its last axis' channels.
    """

    output: str
    loss: float
    agreement: float | None
    sqnr: float | None
    variance: float

    def __str__(self) -> str:
        noise = "exact" if self.sqnr is None else f"{self.sqnr:.1f} dB"
        if self.agreement is None:
            return f"{self.output}: {noise}"
        return f"{self.output}: agreement {100 * self.agreement:.2f} %, {noise}"


class Comparison:
    """Runs both networks, of either Keras each, on the same inputs.

    Attributes:
        outputs: How each output is compared.

    Raises:
        ValueError: If the networks end in activations that cannot be compared.
    """

    def __init__(self, quantized: Any, teacher: Any) -> None:
        functional, other = functional_of(quantized), functional_of(teacher)
        pairs = list(zip(functional.outputs, other.outputs, strict=True))
        self.outputs = tuple(_output(own, their, quantized, teacher) for own, their in pairs)
        ends = [_before_softmax(own) for own, _ in pairs]
        self._quantized = keras_of(quantized).Model(functional.inputs, ends)
        self._teacher = keras_of(teacher).Model(other.inputs, other.outputs)
        self._statistics = tf.function(self._sums)

    def losses(
        self, inputs: Sequence[tf.Tensor], temperature: float, variances: Sequence[float]
    ) -> list[tf.Tensor]:
        """The loss of each output on a batch, with the gradient of the quantized network.

        Args:
            inputs: A tensor for each input, in the order of `model.inputs`.
            temperature: What scores are divided by before they are compared.
            variances: The teacher's, for the outputs that are no classifiers.
        """
        pairs = zip(self.outputs, *self._run(inputs), variances, strict=True)
        return [
            tf.reduce_mean(_divergence(own, wanted, temperature))
            if output.is_classifier
            else tf.reduce_mean(tf.math.squared_difference(own, wanted)) / variance
            for output, own, wanted, variance in pairs
        ]

    def measure(
        self, inputs: Sequence[npt.NDArray[np.float32]], batch_size: int = 64
    ) -> tuple[Distance, ...]:
        """How far the outputs are apart on images as they are, at temperature 1.

        Args:
            inputs: An array `[images, ...]` for each input, in the order of `model.inputs`.
            batch_size: Images that run at once.
        """
        totals: list[list[npt.NDArray[np.float64]]] = [[] for _ in self.outputs]
        for start in range(0, len(inputs[0]), batch_size):
            chunk = [tf.constant(part[start : start + batch_size]) for part in inputs]
            for total, sums in zip(totals, self._statistics(chunk), strict=True):
                values = [value.numpy() for value in sums]
                total[:] = [a + b for a, b in zip(total, values, strict=True)] if total else values
        return tuple(map(_distance, self.outputs, totals))

    def _run(self, inputs: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The outputs to compare: of the quantized network and, as logits, of the teacher."""
        own, wanted = (
            [tf.cast(value, tf.float32) for value in _listed(model(list(inputs), training=False))]
            for model in (self._quantized, self._teacher)
        )
        wanted = [
            tf.math.log(tf.maximum(value, _LEAST)) if output.teacher_softmax else value
            for output, value in zip(self.outputs, wanted, strict=True)
        ]
        return own, [tf.stop_gradient(value) for value in wanted]

    def _sums(self, inputs: Sequence[tf.Tensor]) -> list[tuple[tf.Tensor, ...]]:
        """What `_distance` needs, summed over a batch in float64."""
        return [
            (*_class_sums(output, own, wanted), *_error_sums(output, own, wanted))
            for output, own, wanted in zip(self.outputs, *self._run(inputs), strict=True)
        ]


def _class_sums(output: Output, own: tf.Tensor, wanted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The divergence and the number of equal classes; zeros for what is no classifier."""
    if not output.is_classifier:
        return tf.constant(0.0, tf.float64), tf.constant(0.0, tf.float64)
    divergence = tf.cast(_divergence(own, wanted, 1.0), tf.float64)
    same = tf.equal(tf.argmax(own, -1), tf.argmax(wanted, -1))
    return tf.reduce_sum(divergence), tf.reduce_sum(tf.cast(same, tf.float64))


def _error_sums(output: Output, own: tf.Tensor, wanted: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Of the outputs as users see them: how many, their sums by channel, squares, and errors."""
    if output.softmax:
        own, wanted = tf.nn.softmax(own), tf.nn.softmax(wanted)
    exact = tf.cast(wanted, tf.float64)
    axes = list(range(len(exact.shape) - 1))
    places = tf.cast(tf.reduce_prod(tf.shape(exact)[:-1]), tf.float64)
    error = tf.reduce_sum(tf.math.squared_difference(tf.cast(own, tf.float64), exact))
    return places, tf.reduce_sum(exact, axes), tf.reduce_sum(exact * exact, axes), error


def _output(own: Any, their: Any, quantized: Any, teacher: Any) -> Output:
    """How an output is compared.

    Raises:
        ValueError: If one is a probability, say, and the other not.
    """
    end, other = last_activation(own), last_activation(their)
    rank, units = len(own.shape), own.shape[-1]
    scores = end == "softmax" or (end == "linear" and rank == 2 and units > 1)
    name = own._keras_history[0].name
    if end != other and not (scores and other in ("softmax", "linear")):
        raise ValueError(
            f"The output '{name}' of the quantized model '{quantized.name}' comes from the "
            f"activation {end}, that of the teacher '{teacher.name}' from {other}: they cannot be "
            "compared. Pass a teacher that ends as the quantized model does."
        )
    return Output(name, scores, end == "softmax", scores and other == "softmax")


def _before_softmax(output: Any) -> Any:
    """What a softmax at the end of a quantized network reads; another output itself."""
    operation, node, _ = output._keras_history
    if last_activation(output) != "softmax":
        return output
    (before,) = operation._inbound_nodes[node].input_tensors
    return before


def _divergence(own: tf.Tensor, wanted: tf.Tensor, temperature: float) -> tf.Tensor:
    """Kullback-Leibler divergence of the teacher's classes from ours, one number per row.

    The factor keeps the size of the gradient at any temperature (Hinton et al. 2015, section 2).
    """
    ours, theirs = (tf.nn.log_softmax(logits / temperature) for logits in (own, wanted))
    return temperature**2 * tf.reduce_sum(tf.exp(theirs) * (theirs - ours), -1)


def _distance(output: Output, totals: Sequence[npt.NDArray[np.float64]]) -> Distance:
    divergence, same, places, sums, squares, error = totals
    variance = float(np.mean(np.maximum(squares / places - (sums / places) ** 2, 0.0))) or 1.0
    signal, noise = float(np.sum(squares)), float(error)
    sqnr = 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
    if output.is_classifier:
        agreement = float(same / places)
        return Distance(output.name, float(divergence / places), agreement, sqnr, variance)
    squared = noise / (float(places) * np.size(sums))
    return Distance(output.name, squared / variance, None, sqnr, variance)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
