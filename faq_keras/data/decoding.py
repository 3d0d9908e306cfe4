"""Encoded images to pixels, exactly as PIL decodes them, and what happens to those that are broken.

JPEGs are decoded with libjpeg's accurate transform, which is PIL's; TensorFlow's default differs
from it by up to 8 of 255. `guarded` turns a failure into a value, because an exception in a tf.data
graph neither says which record it was nor lets the rest go on:

    pixels = decode(tf.io.read_file("tench.JPEG"))                 # uint8 [height, width, 3]
    pixels, ok = guarded(decode, (content,), tf.zeros([1, 1, 3], tf.uint8))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

_DCT = "INTEGER_ACCURATE"

T = TypeVar("T")


def decode(content: tf.Tensor, channels: int = 3) -> tf.Tensor:
    """Decodes a JPEG, PNG or BMP.

    Args:
        content: The file, a scalar string.
        channels: 3 (RGB) or 1 (grey); other images are converted, transparency is dropped.

    Returns:
        uint8 `[height, width, channels]`.
    """
    pixels = tf.cond(
        tf.io.is_jpeg(content),
        lambda: tf.io.decode_jpeg(content, channels, dct_method=_DCT),
        lambda: _decode_other(content, channels),
    )
    pixels.set_shape([None, None, channels])
    return pixels


def decode_window(
    content: tf.Tensor, choose: Callable[[tf.Tensor], tf.Tensor], channels: int = 3
) -> tf.Tensor:
    """Decodes a window of an image; of a JPEG, only that part is transformed.

    Args:
        content: The file, a scalar string.
        choose: Gives the window `[top, left, height, width]` (int32) for an image's shape
            `[height, width, channels]`.
        channels: As for `decode`.

    Returns:
        uint8 `[height, width, channels]`.
    """

    def of_jpeg() -> tf.Tensor:
        window = choose(tf.io.extract_jpeg_shape(content))
        return tf.io.decode_and_crop_jpeg(content, window, channels, dct_method=_DCT)

    def of_other() -> tf.Tensor:
        pixels = _decode_other(content, channels)
        return crop(pixels, choose(tf.shape(pixels)))

    pixels = tf.cond(tf.io.is_jpeg(content), of_jpeg, of_other)
    pixels.set_shape([None, None, channels])
    return pixels


def crop(pixels: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """The window `[top, left, height, width]` of an image."""
    top, left, height, width = tf.unstack(window)
    return pixels[top : top + height, left : left + width]


def guarded(
    function: Callable[..., T], arguments: tuple[Any, ...], fallback: T
) -> tuple[T, tf.Tensor]:
    """Calls a function in a tf.data graph; a failure gives the fallback.

    Args:
        function: What may fail.
        arguments: Its arguments (any structures of tensors).
        fallback: What to return instead; of the same structure and dtypes.

    Returns:
        The result or the fallback, and whether it is the result (bool scalar).
    """
    good = tf.data.Dataset.from_tensors(arguments).map(lambda *parts: (function(*parts), True))
    instead = tf.data.Dataset.from_tensors((fallback, False))
    # A failed element vanishes, so that the first of what is left is the result or the fallback.
    return good.ignore_errors().concatenate(instead).take(1).get_single_element()


def _decode_other(content: tf.Tensor, channels: int) -> tf.Tensor:
    pixels = tf.io.decode_image(content, channels, expand_animations=False)
    pixels.set_shape([None, None, channels])
    return pixels
