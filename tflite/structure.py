"""What a model's object tree must be like, so that no interpreter trips over it.

Interpreters check little: an index out of range, a constant shorter than its shape, a missing scale
or a division by a stride of zero end the process. `problems` looks for all of these at once:

    for problem in problems(flatbuffer.parse(content)):
        print(problem)      # operator 3 (CONV_2D) uses tensors that do not exist: [812]

Whether the network makes sense is not asked; runtimes refuse what they cannot run in good order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import flatbuffer

# Larger tensors do not occur; the limit keeps sizes inside 32 bits and a damaged file from eating
# all memory.
_MAX_BYTES = 2**31 - 1
# Types of quantized activations, whose kernels read scales without asking whether there are any.
_QUANTIZED_TYPES = ("int8", "uint8", "int16")
# Operators whose output has the type of their first input, and how many inputs they cannot lack.
_Op = schema.BuiltinOperator
_REQUIRED_INPUTS = {
    _Op.ADD: 2,
    _Op.AVERAGE_POOL_2D: 1,
    _Op.CONCATENATION: 1,
    _Op.CONV_2D: 2,
    _Op.DEPTHWISE_CONV_2D: 2,
    _Op.FULLY_CONNECTED: 2,
    _Op.MAX_POOL_2D: 1,
    _Op.MEAN: 2,
    _Op.MUL: 2,
    _Op.PAD: 2,
    _Op.RELU: 1,
    _Op.RESHAPE: 1,
    _Op.SOFTMAX: 1,
    _Op.SUB: 2,
}


def problems(model: schema.ModelT) -> Iterator[str]:
    """Everything that keeps a model from being run, in words; nothing for a valid one.

    Raises:
        Exception: Of any kind, if the tree has holes where no valid file has any.
    """
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
    needed = flatbuffer.byte_count(tensor) or flatbuffer.element_count(tensor)
    if min(sizes, default=0) < 0 or needed > _MAX_BYTES:
        yield f"{name} has the impossible shape {sizes}"
        return
    signature = _indices(tensor.shapeSignature) or sizes
    if len(signature) != len(sizes) or any(
        resizable not in (-1, size) for resizable, size in zip(signature, sizes, strict=True)
    ):
        yield f"{name} has the shape {sizes} and the signature {signature}"
    if not 0 <= tensor.buffer < len(model.buffers):
        yield f"{name} points to buffer {tensor.buffer} of {len(model.buffers)}"
        return
    data, expected = flatbuffer.raw_data(model, tensor), flatbuffer.byte_count(tensor)
    is_dense = tensor.sparsity is None  # sparse ones hold their nonzero values only
    if is_dense and data is not None and expected is not None and len(data) != expected:
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
        yield from _operand_problems(name, flatbuffer.op_code(model, op), op, tensors)
        yield from _option_problems(name, op)
    absent = [i for i in outputs if i not in ready]
    if absent:
        yield f"subgraph {index} has outputs that nothing computes: {absent}"


def _operand_problems(
    name: str, code: int, op: schema.OperatorT, tensors: list[schema.TensorT]
) -> Iterator[str]:
    """Operands that kernels use without looking: required ones, scales, equal types."""
    inputs, outputs = _indices(op.inputs), _indices(op.outputs)
    used = [tensors[i] for i in inputs + outputs if i != -1]
    if len({_is_quantized(t) for t in used if flatbuffer.type_name(t) in _QUANTIZED_TYPES}) > 1:
        yield f"{name} mixes quantized tensors with others that lack a scale"
    required = _REQUIRED_INPUTS.get(code)
    if required is None:
        return
    if len(inputs) < required or -1 in inputs[:required] or not outputs:
        yield f"{name} lacks one of its {required} inputs or its output"
    elif tensors[inputs[0]].type != tensors[outputs[0]].type:
        types = [flatbuffer.type_name(tensors[i]) for i in (inputs[0], outputs[0])]
        yield f"{name} turns {types[0]} into {types[1]}"


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
