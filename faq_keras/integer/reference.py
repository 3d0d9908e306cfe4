"""Executes an IntegerProgram in numpy: the yardstick for the Keras model and for every runtime.

Accumulators are exact whatever the sizes: products run through floating-point matrix multiplication
only where a bound from the integer weights proves that every partial sum is a whole number that the
type holds. Rounding comes from a `NumericsProfile`, so one executor answers for every runtime:

    codes = run(program, x_codes)                        # {tensor name: int8/int16 codes}
    codes = run(program, x_codes, PROFILES["xnnpack"])   # the same: the program names its profile
    for part in run_chunks(program, x_codes, images=32): # bounded memory for many images
        ...
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from faq_keras.integer.program import IntegerProgram, Op, Tensor
from faq_keras.integer.rounding import NumericsProfile, Requantize
from faq_keras.integer.rounding import profile as profile_of

Codes = npt.NDArray[np.generic]
Inputs = Mapping[str, Codes] | Codes
Ints = npt.NDArray[np.int64]

# Working memory of one chunk: the widest op's unrolled windows in float64.
_CHUNK_BYTES = 256 * 2**20


def run(
    program: IntegerProgram, inputs: Inputs, profile: NumericsProfile | None = None
) -> dict[str, Codes]:
    """Every tensor that the program computes.

    Args:
        program: The lowered network.
        inputs: Codes `[batch, ...]` of the input tensor in its own dtype (values, if the program
            converts float inputs itself), or one such array per input name.
        profile: Rounding of the runtime; the program's own (`program.numerics`) when None.

    Returns:
        Codes by tensor name, in execution order and the tensors' dtypes, zero points included.

    Raises:
        ValueError: If inputs are missing, superfluous or of another shape or dtype.
    """
    parts = list(run_chunks(program, inputs, profile=profile))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def run_chunks(
    program: IntegerProgram,
    inputs: Inputs,
    images: int | None = None,
    profile: NumericsProfile | None = None,
) -> Iterator[dict[str, Codes]]:
    """Like `run`, a few images at a time.

    Args:
        program: The lowered network.
        inputs: See `run`.
        images: Images per chunk; chosen for about 256 MB of working memory when None.
        profile: See `run`.
    """
    profile = profile or profile_of(program.numerics)
    feed = check_inputs(program, inputs)
    count = len(next(iter(feed.values())))
    step = images or images_per_chunk(program)
    for start in range(0, max(count, 1), step):
        values: dict[str, Codes] = {n: x[start : start + step] for n, x in feed.items()}
        for op in program.ops:
            values[op.outputs[0]] = _execute(_Context(op, program, profile), values)
        yield {name: values[name] for name in program.activations()}


def check_inputs(program: IntegerProgram, inputs: Inputs) -> dict[str, Codes]:
    """The inputs by tensor name, checked against the program.

    Raises:
        ValueError: If inputs are missing, superfluous or of another shape or dtype.
    """
    feed = dict(inputs) if isinstance(inputs, Mapping) else {program.inputs[0]: np.asarray(inputs)}
    if set(feed) != set(program.inputs):
        raise ValueError(
            f"Program '{program.name}' has the inputs {', '.join(program.inputs)}; "
            f"received {', '.join(feed)}."
        )
    for name, x in feed.items():
        tensor = program.tensors[name]
        if x.dtype.name != tensor.dtype or x.ndim < 1 or x.shape[1:] != tuple(tensor.shape[1:]):
            shape = ", ".join("batch" if size is None else str(size) for size in tensor.shape)
            raise ValueError(
                f"Input '{name}' must be {tensor.dtype} [{shape}]; "
                f"received {x.dtype.name} {list(x.shape)}."
            )
    if len({len(x) for x in feed.values()}) > 1:
        raise ValueError(f"The inputs of '{program.name}' differ in their number of images.")
    return feed


def images_per_chunk(program: IntegerProgram) -> int:
    """How many images fit the working memory of one chunk."""
    largest = 1
    for op in program.ops:
        elements = math.prod(size or 1 for size in program.tensors[op.outputs[0]].shape[1:])
        if op.kind == "conv_2d":
            _, height, width, channels = program.tensors[op.inputs[1]].shape
            pixels = elements // (program.tensors[op.outputs[0]].shape[3] or 1)
            elements += pixels * int(height or 1) * int(width or 1) * int(channels or 1)
        largest = max(largest, elements)
    return max(1, _CHUNK_BYTES // (8 * 3 * largest))


# ------------------------------------------------------------------------------------------- ops


@dataclasses.dataclass(frozen=True)
class _Context:
    """What an op's handler may look at."""

    op: Op
    program: IntegerProgram
    profile: NumericsProfile

    def input(self, index: int) -> Tensor:
        return self.program.tensors[self.op.inputs[index]]

    @property
    def output(self) -> Tensor:
        return self.program.tensors[self.op.outputs[0]]

    def constant(self, index: int) -> Ints:
        data = self.input(index).data
        if data is None:
            raise ValueError(
                f"Op '{self.op.name}' ({self.op.kind}): '{self.op.inputs[index]}' has no data."
            )
        return data.astype(np.int64)

    def centered(self, values: Mapping[str, Codes], index: int) -> Ints:
        """Codes of an input without the zero point."""
        return values[self.op.inputs[index]].astype(np.int64) - self.input(index).zero_point


