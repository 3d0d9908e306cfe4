"""Whether the shapes around an operator fit each other, for the operators that kernels trust.

Kernels take sizes from one tensor and read or write another: a bias shorter than the kernel has
filters, a concatenation wider than its output end the process or read foreign memory. Interpreters
look at some of this, microcontrollers at nearly nothing:

    for problem in problems(op, code, tensors, constant):
        print(problem)      # a bias of 3 values for 8 filters

A dimension that the file calls resizable is not known and fits everything. Interpreters compute the
results' shapes anew; a runtime that does not (`declared=True`) takes what is stored at its word, so
there all of it counts as it stands, results included. Operators that are not listed here have no
rule: foreign files may contain them, and are tried in a process of their own (`trial`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import flatbuffer

# A shape whose dimensions are known or not; None if not even their number is.
Shape = tuple[int | None, ...]
# The numbers of a small constant; None for a tensor that is computed.
Constant = Callable[[schema.TensorT], npt.NDArray[np.generic] | None]
# Operator, shapes and numbers of its inputs -> the shape of its output, None if unknown.
_Rule = Callable[[Any, Sequence[Shape | None], Sequence[Any]], Shape | None]

_Op = schema.BuiltinOperator


class _MisfitError(Exception):
    """Inputs that do not go together."""


def has_rule(code: int) -> bool:
    """Whether the shapes around an operator can be checked here."""
    return code in _RULES


def problems(
    op: schema.OperatorT,
    code: int,
    tensors: Sequence[schema.TensorT],
    constant: Constant,
    declared: bool = False,
) -> Iterator[str]:
    """What does not fit around one operator, in words.

    Args:
        op: The operator, whose tensor indices are in range.
        code: Its builtin code.
        tensors: Those of its subgraph.
        constant: Gives a tensor's numbers; only asked for integers of 32 and 64 bits.
        declared: Whether the stored shapes are all that the runtime will know.
    """
    rule = _RULES.get(code)
    if rule is None or op.outputs is None or len(op.outputs) != 1:
        return
    inputs = [None if int(i) == -1 else tensors[int(i)] for i in op.inputs]
    shapes = [None if tensor is None else _shape(tensor, declared) for tensor in inputs]
    numbers = [
        constant(tensor) if tensor is not None and _holds_sizes(tensor) else None
        for tensor in inputs
    ]
    try:
        expected = rule(op.builtinOptions, shapes, numbers)
    except _MisfitError as error:
        yield str(error)
        return
    if expected is None or not declared:
        return
    found = _shape(tensors[int(op.outputs[0])], declared)
    if found is not None and not _fits(expected, found):
        yield f"a result {_text(expected)} in a tensor {_text(found)}"


def _holds_sizes(tensor: schema.TensorT) -> bool:
    """Whether it may be a list of sizes, axes or paddings."""
    return flatbuffer.type_name(tensor) in ("int32", "int64")


def _shape(tensor: schema.TensorT, declared: bool) -> Shape | None:
    """A tensor's shape; an unranked one is stored as a scalar."""
    if declared:
        return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    sizes = flatbuffer.shape(tensor)
    if not sizes and not tensor.hasRank:
        return None
    return tuple(None if size == -1 else size for size in sizes)


def _fits(one: Shape, other: Shape) -> bool:
    return len(one) == len(other) and all(map(_equal, one, other))


def _equal(one: int | None, other: int | None) -> bool:
    return one is None or other is None or one == other


def _text(shape: Shape) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _need(condition: bool, text: str) -> None:
    if not condition:
        raise _MisfitError(text)


def _count(shape: Shape | None) -> int | None:
    """How many elements; None if that is not known."""
    if shape is None or None in shape:
        return None
    return math.prod(size for size in shape if size is not None)


# ------------------------------------------------------------------------------------------ windows


