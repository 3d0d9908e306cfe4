"""Ops that move numbers around without computing: reshape, transpose, slice, pad, concatenate.

The one idea: Keras' padding and cropping layers treat height and width only, but a channels-last
image [height, width, channels] is, without moving a number, also an image of `height * width` rows,
`channels` columns and one channel. Seen like that its channels can be padded and cropped, and the
shortcut of a CIFAR ResNet (option A) is standard layers, without a Lambda:

    Slice(x, ::2, ::2)         ->  MaxPooling2D(1, strides=2)
    Pad(x, 8 channels a side)  ->  Reshape, ZeroPadding2D(((0, 0), (8, 8))), Reshape
"""

from __future__ import annotations

import keras
import numpy as np

from faq_keras.converters import ops_constant as constants
from faq_keras.converters.network import Anything, Network, handles
from faq_keras.converters.onnx_file import Node
from faq_keras.converters.ops_pooling import without_kept_axes
from faq_keras.converters.values import BATCH, IMAGE, Channel, Value, plain

Sizes = tuple[int, ...]

_MOST_PARTS = 256
"""Parts of a split image; ShuffleNet has 2, grouped convolutions taken apart up to 64."""


@handles("Reshape")
@constants.constant_or(constants.reshape)
def reshape(network: Network, node: Node) -> Value:
    """Another shape of each image; the batch has to stay what it is."""
    value = network.value(node, 0)
    sizes = network.constant(node, 1, "the shape").tolist()
    if not node.attributes.get("allowzero", 0):
        known = [network.file.batch or BATCH, *value.shape]
        sizes = [known[i] if size == 0 else size for i, size in enumerate(sizes)]
    rest = [int(size) for size in sizes[1:]]
    total = int(np.prod(value.shape))
    if rest.count(-1) == 1 and sizes[0] != -1:
        known_part = -int(np.prod(rest))
        rest[rest.index(-1)] = total // known_part if known_part else 0
    batch = (BATCH, -1) if network.file.batch is None else (BATCH, -1, network.file.batch)
    # An exporter that saw one image writes its batch of 1 into the shape even of dynamic files.
    if not sizes or sizes[0] not in (*batch, 1) or int(np.prod(rest)) != total or min(rest) < 1:
        raise node.error(
            f"from [batch, {', '.join(map(str, value.shape))}] to {sizes}; it may only rearrange "
            "each image. Re-export with a dynamic batch dimension."
        )
    return _reshaped(network, node, value, tuple(rest))


@handles("Flatten")
def flatten(network: Network, node: Node) -> Value:
    """An image as a vector."""
    value = network.value(node, 0)
    if node.attributes.get("axis", 1) not in (1, -len(value.shape)):
        raise node.error(f"axis is {node.attributes['axis']}; only axis 1 keeps the batch.")
    return _reshaped(network, node, value, (int(np.prod(value.shape)),))


@handles("Squeeze")
@constants.constant_or(constants.squeeze)
def squeeze(network: Network, node: Node) -> Value | Channel:
    """A tensor without axes of size 1."""
    value = network.value(node, 0)
    ones = tuple(1 + i for i, size in enumerate(value.shape) if size == 1)
    axes = network.axes(node, 1 + len(value.shape), default=ones)
    if not set(axes) <= set(ones):
        raise node.error(f"axes {axes} of [batch, {value.shape}] are not all of size 1.")
    kept = tuple(size for i, size in enumerate(value.shape) if 1 + i not in axes)
    return _reshaped(network, node, value, kept)


@handles("Unsqueeze")
@constants.constant_or(constants.unsqueeze)
def unsqueeze(network: Network, node: Node) -> Value | Channel:
    """A tensor with further axes of size 1."""
    value = network.values[node.inputs[0]]
    if isinstance(value, Channel):
        if network.axes(node, rank=4) != [1]:
            raise node.error("a channel of the image can only get its channel axis back.")
        return value
    value = network.value(node, 0)
    sizes = list(value.shape)
    given = network.optional(node, 1, "the list of axes")
    added = len(node.attributes.get("axes", ())) if given is None else given.size
    for axis in network.axes(node, 1 + len(sizes) + added):
        if axis == 0:
            raise node.error("a new axis before the batch is not supported.")
        sizes.insert(axis - 1, 1)
    return _reshaped(network, node, value, tuple(sizes))


