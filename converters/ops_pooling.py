"""Windows that slide over an image: their padding, and the pooling layers.

The one idea: ONNX pads any number of rows on each side, Keras knows only `valid` and `same`, and
`same` puts the odd row at the other end than PyTorch does with stride 2. So padding is `same` where
that means the same numbers, else a `ZeroPadding2D` layer of its own. Zeros would win the maximum of
negative numbers (and count in a mean): such a pooling runs with stride 1 and `same`, which ignores
what lies outside, and then every n-th of its windows is taken.

    MaxPool(3, stride 2, pads 1)  ->  ZeroPadding2D(1), MaxPooling2D(3, strides=2)  after a ReLU
                                      MaxPooling2D(3, strides=1, padding="same"),
                                      MaxPooling2D(1, strides=2)                    elsewhere
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import keras

from faq_keras.converters.network import Network, handles
from faq_keras.converters.onnx_file import Node
from faq_keras.converters.onnx_shapes import ceiled_padding
from faq_keras.converters.values import IMAGE, Value, image

Pair = tuple[int, int]

_MOST_STEPS = 1 << 16
"""Rows or columns of any window; TensorFlow ends the process beyond 2^31."""


@dataclass(frozen=True)
class Window:
    """A sliding window; every pair is (height, width).

    Attributes:
        size: Rows and columns of the kernel.
        strides: Steps between windows.
        dilations: Steps within a window.
        before: Padding at the top and at the left.
        after: Padding at the bottom and at the right.
    """

    size: Pair
    strides: Pair
    dilations: Pair
    before: Pair
    after: Pair

    @property
    def pads(self) -> bool:
        """Whether there is any padding."""
        return any(self.before + self.after)

    def is_same(self, sizes: Pair) -> bool:
        """Whether Keras' `same` pads an image of these sizes in exactly this way."""
        return all(
            (self.before[d], self.after[d]) == _halves(self._same_total(d, sizes[d]))
            for d in (0, 1)
        )

    def _same_total(self, axis: int, size: int) -> int:
        windows = -(-size // self.strides[axis])
        extent = (self.size[axis] - 1) * self.dilations[axis] + 1
        return max((windows - 1) * self.strides[axis] + extent - size, 0)

    def count(self, axis: int, size: int) -> int:
        """Windows along an axis of an image of this size."""
        extent = (self.size[axis] - 1) * self.dilations[axis] + 1
        return (size + self.before[axis] + self.after[axis] - extent) // self.strides[axis] + 1


def _halves(total: int) -> Pair:
    return total // 2, total - total // 2


def window(node: Node, value: Value, size: tuple[int, ...]) -> Window:
    """The window of a convolution or pooling node, with `auto_pad` resolved.

    Raises:
        ConversionError: Sizes that are not positive, negative padding, more than two dimensions.
    """
    strides, dilations = node.ints("strides", (1, 1)), node.ints("dilations", (1, 1))
    pads = node.ints("pads", (0, 0, 0, 0))
    auto = node.attributes.get("auto_pad", "NOTSET")
    if len(size) != 2 or len(strides) != 2 or len(dilations) != 2 or len(pads) != 4:
        raise node.error("only windows over height and width are supported.")
    if min(*size, *strides, *dilations) < 1 or min(pads) < 0:
        raise node.error(f"kernel {size}, strides {strides}, dilations {dilations}, pads {pads}.")
    if max(*size, *strides, *dilations, *pads) > _MOST_STEPS:
        raise node.error(
            f"kernel {size}, strides {strides}, dilations {dilations} and pads {pads} go beyond "
            f"{_MOST_STEPS:,} rows or columns."
        )
    result = Window(
        (size[0], size[1]),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        (pads[0], pads[1]),
        (pads[2], pads[3]),
    )
    if auto == "VALID":
        result = replace(result, before=(0, 0), after=(0, 0))
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [result._same_total(d, value.shape[1 + d]) for d in (0, 1)]
        less, more = zip(*map(_halves, totals), strict=True)
        swap = auto == "SAME_LOWER"
        result = replace(result, before=more if swap else less, after=less if swap else more)
    elif auto != "NOTSET":
        raise node.error(f"auto_pad {auto!r} is unknown.")
    if min(result.count(d, value.shape[1 + d]) for d in (0, 1)) < 1:
        raise node.error(f"its window {size} is larger than the image {value.shape[1:]}.")
    return result


def padded(network: Network, value: Value, win: Window, name: str) -> tuple[keras.KerasTensor, str]:
    """The tensor, padded with zeros if need be, and the `padding` argument for the layer."""
    if not win.pads:
        return value.tensor, "valid"
    if win.is_same((value.shape[1], value.shape[2])):
        return value.tensor, "same"
    return zero_pad(network, value, win, name), "valid"


def zero_pad(network: Network, value: Value, win: Window, name: str) -> keras.KerasTensor:
    """The tensor with the window's padding as a layer of its own."""
    amounts = tuple(zip(win.before, win.after, strict=True))
    layer = keras.layers.ZeroPadding2D(amounts, name=network.unique(f"{name}_pad"))
    return network.apply(layer, value.tensor)


@handles("MaxPool", "AveragePool")
def pool(network: Network, node: Node) -> Value:
    """Maximum and mean of sliding windows."""
    value = network.image(node)
    if len(node.outputs) > 1 or node.attributes.get("storage_order", 0):
        raise node.error("the indices of the maxima are not supported.")
    win = window(node, value, node.ints("kernel_shape", ()))
    if win.dilations != (1, 1):
        raise node.error(f"pooling with dilations {win.dilations} has no Keras layer.")
    maximum = node.op == "MaxPool"
    counts_zeros = not maximum and bool(node.attributes.get("count_include_pad", 0))
    if max(win.before[d] - win.size[d] for d in (0, 1)) >= 0:
        raise node.error(f"its padding {win.before} is not smaller than its kernel {win.size}.")
    whole = _ceiled(win, value) if node.attributes.get("ceil_mode", 0) else win
    if whole != win and counts_zeros:
        raise node.error("ceil_mode with count_include_pad has windows that Keras cannot average.")
    name = network.name(node)
    if whole.size == whole.strides == (1, 1) and not whole.pads:
        return value  # adaptive pooling to the size that the image has
    kind = keras.layers.MaxPooling2D if maximum else keras.layers.AveragePooling2D
    same = whole.is_same((value.shape[1], value.shape[2])) and not counts_zeros
    zeros_are_right = counts_zeros or (maximum and value.nonnegative)
    if whole.pads and not same and not zeros_are_right:
        tensor = _strided(network, node, value, whole, kind, name)
    else:
        padding = "same" if whole.pads and same else "valid"
        tensor = value.tensor
        if whole.pads and not same:
            tensor = zero_pad(network, value, whole, name)
        layer = kind(whole.size, strides=whole.strides, padding=padding, name=name)
        tensor = network.apply(layer, tensor)
    return image(tensor, value.nonnegative)


def _ceiled(win: Window, value: Value) -> Window:
    """The window with as much padding after the image as `ceil_mode` looks beyond it."""
    height, width = (
        ceiled_padding(value.shape[1 + d], win.before[d], win.after[d], win.size[d], win.strides[d])
        for d in (0, 1)
    )
    return replace(win, after=(height, width))


def _strided(
    network: Network, node: Node, value: Value, win: Window, kind: type, name: str
) -> keras.KerasTensor:
    """Pooling that ignores the padding: all windows with `same`, then every n-th of them.

    With stride 1 Keras' window number i begins at row i - (size - 1) // 2; the wanted ones begin at
    -before, -before + stride, ...
    """
    first = [(win.size[d] - 1) // 2 - win.before[d] for d in (0, 1)]
    sizes = value.shape[1:]
    count = [win.count(d, sizes[d]) for d in (0, 1)]
    last = [first[d] + (count[d] - 1) * win.strides[d] for d in (0, 1)]
    if min(first) < 0 or any(last[d] >= sizes[d] for d in (0, 1)):
        raise node.error(f"padding {win.before + win.after} of a window {win.size} is too large.")
    layer = kind(win.size, strides=1, padding="same", name=network.unique(f"{name}_windows"))
    tensor = network.apply(layer, value.tensor)
    crop = tuple((first[d], sizes[d] - 1 - last[d]) for d in (0, 1))
    if any(map(any, crop)):
        cropping = keras.layers.Cropping2D(crop, name=network.unique(f"{name}_crop"))
        tensor = network.apply(cropping, tensor)
    return network.apply(keras.layers.MaxPooling2D(1, strides=win.strides, name=name), tensor)


@handles("GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
def global_pool(network: Network, node: Node) -> Value:
    """Mean or maximum of a whole image per channel."""
    value = network.image(node)
    keep = True
    if node.op == "ReduceMean":
        axes = network.axes(node, rank=4, default=())
        keep = bool(node.attributes.get("keepdims", 1))
        if axes != [2, 3]:
            raise node.error(f"a mean over the axes {axes}; only height and width are supported.")
    maximum = node.op == "GlobalMaxPool"
    kind = keras.layers.GlobalMaxPooling2D if maximum else keras.layers.GlobalAveragePooling2D
    layer = kind(keepdims=keep, name=network.name(node))
    tensor = network.apply(layer, value.tensor)
    if keep:
        return image(tensor, value.nonnegative)
    return Value(tensor, value.shape[:1], (1,), value.nonnegative)


def without_kept_axes(network: Network, value: Value) -> Value | None:
    """A global pooling made again as a vector, so that no Flatten has to follow it.

    Returns:
        The vector; None if `value` is not the direct result of a global pooling, or if something
        else needs it as an image.
    """
    layer, inputs = network.producer(value.tensor)
    kinds = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
    if value.order != IMAGE or not isinstance(layer, kinds) or not network.is_only_use(value):
        return None
    tensor = network.apply(type(layer)(name=layer.name), inputs)
    return Value(tensor, value.shape[:1], (1,), value.nonnegative)