def _windows(
    image: Shape, size: Sequence[int | None], options: Any, dilations: Sequence[int] = (1, 1)
) -> list[int | None]:
    """Height and width of what a sliding window computes."""
    steps = (options.strideH, options.strideW)
    same = options.padding == schema.Padding.SAME
    result: list[int | None] = []
    for length, window, step, dilation in zip(image[1:3], size, steps, dilations, strict=True):
        if length is None or window is None:
            result.append(None)
            continue
        reach = (window - 1) * dilation + 1
        _need(
            0 < reach <= length or (same and length > 0), f"a window of {reach} in {length} values"
        )
        result.append(-(-length // step) if same else (length - reach) // step + 1)
    return result


def _images(shape: Shape | None) -> Shape | None:
    _need(shape is None or len(shape) == 4, f"images of the shape {_text(shape or ())}")
    return shape


def _check_bias(shapes: Sequence[Shape | None], filters: int | None, what: str) -> None:
    count = _count(shapes[2]) if len(shapes) > 2 else None
    _need(_equal(count, filters), f"a bias of {count} values for {filters} {what}")


def _conv(options: Any, shapes: Sequence[Shape | None], numbers: Sequence[Any]) -> Shape | None:
    image, kernel = _images(shapes[0]), _images(shapes[1])
    if image is None or kernel is None:
        return None
    filters, depth = kernel[0], kernel[3]
    if image[3] is not None and depth is not None and filters is not None:
        groups = image[3] // max(depth, 1)
        fits = depth > 0 and image[3] == groups * depth and groups > 0 and filters % groups == 0
        _need(fits, f"a kernel {_text(kernel)} on images {_text(image)}")
    _check_bias(shapes, filters, "filters")
    dilations = (options.dilationHFactor, options.dilationWFactor)
    return (image[0], *_windows(image, kernel[1:3], options, dilations), filters)


def _depthwise(
    options: Any, shapes: Sequence[Shape | None], numbers: Sequence[Any]
) -> Shape | None:
    image, kernel = _images(shapes[0]), _images(shapes[1])
    if image is None or kernel is None:
        return None
    filters, channels = kernel[3], image[3]
    fits = kernel[0] in (1, None)
    if filters is not None and channels is not None:
        times = filters // max(channels, 1)
        fits = fits and filters == times * channels and options.depthMultiplier in (0, times)
    _need(fits, f"a kernel {_text(kernel)} on images {_text(image)}")
    _check_bias(shapes, filters, "filters")
    dilations = (options.dilationHFactor, options.dilationWFactor)
    return (image[0], *_windows(image, kernel[1:3], options, dilations), filters)


def _pool(options: Any, shapes: Sequence[Shape | None], numbers: Sequence[Any]) -> Shape | None:
    image = _images(shapes[0])
    if image is None:
        return None
    size = (options.filterHeight, options.filterWidth)
    return (image[0], *_windows(image, size, options), image[3])


# ------------------------------------------------------------------------------------------- others


def _fully_connected(
    options: Any, shapes: Sequence[Shape | None], numbers: Sequence[Any]
) -> Shape | None:
    values, kernel = shapes[0], shapes[1]
    if kernel is None or getattr(options, "weightsFormat", 0) != 0:  # shuffled ones say so
        return None
    _need(len(kernel) == 2, f"a kernel {_text(kernel)}")
    units, depth = kernel
    _check_bias(shapes, units, "units")
    if values is None or depth is None:
        return None
    count = _count(values)
    whole = count is None or (depth > 0 and count % depth == 0)
    _need(whole, f"a kernel {_text(kernel)} on values {_text(values)}")
    if getattr(options, "keepNumDims", False):
        _need(_equal(values[-1], depth), f"a kernel {_text(kernel)} on values {_text(values)}")
        return (*values[:-1], units)
    return (None if count is None else count // depth, units)


def _same(options: Any, shapes: Sequence[Shape | None], numbers: Sequence[Any]) -> Shape | None:
    return shapes[0]


def _broadcast(
    options: Any, shapes: Sequence[Shape | None], numbers: Sequence[Any]
) -> Shape | None:
    one, other = shapes[0], shapes[1]
    if one is None or other is None:
        return None
    rank = max(len(one), len(other))
    pairs = zip((1,) * (rank - len(one)) + one, (1,) * (rank - len(other)) + other, strict=True)
    result: list[int | None] = []
    for a, b in pairs:
        _need(_equal(a, b) or 1 in (a, b), f"operands {_text(one)} and {_text(other)}")
        result.append(b if a == 1 else a if b == 1 or b is None else b)
    return tuple(result)


def _concatenation(
    options: Any, shapes: Sequence[Shape | None], numbers: Sequence[Any]
) -> Shape | None:
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    axis, rank = getattr(options, "axis", 0), len(known[0])
    _need(-rank <= axis < rank, f"the axis {axis} of {_text(known[0])}")
    axis %= rank
    rest = [shape[:axis] + shape[axis + 1 :] for shape in known]
    fits = all(len(shape) == rank for shape in known) and all(_fits(r, rest[0]) for r in rest)
    _need(fits, f"parts {' and '.join(map(_text, known))}")
    widths = [shape[axis] for shape in known]
    width = None if None in widths else sum(w for w in widths if w is not None)
    merged = [next((r[i] for r in rest if r[i] is not None), None) for i in range(rank - 1)]
    return (*merged[:axis], width, *merged[axis:])


def _pad(options: Any, shapes: Sequence[Shape | None], numbers: Sequence[Any]) -> Shape | None:
    values, paddings, amounts = shapes[0], shapes[1], numbers[1]
    if values is None or paddings is None:
        return None
    _need(_fits(paddings, (len(values), 2)), f"paddings {_text(paddings)} for {_text(values)}")
    if amounts is None:
        return None
    fits = amounts.size == 2 * len(values) and int(amounts.min(initial=0)) >= 0
    _need(fits, f"the paddings {amounts.tolist()} for {_text(values)}")
    sums = amounts.reshape(-1, 2).sum(axis=1, dtype=object)
    return tuple(
        None if size is None else size + int(more) for size, more in zip(values, sums, strict=True)
    )


def _reshape(options: Any, shapes: Sequence[Shape | None], numbers: Sequence[Any]) -> Shape | None:
    """The target may fix the batch to what it was in the file, so only its rules are checked."""
    target = numbers[1] if len(numbers) > 1 else None
    if target is None:
        return None
    sizes = [int(size) for size in target.reshape(-1)]
    count, fixed = _count(shapes[0]), math.prod(size for size in sizes if size != -1)
    _need(min(sizes, default=1) >= -1 and sizes.count(-1) <= 1, f"the target {sizes}")
    if count is None:
        return None
    whole = fixed > 0 and count % fixed == 0 if -1 in sizes else count == fixed
    _need(whole, f"{_text(shapes[0] or ())} as {sizes}")
    return tuple(count // fixed if size == -1 else size for size in sizes)


def _mean(options: Any, shapes: Sequence[Shape | None], numbers: Sequence[Any]) -> Shape | None:
    values, axes = shapes[0], numbers[1]
    if values is None or axes is None:
        return None
    rank, chosen = len(values), {int(axis) for axis in axes.reshape(-1)}
    _need(all(-rank <= axis < rank for axis in chosen), f"axes {sorted(chosen)} of {_text(values)}")
    chosen = {axis % rank for axis in chosen}
    if getattr(options, "keepDims", False):
        return tuple(1 if i in chosen else size for i, size in enumerate(values))
    return tuple(size for i, size in enumerate(values) if i not in chosen)


_RULES: Mapping[int, _Rule] = {
    _Op.ADD: _broadcast,
    _Op.AVERAGE_POOL_2D: _pool,
    _Op.CONCATENATION: _concatenation,
    _Op.CONV_2D: _conv,
    _Op.DEPTHWISE_CONV_2D: _depthwise,
    _Op.DEQUANTIZE: _same,
    _Op.FULLY_CONNECTED: _fully_connected,
    _Op.LOGISTIC: _same,
    _Op.MAX_POOL_2D: _pool,
    _Op.MEAN: _mean,
    _Op.MUL: _broadcast,
    _Op.PAD: _pad,
    _Op.QUANTIZE: _same,
    _Op.RELU: _same,
    _Op.RELU6: _same,
    _Op.RESHAPE: _reshape,
    _Op.SOFTMAX: _same,
    _Op.SUB: _broadcast,
    _Op.TANH: _same,
}
