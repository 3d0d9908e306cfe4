"""What the float network inside a quantized one computes: the teacher of a reconstruction.

The float layers are those that the quantized layers hold, so this has to run before any of them
changes. Of each batch only small statistics are kept: means per image and channel, and the outputs
at sampled positions, next to those of the quantized network as it is:

    measured = measure(network, store, images=256, batch_size=32)
    measured["conv1"].means            # float32 [images, channels], before the ReLU
    measured["conv1"].noise.sqnr       # dB, of the quantized network before any correction
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.compat import keras_of
from faq_keras.graph import LIST_KINDS
from faq_keras.post_training.network import Network, Step
from faq_keras.post_training.rows import sample_positions
from faq_keras.post_training.store import ActivationStore

POSITIONS = 256  # values per image by which noise is measured


class Noise:
    """Signal and noise of quantized values, summed up batch by batch."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def add(self, exact: npt.NDArray[np.floating], quantized: npt.NDArray[np.floating]) -> None:
        """Takes in float values and the quantized ones at the same places."""
        exact = np.asarray(exact, np.float64)
        self.signal += float(np.sum(exact**2))
        self.noise += float(np.sum((np.asarray(quantized, np.float64) - exact) ** 2))

    @property
    def sqnr(self) -> float | None:
        """Signal to noise in dB; None if there is no noise, or no signal."""
        if not (self.signal > 0 and self.noise > 0):
            return None
        return 10 * math.log10(self.signal / self.noise)


class Comparison(Noise):
    """A network's output compared with its teacher's, as `agreement.agreement_of` does.

    For scores of classes that is by the first of the ranking, and what is added to all scores of an
    image does not count as noise.
    """

    def __init__(self, is_classifier: bool) -> None:
        super().__init__()
        self.is_classifier = is_classifier
        self.scored = self.equal = 0

    def add(self, exact: npt.NDArray[np.floating], quantized: npt.NDArray[np.floating]) -> None:
        """Takes in a batch of both outputs."""
        if self.is_classifier:
            same = exact.argmax(axis=-1) == quantized.argmax(axis=-1)
            self.scored, self.equal = self.scored + same.size, self.equal + int(same.sum())
            exact, quantized = (v - v.mean(axis=-1, keepdims=True) for v in (exact, quantized))
        super().add(exact, quantized)

    @property
    def agreement(self) -> float | None:
        """Share of the images for which both rank the same class first, or None."""
        return self.equal / self.scored if self.is_classifier else None


@dataclasses.dataclass(eq=False)
class Statistics:
    """What is known of one quantized layer.

    Attributes:
        positions: Where its output is sampled, `[images, n]`.
        sample: The teacher's values there, float32 `[images, n]`.
        means: Means of the teacher's pre-activation per image, float32 `[images, channels]`; None
            for a layer without constants.
        relu_means: The same after the ReLU, `[channels]`; None without one.
        noise: Of the unchanged quantized network.
    """

    positions: npt.NDArray[np.int32]
    sample: npt.NDArray[np.float32]
    means: npt.NDArray[np.float32] | None
    relu_means: npt.NDArray[np.float64] | None
    noise: Noise


@dataclasses.dataclass(eq=False)
class Measured:
    """The statistics of all quantized layers by name, and how far the outputs are apart."""

    layers: dict[str, Statistics]
    outputs: list[Comparison]

    def __getitem__(self, name: str) -> Statistics:
        return self.layers[name]


def output_key(number: int) -> str:
    """Under which name the store has the teacher's output of a step."""
    return f"output of step {number}"


def batches(images: int, size: int) -> Iterator[tuple[int, int]]:
    """First image and end of each batch."""
    for start in range(0, images, size):
        yield start, min(start + size, images)


def image_batch(
    network: Network, store: ActivationStore, start: int, stop: int
) -> dict[str, tf.Tensor]:
    """Some of the images by input name."""
    names = [network.steps[number].name for number in network.inputs]
    return {name: tf.constant(store.read(name, start, stop)) for name in names}


def sampled(values: tf.Tensor, positions: Any) -> tf.Tensor:
    """The values of each image at its positions, `[images, n]`."""
    flat = tf.reshape(values, [tf.shape(values)[0], -1])
    return tf.gather(flat, positions, batch_dims=1)


