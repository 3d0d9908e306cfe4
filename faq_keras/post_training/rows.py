"""Sampled rows of a convolution's input matrix (im2col), taken from codes.

A row is what one output position sums over: `[kernel height * kernel width, channels]`. Only the
sampled windows are gathered; a whole im2col of 224 x 224 images would be hundreds of times larger:

    positions = sample_positions("conv1", images=256, size=28 * 28, count=47)
    rows = gather_rows(codes, Window((3, 3), (1, 1), (1, 1), "same"), positions)
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Window:
    """The windows of a convolution: (height, width) each.

    Attributes:
        size: Of the kernel.
        strides: Between windows.
        dilation: Between the pixels of a window.
        padding: "same" or "valid".
    """

    size: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: str

    @classmethod
    def of(cls, layer: Any) -> Window:
        """The windows of a Keras convolution."""
        return cls(
            tuple(layer.kernel_size),
            tuple(layer.strides),
            tuple(layer.dilation_rate),
            layer.padding,
        )

    def axis(self, length: int, axis: int) -> tuple[int, int, int]:
        """Along one axis of so many pixels: the outputs, and the padding before and after."""
        extent = (self.size[axis] - 1) * self.dilation[axis] + 1
        stride = self.strides[axis]
        if self.padding == "valid":
            return (length - extent) // stride + 1, 0, 0
        outputs = -(-length // stride)
        padding = max((outputs - 1) * stride + extent - length, 0)
        return outputs, padding // 2, padding - padding // 2


def generator(name: str, purpose: str) -> np.random.Generator:
    """Random numbers of a layer: the same in every run, whatever the order of layers."""
    return np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(purpose.encode())])


def sample_positions(
    name: str, purpose: str, images: int, size: int, count: int
) -> npt.NDArray[np.int32]:
    """Places to look at in each image: all of them, or as many as wanted by chance.

    Args:
        name: The layer, which seeds the choice.
        purpose: What for, which does so as well.
        images: How many images.
        size: How many places an image has.
        count: How many to choose at most.

    Returns:
        `[images, min(count, size)]`, ascending within an image.
    """
    if count >= size:
        return np.tile(np.arange(size, dtype=np.int32), (images, 1))
    random = generator(name, purpose)
    chosen = [random.choice(size, count, replace=False, shuffle=False) for _ in range(images)]
    return np.sort(np.stack(chosen).astype(np.int32), axis=1)


def gather_rows(
    codes: npt.NDArray[np.integer], window: Window, positions: npt.NDArray[np.integer]
) -> npt.NDArray[np.integer]:
    """The windows at some output positions.

    Args:
        codes: `[images, height, width, channels]`; padding is code 0.
        window: Which windows.
        positions: `[images, n]`, of the flattened outputs.

    Returns:
        `[images * n, kernel height * kernel width, channels]`, of the type of the codes.
    """
    images, height, width, channels = codes.shape
    (_, top, bottom), (columns, left, right) = window.axis(height, 0), window.axis(width, 1)
    if top or bottom or left or right:
        codes = np.pad(codes, ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows = positions // columns * window.strides[0]
    cols = positions % columns * window.strides[1]
    rows = rows[..., None] + np.arange(window.size[0]) * window.dilation[0]
    cols = cols[..., None] + np.arange(window.size[1]) * window.dilation[1]
    image = np.arange(images)[:, None, None, None]
    gathered = codes[image, rows[..., :, None], cols[..., None, :]]
    return gathered.reshape(-1, window.size[0] * window.size[1], channels)
