"""Images of a folder as one array, without labels: what calibration and reconstruction look at.

    x = unlabelled_images("/data/photographs", shape=(224, 224, 3), most=256)
    x.shape, x.dtype                        # (256, 224, 224, 3), float32: pixels 0..255

Every JPEG, PNG and BMP below the folder counts, whether the classes have folders of their own or
not. If there are more than are wanted, they are drawn from all of them, always the same ones, and
in no order: the first half of the array is as good a sample as the whole.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.data.decoding import decode
from faq_keras.data.image_folder import SUFFIXES, UNREADABLE
from faq_keras.data.transforms import resize

T = TypeVar("T")


def unlabelled_images(
    folder: str | os.PathLike[str], shape: Sequence[int | None], most: int | None = None
) -> npt.NDArray[np.float32]:
    """Reads, resizes and crops images.

    Args:
        folder: Where they are, at any depth; what begins with a dot is left out.
        shape: `(height, width, channels)` of one image, 3 channels (RGB) or 1 (grey). Images of
            another size are resized until they cover it, and the centre is cut out.
        most: How many images at most; None takes all.

    Returns:
        Whole numbers 0..255, `[images, height, width, channels]`.

    Raises:
        ValueError: If the folder does not exist or holds no images, or ones that cannot be read
            (the first one is named); if `shape` is not that of images.
    """
    if len(shape) != 3 or None in shape or shape[2] not in (1, 3):
        raise ValueError(
            f"Images of a folder have a known height and width and 3 channels (or 1); wanted are "
            f"inputs {tuple(shape)}. Give such inputs as an array instead."
        )
    height, width, channels = (int(size or 0) for size in shape)
    paths = shuffled(_paths(Path(folder)), most)
    images = np.empty((len(paths), height, width, channels), np.float32)
    for image, path in zip(images, paths, strict=True):
        image[:] = _read(path, height, width, channels)
    return images


def shuffled(items: Sequence[T], most: int | None) -> list[T]:
    """Some of the items, drawn from all of them in an order that is always the same."""
    order = np.random.RandomState(0).permutation(len(items))[:most]
    return [items[number] for number in order]


def _paths(folder: Path) -> list[Path]:
    """The images below a folder, sorted."""
    if not folder.is_dir():
        raise ValueError(f"The image folder {folder} does not exist. Name the folder of the data.")
    found, unreadable = [], []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES:
                found.append(Path(parent) / name)
            elif suffix in UNREADABLE:
                unreadable.append(Path(parent) / name)
    if unreadable:
        raise ValueError(
            f"{len(unreadable)} images in {folder}, for example "
            f"{unreadable[0].relative_to(folder)}, have a format that TensorFlow does not read. "
            "Convert them to PNG or JPEG."
        )
    if not found:
        raise ValueError(f"The folder {folder} holds no images ({', '.join(SUFFIXES)}).")
    return found


def _read(path: Path, height: int, width: int, channels: int) -> npt.NDArray[np.float32]:
    try:
        pixels = decode(tf.io.read_file(str(path)), channels)
    except tf.errors.OpError as error:
        raise ValueError(
            f"Image {path} is corrupt or cannot be read: it is no complete JPEG, PNG or BMP. "
            "Replace or remove it."
        ) from error
    return np.asarray(_covering(tf.cast(pixels, tf.float32), height, width))


def _covering(pixels: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The centre of an image that is resized until it covers the size; the ratio is kept."""
    own = pixels.shape[:2]
    scale = max(height / own[0], width / own[1])
    size = [
        max(wanted, round(edge * scale)) for wanted, edge in zip((height, width), own, strict=True)
    ]
    if size != list(own):
        pixels = resize(pixels, *size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return pixels[top : top + height, left : left + width]