@handles("Transpose")
@constants.constant_or(constants.transpose)
def transpose(network: Network, node: Node) -> Value:
    """Permuted axes: nothing moves, the axes get other names."""
    value = network.value(node, 0)
    rank = 1 + len(value.shape)
    permutation = node.ints("perm", tuple(reversed(range(rank))))
    if permutation[0] != 0 or sorted(permutation) != list(range(rank)):
        raise node.error(f"permutation {permutation} moves the batch axis.")
    value = value if value.rows is None else network.plain(value)
    shape = tuple(value.shape[axis - 1] for axis in permutation[1:])
    order = tuple(permutation.index(axis) for axis in value.order)
    return Value(value.tensor, shape, order, value.nonnegative)


@handles("Concat")
@constants.constant_or(constants.concat)
def concat(network: Network, node: Node) -> Value:
    """Tensors behind one another."""
    operands = [network.values[name] for name in node.inputs]
    channels = [operand for operand in operands if isinstance(operand, Channel)]
    if channels and len(channels) == len(operands):
        return _transform_input(network, node, channels)
    values = [network.value(node, i) for i in range(len(operands))]
    rank = 1 + len(values[0].shape)
    axis = int(node.attributes["axis"])
    if not -rank < axis < rank or axis == 0 or any(len(v.shape) != rank - 1 for v in values):
        raise node.error(f"axis {axis} of tensors of shapes {[v.shape for v in values]}.")
    axis %= rank
    if len(values) == 1:
        return values[0]
    order = IMAGE if rank == 4 else plain(rank - 1)
    values = [network.in_order(network.plain(v) if v.rows else v, order) for v in values]
    layer = keras.layers.Concatenate(values[0].axis(axis), name=network.name(node))
    tensor = network.apply(layer, [value.tensor for value in values])
    sizes = list(values[0].shape)
    sizes[axis - 1] = sum(value.shape[axis - 1] for value in values)
    return Value(tensor, tuple(sizes), order, all(value.nonnegative for value in values))


def _transform_input(network: Network, node: Node, channels: list[Channel]) -> Value:
    """The change of normalisation of torchvision, channel by channel, as one layer."""
    source = channels[0].source
    complete = [channel.index for channel in channels] == list(range(source.shape[0]))
    if not complete or any(channel.source is not source for channel in channels):
        raise node.error("it does not put the channels of the image back in their order.")
    layer = keras.layers.Rescaling(
        [channel.scale for channel in channels],
        [channel.offset for channel in channels],
        name=network.unique("transform_input"),
    )
    return source.like(network.apply(layer, source.tensor))


@handles("Gather")
@constants.constant_or(constants.gather)
def gather(network: Network, node: Node) -> Channel:
    """One channel of an image."""
    value = network.image(node)
    index = network.constant(node, 1, "the index")
    if node.attributes.get("axis", 0) not in (1, -3) or index.ndim != 0:
        raise node.error("only single channels of an image can be taken.")
    number = int(index)
    if not -value.shape[0] <= number < value.shape[0]:
        raise node.error(f"channel {number} of {value.shape[0]} does not exist.")
    return Channel(value, number % value.shape[0])


@handles("Slice")
@constants.constant_or(constants.cut)
def cut(network: Network, node: Node) -> Value:
    """A part of an image: ranges of rows, columns or channels, every n-th row and column."""
    value = network.image(node)
    starts, ends = (network.constant(node, i, "a bound").tolist() for i in (1, 2))
    axes = network.optional(node, 3, "the list of axes")
    steps = network.optional(node, 4, "the list of steps")
    ranges = [range(size) for size in value.shape]
    for axis, start, end, step in zip(
        range(len(starts)) if axes is None else axes.tolist(),
        starts,
        ends,
        [1] * len(starts) if steps is None else steps.tolist(),
        strict=True,
    ):
        axis %= 4
        if axis == 0 or step < 1:
            raise node.error("the batch cannot be sliced, nor anything backwards.")
        ranges[axis - 1] = ranges[axis - 1][start:end:step]
    if not all(ranges) or ranges[0].step != 1:
        raise node.error(f"it takes {ranges} of {value.shape}; nothing, or every n-th channel.")
    return _cropped(network, value, ranges, network.name(node))


