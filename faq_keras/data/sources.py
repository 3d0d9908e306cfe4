"""Images for training by the name of their format.

    source = load_source("image_folder", "/data/imagenet", classes=1000)
    source = load_source("tfrecord", "/data/imagenet-tfrecord", classes=1000)
    source = load_source("cifar10", "/data/cifar-10-batches-py")
    source.images                                    # {"train": 50000, "validation": 10000}
    source.records("train", seed=0)                  # a tf.data.Dataset of {image, label, name}

Each format has a file of its own in this room. `faq_keras.data.preparation` decodes and augments
the records. With `shard=(index, count)` a source holds one worker's part of the data.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from faq_keras.data import cifar10, datasets, idx, image_folder, tfds, tfrecord
from faq_keras.data.arrays import source_of
from faq_keras.data.records import Shard, Source, checked_shard

__all__ = ["NAMES", "Source", "load_source"]

_TFDS = "tfds:"


def _mnist5k(shard: Shard) -> Source:
    return source_of(datasets.load_arrays("mnist5k"), shard)


def _fashion_mnist(shard: Shard, data_dir: str | None = None) -> Source:
    return source_of(datasets.load_arrays("fashion_mnist", data_dir), shard)


def _idx(data_dir: str, shard: Shard, classes: int | None = None) -> Source:
    return source_of(idx.read_folder(data_dir, "The IDX data set", classes), shard)


def _cifar10(data_dir: str, shard: Shard) -> Source:
    return source_of(cifar10.read(data_dir), shard)


_READERS: Mapping[str, Callable[..., Source]] = {
    "mnist5k": _mnist5k,
    "fashion_mnist": _fashion_mnist,
    "idx": _idx,
    "cifar10": _cifar10,
    "image_folder": image_folder.read,
    "tfrecord": tfrecord.read,
}
#: The names that `load_source` knows.
NAMES = (*_READERS, _TFDS + "NAME")


def load_source(
    name: str, data_dir: str | None = None, *, shard: Shard = (0, 1), **options: Any
) -> Source:
    """Opens a source of images.

    Args:
        name: "mnist5k" (embedded), "fashion_mnist", "idx" (four MNIST-like files), "cifar10"
            (python or binary version), "image_folder", "tfrecord", or "tfds:NAME" for a data set
            of TensorFlow Datasets.
        data_dir: Folder that holds the data. Fashion-MNIST is searched for and TensorFlow Datasets
            has a default; mnist5k takes none.
        shard: `(index, count)`: the part of one of several workers. Training shards are equally
            long (a remainder is left out, other images in each epoch); validation shards together
            hold every image.
        **options: Those of the format's `read`; for example `classes=1000`, to be told when a
            folder of another number of classes was named.

    Raises:
        ValueError: If the name or an option is unknown, the folder is missing, or the data are
            not what the format says.
    """
    reader = _READERS.get(name)
    if name.startswith(_TFDS):
        reader, options = tfds.read, {"dataset": name.removeprefix(_TFDS), **options}
    if reader is None:
        raise ValueError(f"Unknown data source {name!r}; there are {', '.join(NAMES)}.")
    parameters = inspect.signature(reader).parameters
    unknown = sorted(set(options) - set(parameters))
    if unknown:
        known = sorted(set(parameters) - {"data_dir", "shard", "dataset"})
        raise ValueError(
            f"The data source {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"{'it has ' + ', '.join(known) if known else 'it has none'}."
        )
    if "data_dir" in parameters:
        if data_dir is None and parameters["data_dir"].default is inspect.Parameter.empty:
            raise ValueError(f"The data source {name!r} needs a folder: set data_dir.")
        options["data_dir"] = data_dir
    elif data_dir is not None:
        raise ValueError(f"The data source {name!r} is embedded: leave data_dir out.")
    return reader(shard=checked_shard(shard), **options)