def _execute(context: _Context, values: Mapping[str, Codes]) -> Codes:
    output = context.output
    raw = _HANDLERS[context.op.kind](context, values)
    lowest, highest = activation_range(output, context.op.attributes.get("activation"))
    return np.clip(raw, lowest, highest).astype(output.dtype)


def activation_range(tensor: Tensor, activation: str | None) -> tuple[int, int]:
    """The integers that a kernel clamps to: the container and the fused activation.

    Mirrors TFLite's `CalculateActivationRangeQuantized`.
    """
    container = np.iinfo(tensor.dtype)
    lowest, highest = int(container.min), int(container.max)
    if activation in ("relu", "relu6"):
        lowest = max(lowest, tensor.zero_point)
    if activation == "relu6":
        # Half away from zero, as TfLiteRound; the quotient is positive.
        six = int(np.floor(np.float32(6.0) / np.float32(tensor.scale[0]) + 0.5))
        highest = min(highest, tensor.zero_point + six)
    return lowest, highest


def _conv_2d(context: _Context, values: Mapping[str, Codes]) -> Ints:
    kernel = context.constant(1)
    dtype = _exact_type(np.abs(kernel).sum(axis=(1, 2, 3)).max(initial=0), context.input(0))
    windows = _windows(context, context.centered(values, 0).astype(dtype), kernel.shape[1:3])
    groups = windows.shape[3] // kernel.shape[3]
    acc = np.concatenate(
        [
            np.tensordot(part, weights, axes=([4, 5, 3], [1, 2, 3]))
            for part, weights in zip(
                np.split(windows, groups, axis=3),
                np.split(kernel.astype(dtype), groups),
                strict=True,
            )
        ],
        axis=3,
    )
    profile = context.profile
    return _requantize(
        context, acc.astype(np.int64), profile.conv_2d if groups == 1 else profile.grouped_conv_2d
    )


def _depthwise_conv_2d(context: _Context, values: Mapping[str, Codes]) -> Ints:
    kernel = context.constant(1)[0]
    x = np.repeat(context.centered(values, 0), context.op.attributes["depth_multiplier"], axis=3)
    windows = _windows(context, x, kernel.shape[:2])
    acc = np.zeros(windows.shape[:4], np.int64)
    for row, column in np.ndindex(*kernel.shape[:2]):
        acc += windows[..., row, column] * kernel[row, column]
    return _requantize(context, acc, context.profile.depthwise_conv_2d)


def _fully_connected(context: _Context, values: Mapping[str, Codes]) -> Ints:
    x, kernel = context.centered(values, 0), context.constant(1)
    dtype = _exact_type(np.abs(kernel).sum(axis=1).max(initial=0), context.input(0))
    acc = (x.astype(dtype) @ kernel.T.astype(dtype)).astype(np.int64)
    is_int16 = context.input(0).dtype == "int16"
    profile = context.profile
    return _requantize(
        context, acc, profile.fully_connected_int16 if is_int16 else profile.fully_connected
    )


def _requantize(context: _Context, acc: Ints, requantize: Requantize) -> Ints:
    if len(context.op.inputs) > 2:
        acc = acc + context.constant(2)
    kernel_scale = np.array(context.input(1).scale, np.float32)
    codes = requantize(acc, context.input(0).scale[0], kernel_scale, context.output.scale[0])
    return codes + context.output.zero_point


def _add(context: _Context, values: Mapping[str, Codes]) -> Ints:
    scales = context.input(0).scale[0], context.input(1).scale[0], context.output.scale[0]
    a, b = context.centered(values, 0), context.centered(values, 1)
    return context.profile.add(a, b, *scales) + context.output.zero_point


def _concatenation(context: _Context, values: Mapping[str, Codes]) -> Ints:
    parts = [values[name].astype(np.int64) for name in context.op.inputs]
    return np.concatenate(parts, axis=context.op.attributes["axis"])


