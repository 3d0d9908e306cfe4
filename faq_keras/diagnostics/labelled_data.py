"""Images with their classes, from what Keras users have at hand, checked against a classifier.

images, labels = labelled_arrays(graph, test_ds, most=1000)   # float32 [images, ...], int [images]
images, _ = labelled_arrays(graph, x_test, most=1000)         # no labels: None
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.data.batches import input_batches
from faq_keras.graph import Graph

Array = npt.NDArray[Any]


def labelled_arrays(graph: Graph, data: Any, most: int) -> tuple[Array, Array | None]:
    """The first images of the data, and their class numbers.

    Args:
        graph: A classifier.
        data: `(images, labels)` arrays, a `tf.data.Dataset` or iterable of such batches, or images
            without labels. Labels are class numbers or one-hot rows.
        most: How many images to take at most.

    Returns:
        Float32 images, and class numbers or None.

    Raises:
        ValueError: The network has several inputs or outputs, or no classes; there are no images,
            or images or labels do not fit.
    """
    shape = graph[graph.outputs[0]].shape
    if len(graph.inputs) != 1 or len(graph.outputs) != 1 or len(shape) != 2 or (shape[1] or 0) < 2:
        raise ValueError(
            f"Model '{graph.name}' is not a classifier with one input and one output of scores "
            f"[batch, classes] (its first output has the shape {shape}): there are no classes to "
            "compare."
        )
    x, y = _images_and_labels(data, most)
    shapes = {graph.inputs[0]: graph[graph.inputs[0]].layers[0].batch_shape}
    x = np.concatenate([next(iter(b.values())) for b in input_batches(x, None, shapes, "data")])
    return x, None if y is None else _classes(y, len(x), int(shape[1] or 0), graph.name)


def _classes(y: Array, images: int, classes: int, model: str) -> Array:
    if y.ndim == 2 and y.shape[1] == classes:
        y = y.argmax(-1)
    numbers = y.reshape(-1)
    if numbers.size != images or not ((numbers >= 0) & (numbers < classes)).all():
        raise ValueError(
            f"Labels of the shape {y.shape}, from {y.min()} to {y.max()}, do not fit {images} "
            f"images and the classes 0 to {classes - 1} of model '{model}'."
        )
    return numbers


def _images_and_labels(data: Any, most: int) -> tuple[Array, Array | None]:
    if isinstance(data, (tuple, list)) and len(data) == 2 and hasattr(data[0], "shape"):
        return np.asarray(data[0])[:most], np.asarray(data[1])[:most]
    if isinstance(data, (np.ndarray, tf.Tensor)):
        return np.asarray(data)[:most], None
    if not isinstance(data, Iterable):
        raise ValueError(
            f"Data of type {type(data).__name__} is not supported: pass (images, labels) arrays or "
            "batches of them."
        )
    batches: list[Any] = []
    count = 0
    for batch in data:
        batches.append(batch if isinstance(batch, (tuple, list)) else (batch,))
        count += len(batches[-1][0])
        if count >= most:
            break
    if not batches:
        raise ValueError("The data is empty: give at least one batch of images.")
    images, *labels = (
        np.concatenate([np.asarray(part) for part in column])[:most]
        for column in zip(*batches, strict=True)
    )
    return images, labels[0] if labels else None
