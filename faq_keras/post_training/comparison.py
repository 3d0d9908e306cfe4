"""A quantized network next to its teacher: how far apart their outputs are.

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
from faq_keras.rewrite.agreement import agreement_of

# Images that are measured: so many at most, and no more than have these values as outputs.
_MEASURED, _MEASURED_VALUES = 1024, 2**26
_LEAST = float(np.finfo(np.float32).tiny)  # logarithms of probabilities go no further down

Array = npt.NDArray[np.float32]


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
        self._outputs = tf.function(self._run, reduce_retracing=True)
        values = sum(math.prod(size or 1 for size in own.shape[1:]) for own, _ in pairs)
        self._most = max(1, min(_MEASURED, _MEASURED_VALUES // values))

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
            _loss(output, own, wanted, temperature, variance)
            for output, own, wanted, variance in pairs
        ]

    def measure(self, inputs: Sequence[Array], batch_size: int = 64) -> tuple[Distance, ...]:
        """How far the outputs are apart on the first images as they are, at temperature 1.

        Args:
            inputs: An array `[images, ...]` for each input, in the order of `model.inputs`.
            batch_size: Images that run at once.
        """
        batches: list[tuple[list[tf.Tensor], list[tf.Tensor]]] = []
        count = min(self._most, len(inputs[0]))
        for start in range(0, count, batch_size):
            stop = min(start + batch_size, count)
            batches.append(self._outputs([tf.constant(x[start:stop]) for x in inputs]))
        owns, wanteds = zip(*batches, strict=True)
        return tuple(
            _distance(output, *(tf.concat(parts, 0) for parts in (own, wanted)))
            for output, own, wanted in zip(
                self.outputs, zip(*owns, strict=True), zip(*wanteds, strict=True), strict=True
            )
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


def _distance(output: Output, own: tf.Tensor, wanted: tf.Tensor) -> Distance:
    deviations = wanted - tf.reduce_mean(wanted, list(range(len(wanted.shape) - 1)), keepdims=True)
    variance = float(tf.reduce_mean(tf.square(deviations))) or 1.0
    loss = _loss(output, own, wanted, 1.0, variance)
    expected, got = (
        # The loss is not finite then, which is found out first.
        np.nan_to_num(np.asarray(_scores(output, values)), posinf=0.0, neginf=0.0)
        for values in (wanted, own)
    )
    agreement = agreement_of(output.name, expected, got, output.is_classifier)
    return Distance(float(loss), variance, agreement)


def _loss(
    output: Output, own: tf.Tensor, wanted: tf.Tensor, temperature: float, variance: float
) -> tf.Tensor:
    if output.is_classifier:
        return tf.reduce_mean(_divergence(own, wanted, temperature))
    return tf.reduce_mean(tf.math.squared_difference(own, wanted)) / variance


def _scores(output: Output, values: tf.Tensor) -> tf.Tensor:
    """What agreement is measured by: of a sigmoid its logits, as far as float32 holds them."""
    if not output.is_sigmoid:
        return values
    inside = tf.clip_by_value(tf.cast(values, tf.float64), 2.0**-24, 1 - 2.0**-24)
    return tf.math.log(inside) - tf.math.log1p(-inside)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
