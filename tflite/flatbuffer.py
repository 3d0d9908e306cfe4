"""A .tflite file as the tree of objects that TFLite's schema generates, and back to bytes.

A file is one flatbuffer: a `ModelT` with buffers (the constants' bytes), operator codes and
subgraphs of tensors and operators. Everything that needs to know how these are stored is here:

    model = parse(Path("m.tflite").read_bytes())
    for op in model.subgraphs[0].operators:
        print(op_name(model, op))
    Path("copy.tflite").write_bytes(serialize(model))

`serialize` depends on nothing but the tree, so equal trees give equal files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import int4

IDENTIFIER = b"TFL3"
VERSION = 3

# No table is shorter. The tables and texts of a file without shared parts fill at most all of it;
# what tools share stays within so many bytes, and so many for each byte of the file.
_TABLE_BYTES = 8
_FREE_SHARING, _SHARING = 2**18, 4

# The schema aligns the bytes of every buffer to this, so that kernels may read them in place.
BUFFER_ALIGNMENT = 16

TENSOR_TYPES: Mapping[str, int] = {
    name.lower(): value
    for name, value in vars(schema.TensorType).items()
    if not name.startswith("_")
}
TYPE_NAMES: Mapping[int, str] = {value: name for name, value in TENSOR_TYPES.items()}
OP_NAMES: Mapping[int, str] = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
# Types whose elements numpy can view; the others (strings, resources, sub-byte types) stay bytes.
NUMPY_TYPES: Mapping[str, type[np.generic]] = {
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
    "bool": np.bool_,
}


class AlignedBufferT(schema.BufferT):
    """A buffer whose bytes start at a multiple of `BUFFER_ALIGNMENT`, as the schema demands."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 (the schema's name)
        """Writes the buffer and returns its offset."""
        if self.data is not None:
            builder.Prep(BUFFER_ALIGNMENT, len(self.data))
        return super().Pack(builder)


def serialize(model: schema.ModelT) -> bytes:
    """The flatbuffer of an object tree, whose vectors should be numpy arrays (lists are slow)."""
    model.buffers = [AlignedBufferT(b.data, b.offset, b.size) for b in model.buffers]
    size = sum(len(b.data) for b in model.buffers if b.data is not None)
    builder = flatbuffers.Builder(size + 64 * len(model.buffers) + 65536)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def parse(content: bytes) -> schema.ModelT:
    """The object tree of a flatbuffer, whose numpy vectors are views of `content`.

    Raises:
        ValueError: If the bytes cannot be read as a TFLite model; the message has no subject.
    """
    if not content:
        raise ValueError("is empty")
    if content[4:8] != IDENTIFIER:
        raise ValueError(f"is not a TFLite model: it lacks the identifier {IDENTIFIER.decode()}")
    try:
        allowance = _FREE_SHARING + _SHARING * len(content)
        for size in _visited_sizes(schema.Model.GetRootAs(content, 0)):
            allowance -= size
            if allowance < 0:
                raise ValueError("its parts are used over and over again")
        return schema.ModelT.InitFromPackedBuf(content, 0)
    except Exception as error:  # garbage may lead to anything
        raise ValueError(f"is truncated or corrupt ({type(error).__name__}: {error})") from error


# The lists of tables in a file, with the texts that each of these tables holds.
_LISTS: Mapping[str, tuple[str, ...]] = {
    "Buffers": (),
    "DimMetadata": (),
    "ExternalBufferGroups": ("Name",),
    "ExternalBuffers": ("Packing",),
    "Inputs": ("Name",),
    "Metadata": ("Name",),
    "OperatorCodes": ("CustomCode",),
    "Operators": (),
    "Outputs": ("Name",),
    "SignatureDefs": ("SignatureKey",),
    "Subgraphs": ("Name",),
    "Tensors": ("Name",),
    "VariantTensors": (),
}
_LISTS_INSIDE = {
    schema.Model: (
        "OperatorCodes", "Buffers", "Metadata", "SignatureDefs", "ExternalBufferGroups",
        "ExternalBuffers", "Subgraphs",
    ),
    schema.SubGraph: ("Operators", "Tensors"),
    schema.Tensor: ("VariantTensors",),
    schema.SparsityParameters: ("DimMetadata",),
    schema.SignatureDef: ("Inputs", "Outputs"),
}  # fmt: skip