def measure(
    network: Network,
    store: ActivationStore,
    images: int,
    batch_size: int,
    advance: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Runs the float and the quantized network, side by side.

    Args:
        network: The quantized network, unchanged.
        store: Holds the images; gets the teacher's outputs (`output_key`).
        images: How many images there are.
        batch_size: Images per batch.
        advance: Called after each batch.

    Raises:
        ValueError: The float network gives NaN or infinite values.
    """
    positions = _positions(network, images)
    comparisons = [Comparison(flag) for flag in network.classifiers]
    parts: dict[int, list[dict[str, Any]]] = {number: [] for number in positions}
    noises = {number: Noise() for number in positions}
    compute = [step.frozen() for step in network.steps]
    for start, stop in batches(images, batch_size):
        inputs = image_batch(network, store, start, stop)
        places = {number: found[start:stop] for number, found in positions.items()}
        kept, exact = _float_pass(network, inputs, places)
        samples, outputs = _quantized_pass(network, compute, inputs, places)
        for number, arrays in kept.items():
            noises[number].add(arrays["sample"], samples[number])
            parts[number].append(arrays)
        for comparison, wanted, found in zip(comparisons, exact, outputs, strict=True):
            comparison.add(np.asarray(wanted), np.asarray(found))
        for number, wanted in dict(zip(network.outputs, exact, strict=True)).items():
            store.append(output_key(number), np.asarray(wanted))
        advance("float network")
    layers = {
        network.steps[number].name: _statistics(positions[number], found, noises[number])
        for number, found in parts.items()
    }
    return Measured(layers, comparisons)


def _positions(network: Network, images: int) -> dict[int, npt.NDArray[np.int32]]:
    """Where each quantized layer's output is sampled, by step."""
    return {
        number: sample_positions(
            step.name, "noise", images, math.prod(size or 1 for size in step.shape[1:]), POSITIONS
        )
        for number, step in enumerate(network.steps)
        if step.is_quantized
    }


def _statistics(
    positions: npt.NDArray[np.int32], parts: list[dict[str, Any]], noise: Noise
) -> Statistics:
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    after = joined.get("relu_means")
    return Statistics(
        positions,
        joined["sample"],
        joined.get("means"),
        None if after is None else after.mean(axis=0, dtype=np.float64),
        noise,
    )


def _float_pass(
    network: Network, images: dict[str, Any], places: dict[int, npt.NDArray[np.int32]]
) -> tuple[dict[int, dict[str, Any]], list[Any]]:
    """What is kept of a batch of the float network, by step, and its outputs."""
    kept: dict[int, dict[str, Any]] = {}

    def exact(number: int, step: Step, inputs: list[Any]) -> Any:
        if number not in places:
            return step.layer(inputs[0])
        before, value = float_values(step.layer, inputs)
        kept[number] = {"sample": sampled(value, places[number]).numpy()}
        _check_finite(step, kept[number]["sample"])
        if step.is_folded:
            kept[number]["means"] = image_means(before).numpy()
        if step.has_relu:
            kept[number]["relu_means"] = image_means(value).numpy()
        return value

    outputs = network.evaluate(images, exact)
    return kept, outputs


def _quantized_pass(
    network: Network,
    compute: Sequence[Callable[[Sequence[Any]], Any]],
    images: dict[str, Any],
    places: dict[int, npt.NDArray[np.int32]],
) -> tuple[dict[int, npt.NDArray[np.float32]], list[Any]]:
    """The sampled values of a batch of the quantized network, by step, and its outputs."""
    samples: dict[int, npt.NDArray[np.float32]] = {}

    def call(number: int, step: Step, inputs: list[Any]) -> Any:
        value = compute[number](inputs)
        if number in places:
            samples[number] = sampled(value, places[number]).numpy()
        return value

    outputs = network.evaluate(images, call)
    return samples, outputs


def image_means(values: tf.Tensor) -> tf.Tensor:
    """The mean of each channel over the places of an image, `[images, channels]`."""
    return tf.reduce_mean(values, axis=list(range(1, len(values.shape) - 1)))


def float_values(layer: Any, inputs: Sequence[Any]) -> tuple[Any, Any]:
    """What a quantized layer's float layers compute: before the ReLU, and the output.

    Kernels and batch normalizations are computed here rather than by the float layers themselves,
    so that both Kerases give the same bits.
    """
    kind = layer.plan.kind
    if kind == "input":
        value = layer.preprocess(inputs[0])
        return value, value
    if not hasattr(layer, "fold"):
        value = list(inputs) if kind in LIST_KINDS else inputs[0]
        for part in layer.float_layers:
            value = part(value)
        return value, value
    (value,) = inputs
    rest = list(layer.float_layers)
    activation = None
    if hasattr(layer, "kernel_layer"):
        part = rest.pop(0)
        value = layer.accumulate(value, tf.convert_to_tensor(layer.kernel))
        value = value + part.bias if part.use_bias else value
        activation = part.activation
    if layer.batch_norm_layer is not None:
        value = _normalize(value, rest.pop(0))
    before = value
    value = before if activation is None else activation(before)
    for part in rest:
        value = part(value)
    return before, value


def _normalize(value: Any, layer: Any) -> Any:
    assert isinstance(layer, keras_of(layer).layers.BatchNormalization)
    scale = tf.math.rsqrt(tf.convert_to_tensor(layer.moving_variance) + layer.epsilon)
    scale = scale * layer.gamma if layer.scale else scale
    value = (value - layer.moving_mean) * scale
    return value + layer.beta if layer.center else value


def _check_finite(step: Step, sample: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(sample).all():
        raise ValueError(
            f"Layer '{step.name}' gives NaN or infinite values in the float network: check the "
            "model's weights and the range of the images."
        )