@handles("Split")
def split(network: Network, node: Node) -> list[Anything]:
    """An image in groups of channels."""
    value = network.image(node)
    if node.attributes.get("axis", 0) not in (1, -3):
        raise node.error("only channels can be split.")
    sizes = network.optional(node, 1, "the list of sizes")
    given = node.attributes.get("split") if sizes is None else sizes.tolist()
    if given is None:
        size = -(-value.shape[0] // len(node.outputs))
        given = [size] * (len(node.outputs) - 1)
        given.append(value.shape[0] - sum(given))
    return [*_parts(network, node, value, [int(size) for size in given])]


@handles("SplitToSequence")
def split_to_sequence(network: Network, node: Node) -> tuple[Value, ...]:
    """An image in groups of channels, as a list (how the newer exporter writes `chunk`)."""
    value = network.image(node)
    if node.attributes.get("axis", 0) not in (1, -3) or not node.attributes.get("keepdims", 1):
        raise node.error("only channels can be split.")
    sizes = network.optional(node, 1, "the list of sizes")
    if sizes is None:
        raise node.error("it splits into single channels.")
    if sizes.ndim == 0:
        size, total = max(int(sizes), 1), value.shape[0]
        _check_parts(node, -(-total // size))
        sizes = np.array([min(size, total - start) for start in range(0, total, size)])
    return tuple(_parts(network, node, value, [int(size) for size in sizes.tolist()]))


@handles("SequenceAt")
def sequence_at(network: Network, node: Node) -> Value:
    """An entry of a list of tensors."""
    parts = network.values[node.inputs[0]]
    if not isinstance(parts, tuple):
        raise node.error("its operand is not a list of tensors.")
    return parts[int(network.constant(node, 1, "the index"))]


@handles("Pad")
def pad(network: Network, node: Node) -> Value:
    """Zeros around an image, or before and after its channels."""
    value = network.image(node)
    constant = network.optional(node, 2, "the padding value")
    mode = node.attributes.get("mode", "constant")
    if mode != "constant" or (constant is not None and constant.any()):
        raise node.error(f"mode {mode!r} with value {constant}; only zeros have a Keras layer.")
    amounts = network.constant(node, 1, "the amounts").tolist()
    given = network.optional(node, 3, "the list of axes")
    axes = list(range(4)) if given is None else [axis % 4 for axis in given.tolist()]
    before, after = [0] * 4, [0] * 4
    for position, axis in enumerate(axes):
        before[axis], after[axis] = amounts[position], amounts[position + len(axes)]
    if before[0] or after[0] or min(before + after) < 0:
        raise node.error(f"amounts {amounts} pad the batch or cut something off.")
    channels, *sides = [(int(before[axis]), int(after[axis])) for axis in (1, 2, 3)]
    name = network.name(node)
    if any(channels):
        layer = keras.layers.ZeroPadding2D(
            ((0, 0), channels), name=network.unique(f"{name}_channels")
        )
        value = _on_channels(network, value, layer)
    if any(map(any, sides)):
        layer = keras.layers.ZeroPadding2D(tuple(sides), name=name)
        value = _image_like(value, network.apply(layer, value.tensor))
    return value


def _check_parts(node: Node, count: int) -> None:
    if count > _MOST_PARTS:
        raise node.error(f"it makes {count:,} parts; at most {_MOST_PARTS} can be converted.")


def _parts(network: Network, node: Node, value: Value, sizes: list[int]) -> list[Value]:
    _check_parts(node, len(sizes))
    if min(sizes, default=0) < 1 or sum(sizes) != value.shape[0]:
        raise node.error(f"{value.shape[0]} channels cannot be split into {sizes}.")
    ends = np.cumsum(sizes).tolist()
    rest = [range(size) for size in value.shape[1:]]
    return [
        _cropped(network, value, [range(end - size, end), *rest], network.name(node))
        for size, end in zip(sizes, ends, strict=True)
    ]


def _cropped(network: Network, value: Value, ranges: list[range], name: str) -> Value:
    """The given channels, rows and columns of an image, each a range with a positive step."""
    sizes = value.shape[1:]
    before = [r.start for r in ranges]
    after = [
        # What is left over behind the last step needs no cropping.
        0 if len(r) == len(range(r.start, size, r.step)) else size - 1 - r[-1]
        for r, size in zip(ranges, value.shape, strict=True)
    ]
    if before[0] or after[0]:
        columns = ((0, 0), (before[0], after[0]))
        layer = keras.layers.Cropping2D(columns, name=network.unique(f"{name}_channels"))
        value = _on_channels(network, value, layer)
    if any(before[1:] + after[1:]):
        sides = ((before[1], after[1]), (before[2], after[2]))
        layer = keras.layers.Cropping2D(sides, name=network.unique(f"{name}_crop"))
        value = _image_like(value, network.apply(layer, value.tensor))
    steps = tuple(min(r.step, s) for r, s in zip(ranges[1:], sizes, strict=True))
    if steps != (1, 1):
        layer = keras.layers.MaxPooling2D(1, strides=steps, name=name)
        value = _image_like(value, network.apply(layer, value.tensor))
    return value


def _on_channels(network: Network, value: Value, layer: keras.layers.Layer) -> Value:
    """Pads or crops the channels of an image by a layer that treats them as its columns."""
    channels, height, width = value.shape
    columns = keras.layers.Reshape(
        (height * width, channels, 1), name=network.unique(f"{layer.name}_columns")
    )
    tensor = network.apply(layer, network.apply(columns, value.tensor))
    back = keras.layers.Reshape(
        (height, width, tensor.shape[2]), name=network.unique(f"{layer.name}_image")
    )
    return _image_like(value, network.apply(back, tensor))


def _image_like(value: Value, tensor: keras.KerasTensor) -> Value:
    height, width, channels = tensor.shape[1:]
    return Value(tensor, (channels, height, width), IMAGE, value.nonnegative)


def _reshaped(network: Network, node: Node, value: Value, sizes: Sizes) -> Value:
    """The value in another shape, with as few layers as its layout allows."""
    if sizes == value.shape:
        return value
    value = value if value.rows is None else network.plain(value)
    if value.order == IMAGE and len(sizes) == 1:
        return _flattened(network, node, value)
    order: Sizes
    target: Sizes
    if sizes[1:] == (1, 1) and len(value.shape) == 1:
        source, order, target = value, IMAGE, (1, 1, *sizes[:1])
    elif min(len(sizes), len(value.shape)) >= 3 and sizes[-2:] == value.shape[-2:]:
        # Channels are split or joined: height and width stay in front, nothing moves.
        source = network.in_order(value, _spatial_first(len(value.shape)))
        order, target = _spatial_first(len(sizes)), (*sizes[-2:], *sizes[:-2])
    else:
        source, order, target = network.plain(value), plain(len(sizes)), sizes
    layer = keras.layers.Reshape(target, name=network.name(node))
    return Value(network.apply(layer, source.tensor), sizes, order, value.nonnegative)


def _flattened(network: Network, node: Node, value: Value) -> Value:
    if value.shape[1:] == (1, 1):
        pooled = without_kept_axes(network, value)
        if pooled is not None:
            return pooled
    tensor = network.apply(keras.layers.Flatten(name=network.name(node)), value.tensor)
    channels, height, width = value.shape
    rows = None if (height, width) == (1, 1) else (channels, height, width)
    return Value(tensor, (channels * height * width,), (1,), value.nonnegative, rows)


def _spatial_first(rank: int) -> Sizes:
    return (rank - 1, rank, *range(1, rank - 1))