def _visited_sizes(table: Any) -> Iterator[int]:
    """Bytes of everything that the object tree will copy, as often as it will.

    In a flatbuffer, lists may share their entries: in a few kilobytes, a thousand subgraphs can be
    the same one, of a thousand tensors that are the same one, and the tree would fill the memory.
    """
    for name in _LISTS_INSIDE.get(type(table), ()):
        entry = getattr(table, name)
        for i in range(getattr(table, f"{name}Length")()):
            inner = entry(i)
            yield _TABLE_BYTES + sum(len(getattr(inner, text)() or b"") for text in _LISTS[name])
            yield from _visited_sizes(inner)
    if isinstance(table, schema.Tensor) and (sparsity := table.Sparsity()) is not None:
        yield from _visited_sizes(sparsity)


def op_code(model: schema.ModelT, op: schema.OperatorT) -> int:
    """The builtin operator's number; files from before TensorFlow 2.4 use the other field."""
    code = model.operatorCodes[op.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def op_name(model: schema.ModelT, op: schema.OperatorT) -> str:
    """An operator's name, such as `CONV_2D`; a custom operator's own name."""
    code = op_code(model, op)
    custom = model.operatorCodes[op.opcodeIndex].customCode
    if code == schema.BuiltinOperator.CUSTOM and custom:
        return custom.decode(errors="replace")
    return OP_NAMES.get(code, f"unknown operator {code}")


def type_name(tensor: schema.TensorT) -> str:
    """A tensor's element type in lower case, such as `int8`."""
    return TYPE_NAMES.get(tensor.type, f"unknown type {tensor.type}")


def tensor_name(tensor: schema.TensorT) -> str:
    """A tensor's name as text."""
    return (tensor.name or b"").decode(errors="replace")


def indices(vector: npt.NDArray[np.integer] | Sequence[int] | None) -> list[int]:
    """A vector of indices, which may be absent, as plain integers."""
    return [] if vector is None else [int(i) for i in vector]


def shape(tensor: schema.TensorT) -> tuple[int, ...]:
    """A tensor's shape, with -1 where its signature says that the dimension can be resized."""
    signature = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    return tuple(int(size) for size in (signature if signature is not None else ()))


def element_count(tensor: schema.TensorT) -> int:
    """How many elements a tensor has at the file's own batch size."""
    return int(np.prod(tensor.shape, dtype=object)) if tensor.shape is not None else 1


def byte_count(tensor: schema.TensorT) -> int | None:
    """How many bytes a constant of this type and shape takes; None for types without fixed size."""
    name, count = type_name(tensor), element_count(tensor)
    if name == "int4":
        return (count + 1) // 2
    return count * np.dtype(NUMPY_TYPES[name]).itemsize if name in NUMPY_TYPES else None


def raw_data(model: schema.ModelT, tensor: schema.TensorT) -> npt.NDArray[np.uint8] | None:
    """The bytes of a constant; None for a tensor that is computed."""
    data = model.buffers[tensor.buffer].data
    return None if data is None or len(data) == 0 else np.asarray(data, np.uint8)


def constant(model: schema.ModelT, tensor: schema.TensorT) -> npt.NDArray[np.generic] | None:
    """A constant as an array in its own type and shape, packed codes unpacked to int8.

    Returns:
        None for a tensor that is computed, is sparse, or whose type numpy does not know.
    """
    raw, name = raw_data(model, tensor), type_name(tensor)
    if raw is None or tensor.sparsity is not None:
        return None
    dimensions = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    if name == "int4":
        return int4.unpack(raw, element_count(tensor)).reshape(dimensions)
    if name not in NUMPY_TYPES:
        return None
    return np.frombuffer(raw.tobytes(), NUMPY_TYPES[name]).reshape(dimensions)
