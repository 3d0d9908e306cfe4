"""Image data sets that fit into memory, as bytes.

The readers of small data sets (`idx`, `cifar10`, `datasets`) all return `Arrays`; `source_of` makes
a source of them:

    arrays = cifar10.read("/data/cifar-10-batches-py")
    arrays.x_train.shape, arrays.x_train.dtype             # (50000, 32, 32, 3), uint8
    source = source_of(arrays)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.data.records import Record, Shard, Source, indexed, shard_size


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Images and labels of a classification task.

    Attributes:
        name: Name of the data set.
        place: Where it was found.
        classes: Number of classes.
        x_train: Training images, uint8 `[images, height, width, channels]`.
        y_train: Training labels, int64 `[images]`.
        x_test: Test images, as above.
        y_test: Test labels, as above.
        class_names: Names of the classes by label, where known.
    """

    name: str
    place: str
    classes: int
    x_train: npt.NDArray[np.uint8]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.uint8]
    y_test: npt.NDArray[np.int64]
    class_names: tuple[str, ...] = ()


def source_of(arrays: Arrays, shard: Shard = (0, 1)) -> Source:
    """A source of the arrays' images; record names are "train/17", "validation/0" and so on."""
    parts = {
        "train": (arrays.x_train, arrays.y_train),
        "validation": (arrays.x_test, arrays.y_test),
    }
    totals = {split: len(y) for split, (_, y) in parts.items()}
    tensors = {split: (tf.constant(x), tf.constant(y)) for split, (x, y) in parts.items()}

    def lookup(split: str) -> Callable[[tf.Tensor], Record]:
        images, labels = tensors[split]

        def record(number: tf.Tensor) -> Record:
            name = tf.strings.join([split, "/", tf.strings.as_string(number)])
            return {"image": images[number], "label": labels[number], "name": name}

        return record

    return Source(
        arrays.name,
        arrays.place,
        arrays.classes,
        {split: shard_size(split, total, shard) for split, total in totals.items()},
        indexed(totals, lookup, shard),
        arrays.class_names,
    )
