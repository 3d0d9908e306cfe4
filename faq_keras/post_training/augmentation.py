"""Batches of unlabelled images in a random order, flipped and cropped.

Labels are not needed, so an augmented image only has to look like an image: its teacher sees the
same one. The border that a crop needs is a reflection, which is in the range of the pixels whatever
that range is.

    for batch in augmented_batches([x], batch_size=64, steps=200, seed=0):
        batch[0]                            # float32 [64, height, width, channels]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_BORDER = 8  # an image of this size gets a border of one pixel
_COLOURS = (1, 3, 4)


def augmented_batches(
    inputs: Sequence[Array], batch_size: int, steps: int, seed: int, augment: bool = True
) -> Iterator[list[Array]]:
    """Batches of equal size, epoch after epoch in another random order.

    Args:
        inputs: One array `[images, ...]` for each input of the network.
        batch_size: Images per batch, at most as many as there are.
        steps: How many batches.
        seed: What the order and the augmentation are a function of.
        augment: Whether to flip half of the images horizontally, and to shift them by up to an
            eighth of their size; several inputs of one image alike. Inputs that are no images
            (`is_image`) stay as they are.
    """
    random = np.random.RandomState(seed)
    count = len(inputs[0])
    order = np.empty(0, np.int64)
    for _ in range(steps):
        while len(order) < batch_size:
            order = np.concatenate([order, random.permutation(count)])
        chosen, order = order[:batch_size], order[batch_size:]
        batch = [part[chosen] for part in inputs]
        if augment:
            flips = random.rand(batch_size) < 0.5
            shifts = random.rand(batch_size, 2)
            batch = [flipped_and_shifted(part, flips, shifts) for part in batch]
        yield batch


def is_image(shape: Sequence[int | None]) -> bool:
    """Whether inputs of a shape `[batch, ...]` are images: height and width of 8 or more."""
    return (
        len(shape) == 4
        and shape[3] in _COLOURS
        and all(edge is not None and edge >= _BORDER for edge in shape[1:3])
    )


def flipped_and_shifted(
    images: Array, flips: npt.NDArray[np.bool_], shifts: npt.NDArray[np.float64]
) -> Array:
    """Images with a border of an eighth of their size, flipped and cropped to that size again.

    Args:
        images: `[images, height, width, channels]`; arrays that are no images are returned.
        flips: `[images]`: which ones to flip horizontally.
        shifts: `[images, 2]` in [0, 1): where the crop begins, vertically and horizontally, within
            the border of both sides.
    """
    if not is_image(images.shape):
        return images
    height, width = images.shape[1:3]
    borders = (height // _BORDER, width // _BORDER)
    around = [(0, 0), *((border, border) for border in borders), (0, 0)]
    padded = np.pad(images, around, mode="reflect")
    corners = (shifts * [2 * border + 1 for border in borders]).astype(np.int64)
    result = np.empty_like(images)
    for number, ((top, left), flip) in enumerate(zip(corners, flips, strict=True)):
        crop = padded[number, top : top + height, left : left + width]
        result[number] = crop[:, ::-1] if flip else crop
    return result
