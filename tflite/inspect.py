"""A .tflite file as a table: op, shapes, bits, scale as 2^l where it is one, zero point, bytes.

    print(table("model.tflite"))
    for row in rows("model.tflite"):
        print(row.op, row.name, row.scale, row.weight_bytes)

Works for foreign files too; what they do not say stays empty. Nothing is executed.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import flatbuffer, model_file
from faq_keras.tflite.model_file import ModelFile

_FUSED = {
    value: name.lower()
    for name, value in vars(schema.ActivationFunctionType).items()
    if not name.startswith("_") and name != "NONE"
}
# Operators whose second input is a kernel.
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "CONV_3D")
# Converters name a tensor after everything that was fused into it; the end tells most.
_NAME_LENGTH = 40
_HEADINGS = ("op", "name", "output", "type", "bits", "step", "zero", "weights", "w bits", "bytes")


@dataclasses.dataclass(frozen=True)
class Row:
    """One operator, or one input of the network.

    Attributes:
        op: Operator, with its fused activation (`CONV_2D+relu`); `INPUT` for an input.
        name: Name of the tensor that it computes.
        shape: That tensor's shape, -1 where it can be resized.
        dtype: Its type.
        bits: Bits that its codes use: fewer than the type's if zero point and activation say so.
        scale: Its scale: `2^l`, a number, or empty.
        zero_point: Its zero point; None without quantization.
        weight_shape: Shape of the kernel; empty without one.
        weight_bits: Bits that hold the kernel's codes; None without an integer kernel.
        weight_bytes: Bytes of all constants that it reads, as stored.
    """

    op: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    bits: int | None
    scale: str
    zero_point: int | None
    weight_shape: tuple[int, ...]
    weight_bits: int | None
    weight_bytes: int


def rows(path: str | os.PathLike[str]) -> list[Row]:
    """The inputs and operators of a file's main subgraph, in execution order.

    Raises:
        ValueError: If the file is missing or no valid TFLite model.
    """
    return rows_of(model_file.read(path))


def rows_of(file: ModelFile) -> list[Row]:
    """The same of a file that is read already: inputs first, then each operator's outputs."""
    tensors = file.graph.tensors or []
    result = [_row("INPUT", tensors[int(i)], "") for i in _list(file.graph.inputs)]
    for op in file.graph.operators or ():
        name = flatbuffer.op_name(file.model, op)
        activation = _FUSED.get(getattr(op.builtinOptions, "fusedActivationFunction", 0), "")
        shown = f"{name}+{activation}" if activation else name
        for output in _list(op.outputs):
            row = _row(shown, tensors[int(output)], activation)
            result.append(dataclasses.replace(row, **_weights(file, op, name)))
    return result


def table(path: str | os.PathLike[str]) -> str:
    """The same as text, with totals and what the file tells about itself.

    Raises:
        ValueError: If the file is missing or no valid TFLite model.
    """
    file = model_file.read(path)
    found = rows_of(file)
    cells = [*map(_cells, found), _total_cells(found)]
    widths = [max(len(line[i]) for line in [_HEADINGS, *cells]) for i in range(len(_HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [_HEADINGS, *cells]
    ]
    constants = sum(len(b.data) for b in file.model.buffers if b.data is not None)
    lines.append(f"{file.size:,} bytes, {constants:,} of them constants")
    lines += [f"{key}: {value}" for key, value in file.metadata.items()]
    return "\n".join(lines)


def scale_text(scales: Sequence[float]) -> str:
    """A scale for people: `2^-7` if it is one; first and last by size if there are several."""
    if len(scales) == 0:
        return ""
    lowest, highest = float(min(scales)), float(max(scales))
    if lowest == highest:
        return _power_text(lowest)
    return f"{_power_text(lowest)} .. {_power_text(highest)}"


def dimensions(shape: Sequence[int]) -> str:
    """A shape for people: `Nx8x8x16`, where N can be resized."""
    return "x".join("N" if size == -1 else str(size) for size in shape)


def _power_text(scale: float) -> str:
    mantissa, exponent = math.frexp(scale)
    return f"2^{exponent - 1}" if mantissa == 0.5 else f"{scale:.6g}"


def _row(op: str, tensor: schema.TensorT, activation: str) -> Row:
    quantization = tensor.quantization or schema.QuantizationParametersT()
    scale = tuple(float(s) for s in _list(quantization.scale))
    zero_points = _list(quantization.zeroPoint)
    zero_point = int(zero_points[0]) if zero_points and scale else None
    dtype = flatbuffer.type_name(tensor)
    return Row(
        op=op,
        name=flatbuffer.tensor_name(tensor),
        shape=flatbuffer.shape(tensor),
        dtype=dtype,
        bits=_activation_bits(dtype, zero_point, bool(activation)),
        scale=scale_text(scale),
        zero_point=zero_point,
        weight_shape=(),
        weight_bits=None,
        weight_bytes=0,
    )


def _activation_bits(dtype: str, zero_point: int | None, clamped: bool) -> int | None:
    """Bits of the codes, from the zero point to the end of the container if a ReLU clamps them.

    Ops that only hand codes on (pools, PAD) have no activation, but a zero point such as 112 tells
    that what they hand on has 4 bits.
    """
    if zero_point is None or dtype not in ("int8", "uint8", "int16"):
        return None
    container = np.iinfo(dtype)
    levels = container.max + 1 - zero_point
    if clamped or (zero_point > 0 and levels.bit_count() == 1):
        return max(levels - 1, 0).bit_length()
    return int(container.bits)


def _weights(file: ModelFile, op: schema.OperatorT, name: str) -> dict[str, Any]:
    tensors = [file.graph.tensors[int(i)] for i in _list(op.inputs) if int(i) >= 0]
    data = [flatbuffer.raw_data(file.model, tensor) for tensor in tensors]
    facts: dict[str, Any] = {"weight_bytes": sum(len(d) for d in data if d is not None)}
    if name in _WEIGHTED and len(tensors) > 1 and data[1] is not None:
        codes = flatbuffer.constant(file.model, tensors[1])
        facts["weight_shape"] = flatbuffer.shape(tensors[1])
        if codes is not None and codes.dtype.kind == "i" and codes.size:
            facts["weight_bits"] = _kernel_bits(codes.astype(np.int64))
    return facts


def _kernel_bits(codes: Any) -> int:
    """The narrowest two's complement width that holds all codes, at least 2."""
    return max(2, 1 + max(int(codes.max()), -1 - int(codes.min()), 0).bit_length())


def _list(vector: Any) -> list[Any]:
    """A vector of a flatbuffer, which may be absent."""
    return [] if vector is None else list(vector)


def _total_cells(rows: Sequence[Row]) -> tuple[str, ...]:
    """The line that adds up the bytes. A constant that two operators read counts for each."""
    total = sum(row.weight_bytes for row in rows)
    return ("total", *[""] * (len(_HEADINGS) - 2), f"{total:,}")


def _cells(row: Row) -> tuple[str, ...]:
    def text(value: Any) -> str:
        return "" if value is None else str(value)

    return (
        row.op,
        row.name if len(row.name) <= _NAME_LENGTH else "..." + row.name[3 - _NAME_LENGTH :],
        dimensions(row.shape),
        row.dtype,
        text(row.bits),
        row.scale,
        text(row.zero_point),
        dimensions(row.weight_shape),
        text(row.weight_bits),
        f"{row.weight_bytes:,}" if row.weight_bytes else "",
    )
