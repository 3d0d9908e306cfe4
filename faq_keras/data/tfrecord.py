"""ImageNet-style TFRecord files: encoded images and labels, in files of a thousand records or so.

    DATA/train-00000-of-01024, ...    DATA/validation-00000-of-00128, ...

    source = read("/data/imagenet-tfrecord", shard=(0, 1), classes=1000)

Files of both conventions exist: labels 0..999, and 1..1000 with class 0 kept for "background".
`label_offset` is 0 or 1; by default it is found out from the labels, and refused if they fit both.

TFRecords are read one after the other, not at random: in training the files are read in random
order, 16 at a time, and go through a shuffle buffer, all of it a pure function of the seed.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from faq_keras.data.records import (
    SPLITS,
    Record,
    Shard,
    Source,
    existing_split,
    generator,
    permutation,
    shard_size,
)

_PREFIXES = {"train": ("train",), "validation": ("validation", "val")}
_HEADER, _FRAME = 12, 16  # bytes before a record's content; all that are not its content
_INTERLEAVED = 16
_LABELS_READ = 20_000  # records after which a split's label offset is taken from the other's


@dataclasses.dataclass(frozen=True)
class Shelf:
    """The record files of a split.

    Attributes:
        paths: Their paths.
        counts: Number of records of each.
    """

    paths: Sequence[Path]
    counts: Sequence[int]


def read(
    data_dir: str,
    shard: Shard,
    classes: int = 1000,
    label_offset: int | None = None,
    image_key: str = "image/encoded",
    label_key: str = "image/class/label",
    shuffle_buffer: int = 4096,
) -> Source:
    """Opens a folder of TFRecord files.

    Args:
        data_dir: Folder with files `train*` and `validation*` (or `val*`), or with folders of
            these names that hold the files.
        shard: `(index, count)`.
        classes: Number of classes, background not counted.
        label_offset: The label of the first class, 0 or 1; None finds it out.
        image_key: Feature with the encoded image.
        label_key: Feature with the label, an int64.
        shuffle_buffer: Records in memory from which the next one is drawn.

    Raises:
        ValueError: If there are no such files, one is truncated or has other features, or the
            labels fit no offset or both.
    """
    shelves = {split: shelf_of(paths) for split, paths in _files(Path(data_dir)).items()}
    for shelf in shelves.values():
        _check_features(shelf, image_key, label_key)
    if label_offset is None:
        label_offset = find_label_offset(shelves, label_key, classes)
    elif label_offset not in (0, 1):
        raise ValueError(f"The label offset is 0 or 1, not {label_offset}.")
    features = {
        image_key: tf.io.FixedLenFeature([], tf.string, ""),
        label_key: tf.io.FixedLenFeature([], tf.int64, -1),
    }

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(serialized, features)
        return example[image_key], example[label_key] - label_offset

    return source_of("tfrecord", data_dir, classes, shelves, parse, shard, shuffle_buffer)


def source_of(
    name: str,
    place: str,
    classes: int,
    shelves: Mapping[str, Shelf],
    parse: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    shard: Shard,
    shuffle_buffer: int,
    class_names: tuple[str, ...] = (),
) -> Source:
    """A source of record files.

    Args:
        name: Its name.
        place: Where the files lie.
        classes: Number of classes.
        shelves: The files of each split.
        parse: From a serialized record to the image and the label; it meets `b""` where a record
            is damaged, and has to give an empty image then.
        shard: `(index, count)`.
        shuffle_buffer: Records in memory from which the next one is drawn.
        class_names: Names of the classes by label.
    """
    shares = {split: _share(shelf, split, shard) for split, shelf in shelves.items()}

    def record(serialized: tf.Tensor, record_name: tf.Tensor) -> Record:
        image, label = parse(serialized)
        return {"image": image, "label": label, "name": record_name}

    def records(split: str, seed: int | None = None, skip: int = 0) -> tf.data.Dataset:
        by_file, size = shares[existing_split(split, shares)]
        dataset = _serialized(shelves[split], seed, shard, by_file, shuffle_buffer)
        dataset = dataset.take(size).skip(skip)
        return dataset.map(record, num_parallel_calls=tf.data.AUTOTUNE)

    images = {split: size for split, (_, size) in shares.items()}
    return Source(name, place, classes, images, records, class_names)


def shelf_of(paths: Sequence[Path]) -> Shelf:
    """Counts the records of each file, without reading their content.

    Raises:
        ValueError: If a file is empty, truncated or no TFRecord file.
    """
    return Shelf(paths, [_count(path) for path in paths])


def _count(path: Path) -> int:
    """Follows the lengths that stand before each record."""
    count, position, size = 0, 0, path.stat().st_size
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while position < size:
            header = os.pread(descriptor, _HEADER, position)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == _HEADER else size
            if position + _FRAME + length > size:
                raise ValueError(
                    f"{path} is truncated or no TFRecord file: record {count} at byte {position} "
                    f"does not end before the file's {size} bytes do. Copy or write it again."
                )
            position += _FRAME + length
            count += 1
    finally:
        os.close(descriptor)
    if not count:
        raise ValueError(f"The TFRecord file {path} is empty. Copy or write it again.")
    return count


def _share(shelf: Shelf, split: str, shard: Shard) -> tuple[bool, int]:
    """Whether a worker reads files of its own, and how many records it gets.

    Files of its own are read once, not by every worker. They are taken if each worker has as many
    of them, and not more than 1 % of the training records are lost by making the shards equal.
    """
    index, workers = shard
    total = sum(shelf.counts)
    sums = [sum(shelf.counts[worker::workers]) for worker in range(workers)]
    if len(shelf.paths) % workers or workers * min(sums) < 0.99 * total:
        return False, shard_size(split, total, shard)
    return True, min(sums) if split == "train" else sums[index]


def _serialized(
    shelf: Shelf, seed: int | None, shard: Shard, by_file: bool, shuffle_buffer: int
) -> tf.data.Dataset:
    """(serialized record, its name) in the order of the seed."""
    index, workers = shard
    mine = range(index, len(shelf.paths), workers) if by_file else range(len(shelf.paths))
    order = permutation(len(mine), seed)
    chosen = [list(mine)[number] for number in order]
    files = (
        tf.constant([str(shelf.paths[number]) for number in chosen]),
        tf.constant([shelf.paths[number].name for number in chosen]),
        tf.constant([shelf.counts[number] for number in chosen], tf.int64),
    )
    dataset = tf.data.Dataset.from_tensor_slices(files).interleave(
        _one_file,
        cycle_length=1 if seed is None else _INTERLEAVED,
        num_parallel_calls=None if seed is None else tf.data.AUTOTUNE,
        deterministic=None if seed is None else True,
    )
    if not by_file:
        dataset = dataset.shard(workers, index)
    return dataset if seed is None else shuffled(dataset, shuffle_buffer, seed)


def _one_file(path: tf.Tensor, name: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
    """As many records as the file should have; from a damaged one on, they are `b""`."""
    intact = tf.data.TFRecordDataset(path).ignore_errors()
    damaged = tf.data.Dataset.from_tensors(b"").repeat()
    numbered = intact.concatenate(damaged).take(count).enumerate()
    return numbered.map(
        lambda number, record: (record, tf.strings.join([name, ":", tf.strings.as_string(number)]))
    )


def shuffled(dataset: tf.data.Dataset, buffer: int, seed: int) -> tf.data.Dataset:
    """`dataset.shuffle`, but as a function of this seed alone.

    `Dataset.shuffle` mixes TensorFlow's global seed into its own.
    """
    seeds = generator(seed).randint(1, 2**31, 2)
    specs = tf.nest.flatten(dataset.element_spec)
    variant = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=tf.constant(buffer, tf.int64),
        seed=tf.constant(int(seeds[0]), tf.int64),
        seed2=tf.constant(int(seeds[1]), tf.int64),
        output_types=[spec.dtype for spec in specs],
        output_shapes=[spec.shape for spec in specs],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(variant, dataset.element_spec)


def find_label_offset(shelves: Mapping[str, Shelf], label_key: str, classes: int) -> int:
    """The label of the first class.

    A label 0 shows that the first class has 0, a label `classes` that it has 1.

    Raises:
        ValueError: If a label fits neither, the splits disagree, or neither label occurs.
    """
    found = {}
    for split, shelf in shelves.items():
        low, high = _label_range(shelf, label_key, classes)
        if low < 0 or high > classes or (low == 0 and high == classes):
            raise ValueError(
                f"The {split} labels run from {low} to {high}, which are neither 0..{classes - 1} "
                f"nor 1..{classes}. Set the right number of classes."
            )
        if low == 0 or high == classes:
            found[split] = int(high == classes)
    if not found:
        raise ValueError(
            f"The label offset is ambiguous: neither label 0 nor label {classes} occurs. Set "
            "label_offset=0 if the first class has the label 0, label_offset=1 if it has 1."
        )
    if len(set(found.values())) > 1:
        raise ValueError(
            f"The train labels begin at {found['train']}, the validation labels at "
            f"{found['validation']}: these files do not belong together. Write one of them again."
        )
    return next(iter(found.values()))


def _label_range(shelf: Shelf, label_key: str, classes: int) -> tuple[int, int]:
    """Smallest and largest label, of as many records as show the offset."""
    feature = {label_key: tf.io.FixedLenFeature([], tf.int64, -1)}
    serialized = _serialized(shelf, 0, (0, 1), True, 1).map(lambda record, name: record)
    labels = (
        serialized.filter(lambda record: tf.strings.length(record) > 0)
        .map(lambda record: tf.io.parse_single_example(record, feature)[label_key])
        .batch(256)
        .take(max(1, _LABELS_READ // 256))
    )
    low, high = classes, 0
    for batch in labels.as_numpy_iterator():
        low, high = min(low, int(np.min(batch))), max(high, int(np.max(batch)))
        if low <= 0 or high >= classes:
            break
    return low, high


def _check_features(shelf: Shelf, image_key: str, label_key: str) -> None:
    """Looks at the first record, so that a wrong key is a clear message and no missing image."""
    path = shelf.paths[0]
    try:
        serialized = next(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        features = tf.train.Example.FromString(serialized).features.feature
    except Exception as error:  # protobuf's DecodeError has no public base class but Exception
        raise ValueError(f"The first record of {path} is no tf.train.Example: {error}.") from error
    kinds = {image_key: "bytes_list", label_key: "int64_list"}
    for key, kind in kinds.items():
        if key not in features or len(getattr(features[key], kind).value) != 1:
            raise ValueError(
                f"The records of {path} have no feature {key!r} with one value "
                f"({kind.split('_')[0]}); they have {', '.join(sorted(features)) or 'none'}. Set "
                f"{'image_key' if key == image_key else 'label_key'}."
            )


def _files(root: Path) -> dict[str, list[Path]]:
    if not root.is_dir():
        raise ValueError(f"The folder {root} does not exist. Name that of the TFRecord files.")
    found = {}
    for split in SPLITS:
        for prefix in _PREFIXES[split]:
            paths = [path for path in root.glob(f"{prefix}*") if path.is_file()]
            paths = paths or [path for path in (root / prefix).glob("*") if path.is_file()]
            if paths and split not in found:
                found[split] = sorted(path for path in paths if not path.name.startswith("."))
    if not found:
        raise ValueError(
            f"The folder {root} has no files train* or validation*. Name the folder of the "
            "TFRecord files; the file names tell the splits."
        )
    return found
