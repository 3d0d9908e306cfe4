"""Figures of a quantized network next to its float one: on the same images, in pairs.

One standard error of an accuracy says little about a difference of two networks that err on the
same images. So an image counts +1, 0 or -1 (right instead of wrong, the same, wrong instead of
right), and the error is that of the mean of these numbers:

    with logits_of(model):
        floats = answers(model, images)
    score(floats, quantized, labels).difference     # points; .error is one standard error
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Answers = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Score:
    """A quantized network against its float one, in percent where nothing else is said.

    Attributes:
        images: Test images.
        float_top1: Of the float network; None without labels.
        top1: Of the quantized one.
        agreement: Images with the same largest logit (of embeddings: the same nearest neighbour).
        sqnr: Signal to noise ratio of the centred logits in dB; infinite if they are equal.
        change: +1, 0 or -1 for each image; empty without labels.
    """

    images: int
    float_top1: float | None
    top1: float | None
    agreement: float
    sqnr: float
    change: npt.NDArray[np.int64]

    @property
    def difference(self) -> float | None:
        """Top-1 minus the float network's, in points."""
        return None if self.top1 is None else 100 * float(self.change.mean())

    @property
    def error(self) -> float | None:
        """One standard error of `difference`."""
        return None if self.top1 is None else paired_error(self.change)

    def figures(self) -> dict[str, float | None]:
        """As plain numbers, for tables and files."""
        return {
            "test_images": self.images,
            "float_top1": self.float_top1,
            "top1": self.top1,
            "difference": self.difference,
            "error": self.error,
            "agreement": self.agreement,
            "sqnr_db": self.sqnr,
        }


def score(
    floats: Answers, quantized: Answers, labels: npt.NDArray[np.int64] | None, embeds: bool = False
) -> Score:
    """Compares the answers of two networks to the same images.

    Args:
        floats: `[images, classes]` of the float network.
        quantized: Of the quantized one.
        labels: `[images]`, or None.
        embeds: The answers are embeddings; what they say of an image is which other one is nearest.

    Raises:
        ValueError: If an answer is not finite.
    """
    for whose, values in (("float", floats), ("quantized", quantized)):
        if not np.isfinite(values).all():
            raise ValueError(f"The {whose} network gives NaN or infinite logits.")
    choose = nearest if embeds else _largest
    ours, theirs = choose(quantized), choose(floats)
    agreement, sqnr = 100 * float(np.mean(ours == theirs)), signal_to_noise(floats, quantized)
    if labels is None:
        return Score(len(floats), None, None, agreement, sqnr, np.zeros(0, np.int64))
    right, was_right = ours == labels, theirs == labels
    change = right.astype(np.int64) - was_right.astype(np.int64)
    means = (100 * float(np.mean(column)) for column in (was_right, right))
    return Score(len(floats), *means, agreement, sqnr, change)


def paired_error(change: npt.NDArray[Any]) -> float:
    """One standard error of the mean of these differences, in points."""
    return 100 * float(np.std(change)) / math.sqrt(len(change))


def signal_to_noise(floats: Answers, quantized: Answers) -> float:
    """Of logits without their mean over the classes, which no prediction depends on, in dB."""
    signal = floats.astype(np.float64) - floats.mean(-1, keepdims=True, dtype=np.float64)
    noise = quantized.astype(np.float64) - quantized.mean(-1, keepdims=True, dtype=np.float64)
    power = float(np.sum((noise - signal) ** 2))
    return math.inf if power == 0 else 10 * math.log10(float(np.sum(signal**2)) / power)


def nearest(embeddings: Answers) -> npt.NDArray[np.int64]:
    """For each vector `[images, size]`, the number of the nearest other one."""
    x = embeddings.astype(np.float64)
    squares = (x * x).sum(-1)
    distances = squares[:, None] + squares[None] - 2 * x @ x.T
    np.fill_diagonal(distances, np.inf)
    return distances.argmin(-1)


def _largest(logits: Answers) -> npt.NDArray[np.int64]:
    return logits.argmax(-1)


@contextlib.contextmanager
def logits_of(model: Any) -> Iterator[Any]:
    """Within this block the model returns its logits: without the softmax it ends in, if any."""
    last = model.layers[-1]
    softmax = getattr(getattr(last, "activation", None), "__name__", "") == "softmax"
    if type(last).__name__ == "Softmax":
        raise ValueError(f"{model.name} ends in a layer Softmax: read its logits before it.")
    if not softmax:
        yield model
        return
    kept, last.activation = last.activation, lambda x: x
    try:
        yield model
    finally:
        last.activation = kept


def batch_of(images: npt.NDArray[Any]) -> int:
    """Images per forward pass: about 15 MB of input, at most 250."""
    return max(1, min(250, 4_000_000 // int(images[0].size)))


def answers(model: Any, images: npt.NDArray[Any]) -> Answers:
    """Logits `[images, classes]` of a model of either Keras with one input and one output."""
    import tensorflow as tf

    batch = batch_of(images)
    signature = [tf.TensorSpec([None, *images.shape[1:]], tf.float32)]  # traced once
    with logits_of(model):
        run = tf.function(lambda x: model(x, training=False), input_signature=signature)
        parts = [
            run(tf.constant(images[start : start + batch])).numpy()
            for start in range(0, len(images), batch)
        ]
    return np.concatenate(parts).astype(np.float32)


def float_answers(model: Any, images: npt.NDArray[Any], name: str, cache: Path) -> Answers:
    """`answers` of a float network, computed once for the same weights and images.

    Args:
        model: The network.
        images: Its inputs.
        name: Begins the name of the file.
        cache: The folder of the file.
    """
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes())
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights).tobytes())
    path = cache / f"float-{name}-{digest.hexdigest()[:16]}.npy"
    if not path.exists():
        partial = path.with_name(f"partial-{path.name}")
        np.save(partial, answers(model, images))
        partial.rename(path)
    return np.load(path)
