"""Data sets of TensorFlow Datasets that have been prepared on this machine.

    source = load_source("tfds:imagenet2012", "/data/tensorflow_datasets")

The data are read by the same reader as other TFRecord files (`faq_keras.data.tfrecord`), so that
order, shards and corrupt records follow the same rules; TensorFlow Datasets tells where they are
and what their records mean. Nothing is downloaded: `tfds build NAME` does that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from faq_keras.data.records import Shard, Source
from faq_keras.data.tfrecord import Shelf, source_of
from faq_keras.texts import one_line

# A name, perhaps with a configuration and a version: no "huggingface:" and no other place.
_LOCAL = re.compile(r"\w+(/[\w.+-]+)*(:\d+\.\d+\.\d+)?")


def read(
    dataset: str,
    shard: Shard,
    data_dir: str | None = None,
    train_split: str = "train",
    validation_split: str | None = None,
    shuffle_buffer: int = 4096,
) -> Source:
    """Opens a prepared data set.

    Args:
        dataset: Its name, as `tfds.builder` takes it: "imagenet2012", "cifar10:3.0.2", ...
        shard: `(index, count)`.
        data_dir: Folder of the prepared data sets; None is the library's default.
        train_split: Its split for training.
        validation_split: Its split for validation; None takes "validation", else "test".
        shuffle_buffer: Records in memory from which the next one is drawn.

    Raises:
        ValueError: If the library is not installed, the data set is unknown or not prepared, or
            it is not one of images with labels in TFRecord files.
    """
    tfds = _library()
    builder = _builder(tfds, dataset, data_dir)
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "num_classes"):
        raise ValueError(
            f"The data set {dataset!r} has the features {', '.join(features)}; training needs an "
            "'image' and a class 'label'."
        )
    if validation_split is None:
        validation_split = "validation" if "validation" in builder.info.splits else "test"
    wanted = {"train": train_split, "validation": validation_split}
    shelves = {split: _shelf(builder, dataset, name) for split, name in wanted.items()}
    return source_of(
        f"tfds:{dataset}",
        str(builder.data_dir),
        features["label"].num_classes,
        shelves,
        _parser(features, {"image": tfds.decode.SkipDecoding()}),
        shard,
        shuffle_buffer,
        tuple(features["label"].names),
    )


def _parser(
    features: Any, decoders: dict[str, Any]
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """From a serialized record to the encoded image and the label, as `source_of` takes it."""

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def example() -> tuple[tf.Tensor, tf.Tensor]:
            values = features.deserialize_example(serialized, decoders=decoders)
            return values["image"], tf.cast(values["label"], tf.int64)

        missing = tf.constant(b""), tf.constant(-1, tf.int64)
        return tf.cond(tf.strings.length(serialized) > 0, example, lambda: missing)

    return parse


def _library() -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ValueError(
            f"Data sets by the names of TensorFlow Datasets need that library ({error}): pip "
            "install tensorflow-datasets, or use image_folder or tfrecord."
        ) from error
    return tensorflow_datasets


def _builder(tfds: Any, dataset: str, data_dir: str | None) -> Any:
    if not _LOCAL.fullmatch(dataset) or "://" in str(data_dir or ""):
        raise ValueError(
            f"The data set {one_line(dataset, 100)!r} in {one_line(str(data_dir), 100)} lies in a "
            "hub or a cloud, and nothing is downloaded here. Prepare it with `tfds build` and give "
            "its name and the folder."
        )
    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
    except Exception as error:  # the library's errors have no common base class
        first = str(error).strip().split("\n")[0]
        raise ValueError(f"TensorFlow Datasets has no {dataset!r}: {first}") from error
    if not Path(builder.data_dir).is_dir():
        raise ValueError(
            f"The data set {dataset!r} is not prepared: {builder.data_dir} does not exist. Run "
            f"`tfds build {dataset}`, or name the folder of the prepared data sets with data_dir."
        )
    return builder


def _shelf(builder: Any, dataset: str, split: str) -> Shelf:
    if split not in builder.info.splits:
        raise ValueError(
            f"The data set {dataset!r} has no split {split!r}; it has "
            f"{', '.join(builder.info.splits)}. Set train_split and validation_split."
        )
    info = builder.info.splits[split]
    paths = [Path(path) for path in info.filepaths]
    if any(".tfrecord" not in path.name for path in paths):
        raise ValueError(
            f"The data set {dataset!r} is prepared as {paths[0].suffix or 'other'} files, not as "
            "TFRecord files. Run `tfds build --file_format=tfrecord`."
        )
    return Shelf(paths, list(info.shard_lengths))