def _average_pool_2d(context: _Context, values: Mapping[str, Codes]) -> Ints:
    raw, size = values[context.op.inputs[0]].astype(np.int64), context.op.attributes["pool_size"]
    total = _windows(context, raw, size).sum(axis=(4, 5))
    count = _windows(context, np.ones_like(raw[:1, :, :, :1]), size).sum(axis=(4, 5))
    return context.profile.average_pool_2d(total, count)


def _mean(context: _Context, values: Mapping[str, Codes]) -> Ints:
    """Over height and width."""
    x, output = context.centered(values, 0), context.output
    count = x.shape[1] * x.shape[2]
    scales = context.input(0).scale[0], output.scale[0]
    return context.profile.mean(x.sum(axis=(1, 2)), scales[0], count, scales[1]) + output.zero_point


def _max_pool_2d(context: _Context, values: Mapping[str, Codes]) -> Ints:
    raw = values[context.op.inputs[0]].astype(np.int64)
    lowest = int(np.iinfo(context.output.dtype).min)
    return _windows(context, raw, context.op.attributes["pool_size"], lowest).max(axis=(4, 5))


def _pad(context: _Context, values: Mapping[str, Codes]) -> Ints:
    raw = values[context.op.inputs[0]].astype(np.int64)
    return np.pad(raw, context.constant(1), constant_values=context.output.zero_point)


def _reshape(context: _Context, values: Mapping[str, Codes]) -> Ints:
    raw = values[context.op.inputs[0]].astype(np.int64)
    return raw.reshape(len(raw), *context.op.attributes["shape"][1:])


def _quantize(context: _Context, values: Mapping[str, Codes]) -> Ints:
    source, output = context.input(0), context.output
    if source.dtype == "float32":
        x = values[source.name].astype(np.float32)
        return context.profile.quantize_float(x, output.scale[0]) + output.zero_point
    codes = context.centered(values, 0)
    if source.scale[0] == output.scale[0]:
        return codes + output.zero_point
    return context.profile.quantize(codes, source.scale[0], output.scale[0]) + output.zero_point


def _softmax(context: _Context, values: Mapping[str, Codes]) -> Ints:
    """The softmax in float64, rounded: what the table-driven kernels approximate."""
    source, output = context.input(0), context.output
    logits = context.centered(values, 0) * source.scale[0]
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares = powers / powers.sum(axis=-1, keepdims=True)
    return np.rint(shares / output.scale[0]).astype(np.int64) + output.zero_point


_HANDLERS: Mapping[str, Callable[[_Context, Mapping[str, Codes]], Ints]] = {
    "conv_2d": _conv_2d,
    "depthwise_conv_2d": _depthwise_conv_2d,
    "fully_connected": _fully_connected,
    "add": _add,
    "concatenation": _concatenation,
    "average_pool_2d": _average_pool_2d,
    "mean": _mean,
    "max_pool_2d": _max_pool_2d,
    "pad": _pad,
    "reshape": _reshape,
    "quantize": _quantize,
    "softmax": _softmax,
}


# ----------------------------------------------------------------------------------------- windows


def _windows(
    context: _Context, x: npt.NDArray[Any], size: Sequence[int], fill: int = 0
) -> npt.NDArray[Any]:
    """The windows that a convolution or pool looks at, as a view.

    Args:
        context: Gives strides, dilations and padding.
        x: `[batch, height, width, channels]`.
        size: Height and width of the window, dilation not counted.
        fill: What stands outside of `x` with "same" padding.

    Returns:
        `[batch, out height, out width, channels, *size]`.
    """
    attributes = context.op.attributes
    strides, dilations = attributes["strides"], attributes.get("dilations", (1, 1))
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilations, strict=True)]
    if attributes["padding"] == "same":
        pads = [
            _same_padding(n, r, s) for n, r, s in zip(x.shape[1:3], reach, strides, strict=True)
        ]
        x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(1, 2))
    return windows[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]


def _same_padding(length: int, reach: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same": as little as possible, the odd one at the end."""
    total = max((-(-length // stride) - 1) * stride + reach - length, 0)
    return total // 2, total - total // 2


def _exact_type(weight_sum: np.int64, source: Tensor) -> type[np.generic]:
    """The fastest type that holds every partial sum of a matrix product exactly.

    Args:
        weight_sum: Largest sum of weight magnitudes of an output channel.
        source: The activations.
    """
    container = np.iinfo(source.dtype)
    reach = max(container.max - source.zero_point, source.zero_point - container.min)
    bound = int(weight_sum) * int(reach)
    if bound < 2**24:
        return np.float32
    return np.float64 if bound < 2**53 else np.int64
