"""The cross-entropy that fits a classifier: read from how the network ends and what the labels are.

    >>> classification_loss(model, labels=(None, 10))        # one-hot labels, model ends in softmax
    <CategoricalCrossentropy, from_logits=False>

Training on softmax outputs as if they were logits (or the reverse) runs without any error and
learns badly, so this is read from the model and never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from faq_keras.compat import keras_of
from faq_keras.graph import last_activation


def classification_loss(model: Any, labels: Sequence[int | None]) -> Any:
    """Cross-entropy for a classifier with one output.

    Args:
        model: A functional or sequential model of either Keras; output `[batch, classes]` (or
            `[..., classes]`).
        labels: Shape of a batch of labels: `[batch]` or `[batch, 1]` class numbers, or one-hot
            `[batch, classes]`.

    Returns:
        Sparse categorical cross-entropy for class numbers, categorical for one-hot labels, with
        `from_logits` set unless the model ends in a softmax.

    Raises:
        ValueError: The loss cannot be read from the model and the labels; says why.
    """
    losses, advice = keras_of(model).losses, "Pass loss= to say what to minimise."
    end = _last_activation(model)
    if end is None:
        raise ValueError(
            f"Model {model.name!r} has no loss that can be inferred: it is not a functional or "
            f"sequential model with one output. {advice}"
        )
    shape = tuple(keras.tree.flatten(model.outputs)[0].shape)
    classes = shape[-1]
    if classes is None or classes < 2 or end in ("sigmoid", "hard_sigmoid", "tanh"):
        raise ValueError(
            f"Model {model.name!r} has no loss that can be inferred: its output of shape {shape} "
            f"(last activation: {end}) is not one score per class. {advice}"
        )
    from_logits = end != "softmax"
    labels = tuple(labels)
    if len(labels) == len(shape) and labels[-1] == classes:
        return losses.CategoricalCrossentropy(from_logits=from_logits)
    if len(labels) == len(shape) - 1 or (len(labels) == len(shape) and labels[-1] == 1):
        return losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    raise ValueError(
        f"Labels of shape {labels} do not fit model {model.name!r}, whose output has the shape "
        f"{shape}. Expected: class numbers of shape {shape[:-1]} or one-hot rows of shape {shape}. "
        f"For anything else pass loss=."
    )


def _last_activation(model: Any) -> str | None:
    """Name of the activation that the only output comes from, None if unknown."""
    outputs: list[Any] = keras.tree.flatten(getattr(model, "outputs", None) or [])
    return last_activation(outputs[0]) if len(outputs) == 1 else None
