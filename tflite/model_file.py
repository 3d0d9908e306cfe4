"""Opens .tflite files that may be anything: missing, truncated, foreign, malicious.

TFLite's own code trusts a file: an index out of range or a missing constant ends the process. So a
file is first read as a tree of objects by Python, which cannot crash, then checked: every index in
range, every constant as large as its shape says, every op fed. Interpreters get what `serialize`
writes from the checked tree (for files of our own the same bytes), never the file's raw bytes.

    file = read("model.tflite")
    file.model.subgraphs[0].operators       # the tree
    file.content                            # bytes that are safe to interpret
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import flatbuffer

# No tensor of a network is larger; it keeps products of sizes inside 32 bits.
_MAX_ELEMENTS = 2**31 - 1
# Types of quantized activations, whose kernels read scales without asking whether there are any.
_QUANTIZED_TYPES = ("int8", "uint8", "int16")


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A checked file.

    Attributes:
        name: Where it came from, for messages.
        model: The object tree.
        size: Bytes of the file.
    """

    name: str
    model: schema.ModelT
    size: int

    @functools.cached_property
    def content(self) -> bytes:
        """The model as bytes, written anew from the checked tree."""
        return flatbuffer.serialize(self.model)

    @property
    def graph(self) -> schema.SubGraphT:
        """The main subgraph."""
        return self.model.subgraphs[0]

    @property
    def input_types(self) -> tuple[str, ...]:
        """Element types of the main subgraph's inputs, such as `int8`."""
        return tuple(
            flatbuffer.type_name(self.graph.tensors[i]) for i in _indices(self.graph.inputs)
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """What faq_keras wrote about the network; empty for foreign files."""
        for entry in self.model.metadata or ():
            if entry.name == b"faq_keras":
                data = self.model.buffers[entry.buffer].data
                try:
                    return dict(json.loads(bytes(np.asarray(data, np.uint8))))
                except (TypeError, ValueError):
                    return {}
        return {}


def read(path: str | os.PathLike[str]) -> ModelFile:
    """Reads and checks a .tflite file.

    Raises:
        ValueError: If it is missing, unreadable, truncated or no valid TFLite model.
    """
    name = os.fspath(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"Cannot read the TFLite file '{name}': {error.strerror}.") from error
    return from_bytes(content, name)


def from_bytes(content: bytes, name: str = "model in memory") -> ModelFile:
    """Checks a .tflite file's content.

    Raises:
        ValueError: If it is no valid TFLite model; names `name` and all problems found.
    """
    try:
        model = flatbuffer.parse(content)
    except ValueError as error:
        raise ValueError(f"'{name}' {error}. Export or copy it again.") from error
    try:
        problems = list(_problems(model))
    except Exception as error:  # a tree with holes where no valid file has any
        problems = [f"its structure is broken ({type(error).__name__}: {error})"]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(
            f"'{name}' is not a valid TFLite model: {'; '.join(problems[:8])}{more}. "
            "Export or copy it again."
        )
    return ModelFile(name, model, len(content))


def _problems(model: schema.ModelT) -> Iterator[str]:
    if model.version != flatbuffer.VERSION:
        yield f"its schema version is {model.version}, expected {flatbuffer.VERSION}"
    if not model.subgraphs:
        yield "it has no subgraph"
        return
    buffers = model.buffers or []
    if not buffers:
        yield "it has no buffers"
        return
    for i, entry in enumerate(model.metadata or ()):
        if not 0 <= entry.buffer < len(buffers):
            yield f"metadata {i} points to buffer {entry.buffer} of {len(buffers)}"
    for index, graph in enumerate(model.subgraphs):
        wrong = [p for tensor in graph.tensors or () for p in _tensor_problems(model, tensor)]
        yield from wrong or _graph_problems(model, graph, index)
    yield from _signature_problems(model)


def _tensor_problems(model: schema.ModelT, tensor: schema.TensorT) -> Iterator[str]:
    name = f"tensor '{flatbuffer.tensor_name(tensor)}'"
    if tensor.type not in flatbuffer.TYPE_NAMES:
        yield f"{name} has the unknown type {tensor.type}"
        return
    sizes = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    if min(sizes, default=0) < 0 or flatbuffer.element_count(tensor) > _MAX_ELEMENTS:
        yield f"{name} has the impossible shape {sizes}"
        return
    signature = tensor.shapeSignature
    if signature is not None and len(signature) not in (0, len(sizes)):
        yield f"{name} has {len(sizes)} dimensions and a signature of {len(signature)}"
    if not 0 <= tensor.buffer < len(model.buffers):
        yield f"{name} points to buffer {tensor.buffer} of {len(model.buffers)}"
        return
    data, expected = flatbuffer.raw_data(model, tensor), flatbuffer.byte_count(tensor)
    if data is not None and expected is not None and len(data) != expected:
        yield f"{name} holds {len(data)} bytes, its shape and type need {expected}"
    yield from _quantization_problems(name, tensor, sizes)


def _quantization_problems(name: str, tensor: schema.TensorT, sizes: list[int]) -> Iterator[str]:
    if not _is_quantized(tensor):
        return
    scale = np.asarray(tensor.quantization.scale)
    if not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        yield f"{name} has a scale that is not positive and finite"
    zero_points = _indices(tensor.quantization.zeroPoint)
    if len(zero_points) not in (0, 1, len(scale)):
        yield f"{name} has {len(scale)} scales and {len(zero_points)} zero points"
    kind = flatbuffer.type_name(tensor)
    limits = np.iinfo(kind) if kind in _QUANTIZED_TYPES else np.iinfo(np.int32)
    if any(not limits.min <= zero_point <= limits.max for zero_point in zero_points):
        yield f"{name} has a zero point outside of {kind}"
    axis = tensor.quantization.quantizedDimension
    if len(scale) > 1 and not (0 <= axis < len(sizes) and sizes[axis] == len(scale)):
        yield f"{name} has {len(scale)} scales along axis {axis} of the shape {sizes}"
    if len(scale) > 1 and tensor.buffer == 0:
        yield f"{name} is computed and has {len(scale)} scales"


def _is_quantized(tensor: schema.TensorT) -> bool:
    scale = None if tensor.quantization is None else tensor.quantization.scale
    return scale is not None and len(scale) > 0


def _graph_problems(model: schema.ModelT, graph: schema.SubGraphT, index: int) -> Iterator[str]:
    tensors, codes = graph.tensors or [], model.operatorCodes or []
    inputs, outputs = _indices(graph.inputs), _indices(graph.outputs)
    wrong = [i for i in inputs + outputs if not 0 <= i < len(tensors)]
    if wrong:
        yield f"subgraph {index} has inputs or outputs that do not exist: {wrong}"
        return
    constant = {i for i, t in enumerate(tensors) if flatbuffer.raw_data(model, t) is not None}
    ready = constant | set(inputs) | {i for i, t in enumerate(tensors) if t.isVariable}
    for number, op in enumerate(graph.operators or ()):
        if not 0 <= op.opcodeIndex < len(codes):
            yield f"operator {number} has the code {op.opcodeIndex} of {len(codes)}"
            return
        name = f"operator {number} ({flatbuffer.op_name(model, op)})"
        reads, writes = [i for i in _indices(op.inputs) if i != -1], _indices(op.outputs)
        wrong = [i for i in reads + writes if not 0 <= i < len(tensors)]
        if wrong:
            yield f"{name} uses tensors that do not exist: {wrong}"
            return
        # Shapeless constants (a zero-sized list of axes, say) have no bytes and are fine to read.
        unfed = [i for i in reads if i not in ready and flatbuffer.byte_count(tensors[i]) != 0]
        if unfed:
            yield f"{name} reads tensors that nothing computes: {unfed}"
        rewritten = [i for i in writes if i in ready]
        if rewritten:
            yield f"{name} writes constants, inputs or results of others: {rewritten}"
        ready.update(writes)
        yield from _option_problems(name, op)
        used = [tensors[i] for i in reads + writes]
        if len({_is_quantized(t) for t in used if flatbuffer.type_name(t) in _QUANTIZED_TYPES}) > 1:
            yield f"{name} mixes quantized tensors with others that lack a scale"
    absent = [i for i in outputs if i not in ready]
    if absent:
        yield f"subgraph {index} has outputs that nothing computes: {absent}"


def _option_problems(name: str, op: schema.OperatorT) -> Iterator[str]:
    """Numbers that kernels divide by or allocate from."""
    for field in (
        "strideH",
        "strideW",
        "dilationHFactor",
        "dilationWFactor",
        "filterHeight",
        "filterWidth",
        "depthMultiplier",
    ):
        value = getattr(op.builtinOptions, field, 1)
        if not 0 < value <= 2**16 and not (field == "depthMultiplier" and value == 0):
            yield f"{name} has the impossible {field} {value}"


def _signature_problems(model: schema.ModelT) -> Iterator[str]:
    for signature in model.signatureDefs or ():
        if not 0 <= signature.subgraphIndex < len(model.subgraphs):
            yield f"a signature belongs to subgraph {signature.subgraphIndex}, which does not exist"
            continue
        count = len(model.subgraphs[signature.subgraphIndex].tensors or ())
        for entry in (signature.inputs or []) + (signature.outputs or []):
            if not 0 <= entry.tensorIndex < count:
                yield f"a signature names tensor {entry.tensorIndex} of {count}"


def _indices(vector: Any) -> list[int]:
    return [] if vector is None else [int(i) for i in vector]
