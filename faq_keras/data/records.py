"""What a source of images is, and in which order its records come.

A source knows how many images and classes there are, and gives its records in the stored order or
in an order that is a pure function of a seed. Decoding and augmentation come after it
(`faq_keras.data.preparation`):

    source = load_source("image_folder", "/data/imagenet")
    source.classes, source.images          # 1000, {"train": 1281167, "validation": 50000}
    for record in source.records("train", seed=3).take(2):
        print(record["name"].numpy(), record["label"].numpy())     # b"train/n01440764/x.JPEG", 0

Random orders come from `numpy.random.RandomState`, whose stream NumPy keeps unchanged from release
to release (NEP 19), so that an order can still be had in years.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

SPLITS = ("train", "validation")

Record = dict[str, tf.Tensor]
Shard = tuple[int, int]


class Records(Protocol):
    """Gives the records of a split."""

    def __call__(self, split: str, seed: int | None = None, skip: int = 0) -> tf.data.Dataset:
        """Unbatched records.

        Args:
            split: "train" or "validation".
            seed: Order of the records, a non-negative number; None is the stored order.
            skip: How many records to leave out at the beginning of that order (to resume in the
                middle of an epoch); where possible they are not even read.

        Returns:
            A dataset of `{"image", "label", "name"}`: uint8 `[height, width, channels]` or a
            scalar string (an encoded JPEG, PNG or BMP); int64 scalar in `[0, classes)`; string
            scalar, unique in its split and the same wherever the data lie.
        """


@dataclasses.dataclass(frozen=True)
class Source:
    """Where images come from, before any augmentation.

    Attributes:
        name: Name of the data set or format.
        place: Folder or package that holds it, for messages.
        classes: Number of classes.
        images: Number of images of each split that there is, of this shard alone.
        records: Gives the records of a split: see `Records`.
        class_names: Names of the classes by label; empty where the data have none.
    """

    name: str
    place: str
    classes: int
    images: Mapping[str, int]
    records: Records
    class_names: tuple[str, ...] = ()


def permutation(count: int, seed: int | None) -> npt.NDArray[np.int64]:
    """The numbers `0 .. count - 1` in the order of a seed; None leaves them ascending."""
    if seed is None:
        return np.arange(count, dtype=np.int64)
    return generator(seed).permutation(count).astype(np.int64)


def generator(seed: int) -> np.random.RandomState:
    """A random generator with a stream that never changes.

    Raises:
        ValueError: If the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"The seed {seed} of the data's order is negative: use 0 or more.")
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))


def checked_shard(shard: Shard) -> Shard:
    """The shard `(index, count)`.

    Raises:
        ValueError: If there is no such shard.
    """
    index, count = (int(number) for number in shard)
    if not 0 <= index < count:
        raise ValueError(
            f"There is no shard {index} of {count}: give (index, count) with 0 <= index < count."
        )
    return index, count


def shard_size(split: str, total: int, shard: Shard) -> int:
    """How many of a split's records a shard gets.

    Training shards are equally long, because workers that train in step have to take the same
    number of steps (the remainder, another one in each epoch, is left out); validation shards
    together hold every record.
    """
    index, count = shard
    return total // count if split == "train" else len(range(index, total, count))


def indexed(
    totals: Mapping[str, int], lookup: Callable[[str], Callable[[tf.Tensor], Record]], shard: Shard
) -> Records:
    """Records of a source that can look up any record by its number.

    Args:
        totals: Number of records of each split, before sharding.
        lookup: Gives, for a split, the function from a record's number (int64 scalar) to the
            record. It runs in a tf.data graph.
        shard: `(index, count)`: this worker and the number of workers.
    """
    index, count = shard

    def records(split: str, seed: int | None = None, skip: int = 0) -> tf.data.Dataset:
        total = totals[existing_split(split, totals)]
        order = permutation(total, seed)[index::count][: shard_size(split, total, shard)]
        numbers = tf.data.Dataset.from_tensor_slices(order[skip:])
        return numbers.map(lookup(split), num_parallel_calls=tf.data.AUTOTUNE)

    return records


def existing_split(split: str, splits: Mapping[str, object]) -> str:
    """The split, if there is one of this name.

    Raises:
        ValueError: If there is none.
    """
    if split not in splits:
        raise ValueError(f"These data have no split {split!r}; they have {', '.join(splits)}.")
    return split
