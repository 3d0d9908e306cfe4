"""torchvision's preprocessing as tf.data functions.

A transform turns a record into a float32 image of fixed size with pixels 0..255. Training
transforms draw from a seed of the record, so that an epoch can be repeated exactly:

    augment = transform("imagenet", training=True, size=224)    # RandomResizedCrop(224), flip
    prepare = transform("imagenet", training=False, size=224)   # Resize(256), CenterCrop(224)
    image = augment(record, tf.constant([epoch, 17]))           # float32 [224, 224, 3]

Means and standard deviations are not applied here. Pixels are whole numbers, as they come out of
PIL; `docs/data.md` tells how closely they equal PIL's.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from faq_keras.data.decoding import crop, decode, decode_window
from faq_keras.data.records import Record

_TRIES = 10  # of RandomResizedCrop, before it falls back to a central crop


@dataclasses.dataclass(frozen=True)
class Transform:
    """A preprocessing in two steps, of which only the first can meet a broken image.

    Attributes:
        name: Its name.
        training: Whether it augments.
        size: Height and width of its result.
        channels: Channels of its result.
        resizes: Whether it takes images of any size; else they have to have its own.
        read: From a record and a seed (int32 `[2]`) to uint8 `[height, width, channels]`.
        finish: From those pixels and the seed to float32 `[size, size, channels]`.
    """

    name: str
    training: bool
    size: int
    channels: int
    resizes: bool
    read: Callable[[Record, tf.Tensor], tf.Tensor]
    finish: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

    def __call__(self, record: Record, seed: tf.Tensor) -> tf.Tensor:
        """The record's image, float32 `[size, size, channels]`, 0..255."""
        return self.finish(self.read(record, seed), seed)


def transform(name: str, training: bool, size: int, channels: int = 3, **options: Any) -> Transform:
    """A preprocessing by its name.

    Args:
        name: "none": images as they are stored; "cifar": in training a zero border of `padding=4`
            pixels, a random crop and flip (`flip=True`), else as stored; "imagenet": in training
            RandomResizedCrop (`scale=(0.08, 1)`, `ratio=(3/4, 4/3)`) and flip, else the short side
            to `resize` (256 for 224, 342 for 299: 8/7 of the size) and the central crop.
        training: Whether to augment.
        size: Height and width of the images that come out.
        channels: 3 or 1.
        **options: Those above; "imagenet" has `interpolation="bilinear"` ("bicubic") too.

    Raises:
        ValueError: If the name or an option is unknown.
    """
    if name not in _TRANSFORMS:
        raise ValueError(f"Unknown transform {name!r}; there are {', '.join(_TRANSFORMS)}.")
    build = _TRANSFORMS[name]
    known = list(inspect.signature(build).parameters)[3:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"The transform {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"{'it has ' + ', '.join(known) if known else 'it has none'}."
        )
    read, finish = build(training, size, channels, **options)
    return Transform(name, training, size, channels, name == "imagenet", read, finish)


def resize(
    pixels: tf.Tensor, height: tf.Tensor, width: tf.Tensor, method: str = "bilinear"
) -> tf.Tensor:
    """Resizes as `PIL.Image.resize` does: antialiased, rounding after each direction.

    Args:
        pixels: `[height, width, channels]`, 0..255.
        height: New height.
        width: New width.
        method: "bilinear" or "bicubic".

    Returns:
        float32 `[height, width, channels]`, whole numbers 0..255.
    """
    wide = _resize_once(pixels, tf.shape(pixels)[0], width, method)
    return _resize_once(wide, height, width, method)


def _resize_once(pixels: tf.Tensor, height: tf.Tensor, width: tf.Tensor, method: str) -> tf.Tensor:
    resized = tf.image.resize(pixels, tf.stack([height, width]), method, antialias=True)
    return tf.clip_by_value(tf.floor(resized + 0.5), 0, 255)


