"""MNIST-like data sets: four IDX files, gzipped or not.

    arrays = read_folder("/usr/share/datasets/fashion-mnist", "Fashion-MNIST")
    arrays.x_train.shape                       # (60000, 28, 28, 1)

The format is that of http://yann.lecun.com/exdb/mnist: magic number `0, 0, type, rank`, big-endian
sizes, then the values.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from faq_keras.archives import read_gzip
from faq_keras.data.arrays import Arrays

FILES = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte.gz",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte.gz",
}


def has_files(folder: Path) -> bool:
    """Whether the four files are there."""
    return not _missing(folder)


def read_folder(folder: str | Path, title: str, classes: int | None = None) -> Arrays:
    """Reads the four files of a folder.

    Args:
        folder: Folder with `train-images-idx3-ubyte.gz`, `train-labels-idx1-ubyte.gz`,
            `t10k-images-idx3-ubyte.gz` and `t10k-labels-idx1-ubyte.gz`, or these without `.gz`.
        title: What the data are called in messages.
        classes: Number of classes; None takes the largest training label and one.

    Raises:
        ValueError: If a file is missing or is no IDX file of bytes, if images and labels do not
            belong together, or a label is outside the classes.
    """
    folder = Path(folder)
    missing = _missing(folder)
    if missing:
        raise ValueError(
            f"The folder {folder} lacks {', '.join(missing)} of {title}. Name the folder that "
            "holds the four files, or download them again."
        )
    arrays = {part: read_idx(_existing(folder, name)) for part, name in FILES.items()}
    shape = arrays["x_train"].shape[1:]
    for split, kind in (("train", "training"), ("test", "test")):
        images, labels = arrays[f"x_{split}"].shape, arrays[f"y_{split}"].shape
        if len(images) != 3 or images[1:] != shape or labels != images[:1] or not images[0]:
            raise ValueError(
                f"The {kind} files of {title} in {folder} do not belong together: images of "
                f"shape {images}, labels of shape {labels}. Copy or download the files again."
            )
    largest = max(int(arrays[part].max()) for part in ("y_train", "y_test"))
    expected = int(arrays["y_train"].max()) + 1 if classes is None else classes
    if largest >= expected:
        raise ValueError(
            f"{title} in {folder} has a label {largest}, but {expected} classes, counted from "
            "0. Give the right number of classes, or check the label files."
        )
    return Arrays(
        "idx",
        str(folder),
        expected,
        x_train=arrays["x_train"][..., None],
        y_train=arrays["y_train"].astype(np.int64),
        x_test=arrays["x_test"][..., None],
        y_test=arrays["y_test"].astype(np.int64),
    )


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of an IDX file.

    Raises:
        ValueError: If it cannot be read, is damaged or holds something else than bytes.
    """
    try:
        content = read_gzip(path) if path.suffix == ".gz" else path.read_bytes()
        rank = content[3]
        shape = np.frombuffer(content, ">i4", rank, offset=4)
        if content[:3] != b"\0\0\x08":
            raise ValueError("it is not an IDX file of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, IndexError, ValueError) as error:
        raise ValueError(f"Cannot read {path}: {error}. Copy or download it again.") from error


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES.values() if not _existing(folder, name).is_file()]


def _existing(folder: Path, name: str) -> Path:
    """The file, or its unpacked twin where only that is there."""
    plain = folder / name.removesuffix(".gz")
    return plain if plain.is_file() and not (folder / name).is_file() else folder / name
