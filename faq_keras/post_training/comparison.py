"""A quantized network beside its teacher: how far apart their outputs are.

Scores of classes are compared as distributions, by the Kullback-Leibler divergence; for a network
that ends in a softmax these are the scores before it. Everything else is compared by the squared
error, relative to the variance of the teacher's output.

    both = Comparison(q, float_model)
    for found in both.measure([x]):
        print(found.agreement)          # dense: 97.4 % same top-1, SQNR 18.2 dB on 1,024 images
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
from faq_keras.plan_parts import Agreement

_LEAST = float(np.finfo(np.float32).tiny)  # logarithms of probabilities go no further down


@dataclasses.dataclass(frozen=True)
class Output:
    """One output of both networks.

    Attributes:
        name: Name of the layer that gives it.
        is_classifier: Whether it holds scores of classes along its last axis.
        is_sigmoid: Whether both networks end in a sigmoid.
        is_probability: Whether the teacher gives scores after a softmax.
    """

    name: str
    is_classifier: bool
    is_sigmoid: bool
    is_probability: bool


@dataclasses.dataclass(frozen=True)
class Distance:
    """How far an output of the quantized network is from its teacher's, over some images.

    Attributes:
        loss: The mean divergence, or the squared error by `variance`.
        variance: Of the teacher's output, around the mean of each channel.
        agreement: The same for people.
    """

    loss: float
    variance: float
    agreement: Agreement


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
        images = len(inputs[0])
        return tuple(
            _distance(output, total, images)
            for output, total in zip(self.outputs, totals, strict=True)
        )

    def _run(self, inputs: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The outputs to compare: of the quantized network and, as logits, of the teacher."""
        own, wanted = (
            [tf.cast(value, tf.float32) for value in _listed(model(list(inputs), training=False))]
            for model in (self._quantized, self._teacher)
        )
        wanted = [
            tf.math.log(tf.maximum(value, _LEAST)) if output.is_probability else value
            for output, value in zip(self.outputs, wanted, strict=True)
        ]
        return own, [tf.stop_gradient(value) for value in wanted]

    def _sums(self, inputs: Sequence[tf.Tensor]) -> list[list[tf.Tensor]]:
        """What `_distance` needs, summed over a batch in float64."""
        return [
            [tf.cast(value, tf.float64) for value in _batch_sums(output, own, wanted)]
            for output, own, wanted in zip(self.outputs, *self._run(inputs), strict=True)
        ]


def _batch_sums(output: Output, own: tf.Tensor, wanted: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Places, sums and squares by channel; loss, equal classes, signal and noise in all."""
    double = tf.cast(wanted, tf.float64)
    axes = list(range(len(double.shape) - 1))
    if output.is_classifier:
        loss = tf.reduce_sum(_divergence(own, wanted, 1.0))
        same = tf.math.count_nonzero(tf.equal(tf.argmax(own, -1), tf.argmax(wanted, -1)))
    else:
        loss = tf.reduce_sum(tf.math.squared_difference(tf.cast(own, tf.float64), double))
        same = tf.constant(0)
    exact, got = _as_scores(output, wanted), _as_scores(output, own)
    return (
        tf.reduce_prod(tf.shape(double)[:-1]),
        tf.reduce_sum(double, axes),
        tf.reduce_sum(double * double, axes),
        loss,
        same,
        tf.reduce_sum(exact * exact),
        tf.reduce_sum(tf.math.squared_difference(got, exact)),
    )


def _as_scores(output: Output, values: tf.Tensor) -> tf.Tensor:
    """The logits that noise is measured by, in float64; what all classes share is no noise."""
    values = tf.cast(values, tf.float64)
    if output.is_classifier:
        return values - tf.reduce_mean(values, -1, keepdims=True)
    if output.is_sigmoid:  # float32 holds no logits beyond these in probabilities
        inside = tf.clip_by_value(values, 2.0**-24, 1 - 2.0**-24)
        return tf.math.log(inside) - tf.math.log1p(-inside)
    return values


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
    return Output(name, scores, end == "sigmoid", scores and other == "softmax")


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


def _distance(output: Output, totals: Sequence[npt.NDArray[np.float64]], images: int) -> Distance:
    places, sums, squares, loss, same, signal, noise = totals
    variance = float(np.mean(np.maximum(squares / places - (sums / places) ** 2, 0.0))) or 1.0
    ratio = float(signal) / float(noise) if noise else math.inf
    ratio = min(max(ratio, 1e-10), 1e10) if math.isfinite(loss) else 1e-10
    top1 = float(same / places) if output.is_classifier else None
    agreement = Agreement(output.name, images, top1, round(10 * math.log10(ratio), 2))
    if output.is_classifier:
        return Distance(float(loss / places), variance, agreement)
    return Distance(float(loss / (places * np.size(sums))) / variance, variance, agreement)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