def random_window(
    shape: tf.Tensor,
    seed: tf.Tensor,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tf.Tensor:
    """The window that torchvision's `RandomResizedCrop` takes.

    Ten windows of random area and aspect ratio are drawn, of which the first that fits is placed
    at random; if none fits, it is the largest central one within the ratios.

    Args:
        shape: `[height, width, ...]` of the image.
        seed: int32 `[2]`.
        scale: Range of the window's share of the image's area.
        ratio: Range of its width by its height, drawn uniformly in the logarithm.

    Returns:
        int32 `[top, left, height, width]`.
    """
    height, width = shape[0], shape[1]
    draws = tf.random.stateless_uniform([4, _TRIES], seed)
    area = tf.cast(height * width, tf.float32) * (scale[0] + (scale[1] - scale[0]) * draws[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = tf.exp(low + (high - low) * draws[1])
    widths = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = tf.argmax(fits)
    central_height, central_width = _central(height, width, ratio)
    found = tf.reduce_any(fits)
    crop_height = tf.where(found, heights[first], central_height)
    crop_width = tf.where(found, widths[first], central_width)
    room = tf.stack([height - crop_height, width - crop_width])
    placed = tf.cast(draws[2:, 0] * tf.cast(room + 1, tf.float32), tf.int32)
    corner = tf.where(found, placed, room // 2)
    return tf.concat([corner, [crop_height, crop_width]], 0)


def _central(
    height: tf.Tensor, width: tf.Tensor, ratio: tuple[float, float]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width of the largest window whose ratio is in the range."""

    def scaled(edge: tf.Tensor, factor: float) -> tf.Tensor:
        return tf.cast(tf.round(tf.cast(edge, tf.float32) * factor), tf.int32)

    return (
        tf.minimum(height, scaled(width, 1 / ratio[0])),
        tf.minimum(width, scaled(height, ratio[1])),
    )


Steps = tuple[Callable[[Record, tf.Tensor], tf.Tensor], Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]


def _none(training: bool, size: int, channels: int) -> Steps:
    """Images as they are stored."""
    return _stored(channels), _finish(size, channels, lambda pixels, seed: pixels)


def _cifar(training: bool, size: int, channels: int, padding: int = 4, flip: bool = True) -> Steps:
    """He et al. 2016, section 4.2: zero border, random crop, flip."""

    def augment(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        padded = tf.pad(pixels, [[padding, padding], [padding, padding], [0, 0]])
        window = tf.stack([size, size, channels])
        pixels = tf.image.stateless_random_crop(padded, window, _sub_seed(seed, 0))
        return _flipped(pixels, seed) if flip else pixels

    if not training:
        return _none(training, size, channels)
    return _stored(channels), _finish(size, channels, augment)


def _imagenet(
    training: bool,
    size: int,
    channels: int,
    resize: int | None = None,
    interpolation: str = "bilinear",
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> Steps:
    """The recipe of torchvision's references: random area crops; resize and central crop."""
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"Unknown interpolation {interpolation!r}: use bilinear or bicubic.")
    short = round(size * 256 / 224) if resize is None else resize
    if short < size:
        raise ValueError(f"Images cannot be resized to {short} and then cropped to {size}.")

    def read_window(record: Record, seed: tf.Tensor) -> tf.Tensor:
        def choose(shape: tf.Tensor) -> tf.Tensor:
            return random_window(shape, _sub_seed(seed, 0), scale, ratio)

        image = record["image"]
        if image.dtype == tf.string:
            return decode_window(image, choose, channels)
        return crop(image, choose(tf.shape(image)))

    def augment(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        # One pass: PIL's rounding between two would cost a third of the time for nothing.
        pixels = _resize_once(pixels, size, size, interpolation)
        return _flipped(pixels, seed) if flip else pixels

    def central(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return central_crop(resize_short_side(pixels, short, interpolation), size)

    if training:
        return read_window, _finish(size, channels, augment)
    return _stored(channels), _finish(size, channels, central)


def resize_short_side(pixels: tf.Tensor, edge: int, method: str = "bilinear") -> tf.Tensor:
    """Resizes as torchvision's `Resize(edge)`: the other side is rounded down."""
    shape = tf.shape(pixels)
    longer = edge * shape[:2] // tf.minimum(shape[0], shape[1])
    return resize(pixels, longer[0], longer[1], method)


def central_crop(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Crops as torchvision's `CenterCrop(size)`: an odd margin is halved to the even number."""
    room = tf.cast(tf.shape(pixels)[:2] - size, tf.float32)
    corner = tf.cast(tf.round(room / 2), tf.int32)
    return pixels[corner[0] : corner[0] + size, corner[1] : corner[1] + size]


def _stored(channels: int) -> Callable[[Record, tf.Tensor], tf.Tensor]:
    def read(record: Record, seed: tf.Tensor) -> tf.Tensor:
        image = record["image"]
        return decode(image, channels) if image.dtype == tf.string else image

    return read


def _finish(
    size: int, channels: int, function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The function on float32, with the shape of its result known to the graph."""

    def finish(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        image = function(tf.cast(pixels, tf.float32), seed)
        return tf.ensure_shape(image, [size, size, channels])

    return finish


def _flipped(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return tf.image.stateless_random_flip_left_right(pixels, _sub_seed(seed, 1))


def _sub_seed(seed: tf.Tensor, number: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, number)


_TRANSFORMS: Mapping[str, Callable[..., Steps]] = {
    "none": _none,
    "cifar": _cifar,
    "imagenet": _imagenet,
}
NAMES = tuple(_TRANSFORMS)
