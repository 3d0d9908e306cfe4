"""What flows along the edges of an ONNX graph while it becomes a Keras graph.

The one idea: an ONNX tensor is channels-first and a Keras tensor channels-last, so a `Value` is a
Keras tensor **plus the ONNX axis that each of its axes holds**. An ONNX Transpose then only
relabels axes, and a `Permute` layer appears only where a layer needs another order than it has:

    image = Value(tensor, shape=(3, 224, 224), order=IMAGE)   # the Keras tensor is [b, 224, 224, 3]
    image.order                                               # (2, 3, 1): height, width, channels

Constants are numpy arrays. A shape that contains the unknown batch size is an object array with the
marker `BATCH` in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import keras

IMAGE = (2, 3, 1)
"""Order of an image: Keras axes 1, 2, 3 hold the ONNX axes 2 (height), 3 (width), 1 (channels)."""


class Batch:
    """The unknown batch size, as an entry of a shape. It takes part in no arithmetic."""

    def __repr__(self) -> str:
        return "batch"


BATCH = Batch()


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the network's input.

    Attributes:
        tensor: The Keras tensor, batch first.
        shape: The shape in ONNX's order, without the batch.
        order: For each Keras axis after the batch, the ONNX axis (from 1) that it holds.
        nonnegative: No entry can be below zero (so that padding with zeros cannot win a maximum).
        rows: For a vector flattened from an image, that image's ONNX shape (channels, height,
            width). The entries of the tensor are in Keras' order (height, width, channels): a
            Dense layer permutes its rows, anything else has to ask for `Network.plain`.
    """

    tensor: keras.KerasTensor
    shape: tuple[int, ...]
    order: tuple[int, ...]
    nonnegative: bool = False
    rows: tuple[int, int, int] | None = None

    def like(self, tensor: keras.KerasTensor, nonnegative: bool = False) -> Value:
        """A value of the same shape and layout."""
        return replace(self, tensor=tensor, nonnegative=nonnegative)

    def axis(self, onnx_axis: int) -> int:
        """The Keras axis that holds an ONNX axis (both with the batch as axis 0)."""
        return 1 + self.order.index(onnx_axis)


@dataclass(frozen=True)
class Channel:
    """One channel of an image, times `scale` plus `offset`: a part of a transform_input.

    Attributes:
        source: The image.
        index: Which channel.
        scale: Factor of the affine map applied so far.
        offset: Summand of it.
    """

    source: Value
    index: int
    scale: float = 1.0
    offset: float = 0.0


def plain(rank: int) -> tuple[int, ...]:
    """The order of a Keras tensor that has the ONNX axes in ONNX's order."""
    return tuple(range(1, rank + 1))


def image(tensor: keras.KerasTensor, nonnegative: bool = False) -> Value:
    """The value of a channels-last Keras image tensor [batch, height, width, channels]."""
    height, width, channels = tensor.shape[1:]
    return Value(tensor, (channels, height, width), IMAGE, nonnegative)


def vector(tensor: keras.KerasTensor, nonnegative: bool = False) -> Value:
    """The value of a Keras tensor [batch, features]."""
    return Value(tensor, (tensor.shape[1],), (1,), nonnegative)
