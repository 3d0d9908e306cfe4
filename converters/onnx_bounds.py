"""What an ONNX file may ask for, looked at before anything is computed.

The one idea: a file of a few hundred bytes can describe numbers and shapes of any size (a constant
joined with itself forty times), and onnx's shape inference would compute them. Ranks and lengths of
shapes follow from the graph alone, so they are bounded first, node by node:

    check_bounds(model, constants, file)      # ConversionError: more nodes or axes than sensible
    lengths_are_small(model, constants)       # whether shapes may be computed along (data_prop)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx

from faq_keras.converters.errors import ConversionError

MOST_NODES = 5000
"""Published CNNs have up to 1,500."""
MOST_RANK = 32
MOST_CEILED = 200
"""Poolings with ceil_mode, each of which needs a shape inference of its own."""
SHAPE_ENTRIES = 64
"""Constants of more entries are weights: what they hold is not shown to the shape inference."""
MOST_VALUES = 1 << 27
"""Values of one tensor of one image, 512 MiB."""
_MOST_LENGTH, _MOST_LENGTHS = 256, 1 << 20

Constants = Mapping[str, np.ndarray]


def check_bounds(model: onnx.ModelProto, constants: Constants, file: Path) -> None:
    """Refuses graphs of more nodes, axes or nested functions than a network has.

    Raises:
        ConversionError: What there is too much of.
    """
    nodes = model.graph.node
    if len(nodes) > MOST_NODES:
        raise ConversionError(
            f"{file} has {len(nodes):,} nodes; at most {MOST_NODES:,} can be converted. Simplify "
            "the network (onnxsim) and export it again."
        )
    own = {function.name for function in model.functions if function.domain in ("", "ai.onnx")}
    if redefined := sorted(own & {node.op_type for node in nodes}):
        raise ConversionError(
            f"{file} has functions of its own in the place of the ops {', '.join(redefined)}. "
            "Export it without them."
        )
    ceiled = sum(a.name == "ceil_mode" and a.i != 0 for node in nodes for a in node.attribute)
    if ceiled > MOST_CEILED:
        raise ConversionError(f"{file} has {ceiled:,} poolings with ceil_mode; export without it.")
    for name, rank, _ in _bounds(model, constants):
        if rank > MOST_RANK:
            raise ConversionError(
                f"{file}: tensor {name!r} has more than {MOST_RANK} axes, which no image network "
                "has. Export it again."
            )


def check_image(shape: tuple[int, ...], batch: int | None, what: str) -> None:
    """Refuses inputs that fit no memory.

    Args:
        shape: Sizes of one image.
        batch: The batch size that the file fixes, if any.
        what: Names the input.

    Raises:
        ConversionError: An image or a batch is too large.
    """
    values = math.prod(shape) * (batch or 1)
    if values > MOST_VALUES:
        raise ConversionError(
            f"{what} has {values:,} values{' in a batch' if batch else ''}, more than the "
            f"{MOST_VALUES:,} that can be converted. Export the network for smaller images."
        )


def lengths_are_small(model: onnx.ModelProto, constants: Constants) -> bool:
    """Whether all shapes that the graph computes are short enough to compute them."""
    lengths = [length for _, _, length in _bounds(model, constants)]
    return max(lengths, default=0) <= _MOST_LENGTH and sum(lengths) <= _MOST_LENGTHS


def _bounds(model: onnx.ModelProto, constants: Constants) -> Iterator[tuple[str, int, int]]:
    """Name, rank and length (as a list of numbers) of every tensor: neither can be larger."""
    ranks = {name: array.ndim for name, array in constants.items()}
    lengths = {name: min(array.size, SHAPE_ENTRIES) for name, array in constants.items()}
    for value in model.graph.input:
        if value.name not in constants:
            ranks[value.name] = len(value.type.tensor_type.shape.dim)
            yield value.name, ranks[value.name], 0
    for name, array in constants.items():
        yield name, array.ndim, 0
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        of = [(ranks.get(name, 0), lengths.get(name, 0)) for name in node.input] or [(0, 0)]
        rank, length = _after(node, of)
        for name in node.output:
            ranks[name], lengths[name] = rank, length
            yield name, rank, length


def _after(node: onnx.NodeProto, of: list[tuple[int, int]]) -> tuple[int, int]:
    """Rank and length of a node's outputs, from those of its operands."""
    rank, length = of[0]
    second = of[1][1] if len(of) > 1 else 0
    axes = next((len(a.ints) for a in node.attribute if a.name == "axes"), second)
    match node.op_type:
        case "Shape":
            return 1, rank
        case "Concat":
            return max(r for r, _ in of), sum(n for _, n in of)
        case "Gather":
            return rank + of[-1][0] - 1, max(1, second)
        case "Unsqueeze":
            return rank + axes, length
        case "Squeeze":
            return rank - axes, length
        case "Reshape":
            return second, length
        case "Expand":
            return max(rank, second), length
        case "ConstantOfShape":
            return length, SHAPE_ENTRIES
        case "Flatten":
            return 2, length
        case _:
            return max(r for r, _ in of), max(n for _, n in of)
