"""What a model's object tree must be like, so that no interpreter trips over it.

Interpreters check little: an index out of range, a constant shorter than its shape, a missing scale
or a division by a stride of zero end the process. `problems` looks for all of these at once:

    for problem in problems(flatbuffer.parse(content)):
        print(problem)      # operator 3 (CONV_2D) uses tensors that do not exist: [812]

Whether the network makes sense is not asked; runtimes refuse what they cannot run in good order.
Some runtimes refuse less than others: `runtime_problems` says what these need.
"""

from __future__ import annotations

import functools
import graphlib
from collections.abc import Iterator

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import flatbuffer, operators, shapes

# Larger tensors do not occur; the limit keeps sizes inside 32 bits and a damaged file from eating
# all memory.
_MAX_BYTES = 2**31 - 1


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
    for i, buffer in enumerate(buffers):
        if buffer.offset > 1:
            yield f"buffer {i} keeps its bytes behind the tree, as only files above 2 GB need to"
    for i, entry in enumerate(model.metadata or ()):
        if not 0 <= entry.buffer < len(buffers):
            yield f"metadata {i} points to buffer {entry.buffer} of {len(buffers)}"
    yield from _code_problems(model)
    if not flatbuffer.indices(model.subgraphs[0].outputs):
        yield "its main subgraph has no outputs"
    for index, graph in enumerate(model.subgraphs):
        wrong = [p for tensor in graph.tensors or () for p in _tensor_problems(model, tensor)]
        yield from wrong or _graph_problems(model, graph, index)
    yield from _signature_problems(model)
    yield from _call_problems(model)


def runtime_problems(model: schema.ModelT, runtime: str) -> Iterator[str]:
    """What keeps a valid model from one runtime, whose kernels check less than the others'.

    Args:
        model: A model without `problems`.
        runtime: The runtime's name. Microcontrollers ("tflm") compute no shapes by themselves.
    """
    if runtime == "tflm" and not flatbuffer.indices(model.subgraphs[0].inputs):
        yield "it has no inputs"
    for graph in model.subgraphs:
        for number, op in enumerate(graph.operators or ()):
            code, tensors = flatbuffer.op_code(model, op), graph.tensors or []
            name = f"operator {number} ({flatbuffer.op_name(model, op)})"
            if runtime in _REFERENCE_KERNELS:
                found = operators.reference_problems(op, code, tensors)
                yield from (f"{name} {problem}" for problem in found)
            if runtime == "tflm":
                yield from _shape_problems(model, graph, op, name, declared=True)


def operators_without_rule(model: schema.ModelT) -> tuple[str, ...]:
    """Names of the operators, in all subgraphs, whose shapes nothing here can check."""
    names = {
        flatbuffer.op_name(model, op)
        for graph in model.subgraphs
        for op in graph.operators or ()
        if not shapes.has_rule(flatbuffer.op_code(model, op))
    }
    return tuple(sorted(names))


def _code_problems(model: schema.ModelT) -> Iterator[str]:
    for i, code in enumerate(model.operatorCodes or ()):
        if not _is_printable(code.customCode):
            yield f"operator code {i} has the unprintable name {code.customCode!r}"


def _is_printable(name: bytes | None) -> bool:
    """Whether a name is what the format wants, UTF-8, and a C string and a message can hold it."""
    return (name or b"").decode(errors="surrogateescape").isprintable()


_REFERENCE_KERNELS = ("reference", "tflm")
# Ratios of scales beyond leave float32. Only constants that are all zero may have smaller ones.
_LEAST_SCALE = 2.0**-60
# Containers of codes by type: the zero point is one of the codes. Packed ones get unpacked.
_CONTAINERS = {"int4": "int8", "int8": "int8", "uint8": "uint8", "int16": "int16"}


def _tensor_problems(model: schema.ModelT, tensor: schema.TensorT) -> Iterator[str]:
    if not _is_printable(tensor.name):
        yield f"a tensor has the unprintable name {tensor.name[:40]!r}"
        return
    name = f"tensor '{flatbuffer.tensor_name(tensor)}'"
    if tensor.type not in flatbuffer.TYPE_NAMES:
        yield f"{name} has the unknown type {tensor.type}"
        return
    sizes = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    needed = flatbuffer.byte_count(tensor) or flatbuffer.element_count(tensor)
    if min(sizes, default=0) < 0 or needed > _MAX_BYTES:
        yield f"{name} has the impossible shape {sizes}"
        return
    signature = flatbuffer.indices(tensor.shapeSignature) or sizes
    if len(signature) != len(sizes) or any(
        resizable not in (-1, size) for resizable, size in zip(signature, sizes, strict=True)
    ):
        yield f"{name} has the shape {sizes} and the signature {signature}"
    if tensor.externalBuffer:
        yield f"{name} keeps its bytes in another file"
    if not 0 <= tensor.buffer < len(model.buffers):
        yield f"{name} points to buffer {tensor.buffer} of {len(model.buffers)}"
        return
    data, expected = flatbuffer.raw_data(model, tensor), flatbuffer.byte_count(tensor)
    is_dense = tensor.sparsity is None  # sparse ones hold their nonzero values only
    if is_dense and data is not None and expected is not None and len(data) != expected:
        yield f"{name} holds {len(data)} bytes, its shape and type need {expected}"
    yield from _quantization_problems(name, tensor, sizes, data is None)


def _quantization_problems(
    name: str, tensor: schema.TensorT, sizes: list[int], is_computed: bool
) -> Iterator[str]:
    if not operators.is_quantized(tensor):
        return
    scale = np.asarray(tensor.quantization.scale)
    if not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        yield f"{name} has a scale that is not positive and finite"
    elif is_computed and not _LEAST_SCALE <= np.min(scale) <= np.max(scale) <= 1 / _LEAST_SCALE:
        yield f"{name} has the scale {scale[0]}, with whose ratios kernels cannot reckon"
    zero_points = flatbuffer.indices(tensor.quantization.zeroPoint)
    if len(zero_points) != len(scale):
        yield f"{name} has {len(scale)} scales and {len(zero_points)} zero points"
    kind = flatbuffer.type_name(tensor)
    limits = np.iinfo(_CONTAINERS.get(kind, "int32"))
    if any(not limits.min <= zero_point <= limits.max for zero_point in zero_points):
        yield f"{name} has a zero point outside of {kind}"
    axis = tensor.quantization.quantizedDimension
    if len(scale) > 1 and not (0 <= axis < len(sizes) and sizes[axis] == len(scale)):
        yield f"{name} has {len(scale)} scales along axis {axis} of the shape {sizes}"
    if len(scale) > 1 and is_computed:
        yield f"{name} is computed and has {len(scale)} scales"


def _graph_problems(model: schema.ModelT, graph: schema.SubGraphT, index: int) -> Iterator[str]:
    tensors, codes = graph.tensors or [], model.operatorCodes or []
    inputs, outputs = flatbuffer.indices(graph.inputs), flatbuffer.indices(graph.outputs)
    wrong = [i for i in inputs + outputs if not 0 <= i < len(tensors)]
    if wrong:
        yield f"subgraph {index} has inputs or outputs that do not exist: {wrong}"
        return
    for kind, vector in (("inputs", inputs), ("outputs", outputs)):
        names = [flatbuffer.tensor_name(tensors[i]) for i in set(vector)]
        if len(set(names)) < len(names):
            yield f"subgraph {index} has several {kind} of one name: {', '.join(sorted(names))}"
    constant = {i for i, t in enumerate(tensors) if flatbuffer.raw_data(model, t) is not None}
    ready = constant | set(inputs) | {i for i, t in enumerate(tensors) if t.isVariable}
    for number, op in enumerate(graph.operators or ()):
        if not 0 <= op.opcodeIndex < len(codes):
            yield f"operator {number} has the code {op.opcodeIndex} of {len(codes)}"
            return
        name = f"operator {number} ({flatbuffer.op_name(model, op)})"
        reads = [i for i in flatbuffer.indices(op.inputs) if i != -1]
        writes = flatbuffer.indices(op.outputs)
        used = reads + writes + [i for i in flatbuffer.indices(op.intermediates) if i != -1]
        wrong = [i for i in used if not 0 <= i < len(tensors)]
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
        yield from _operator_problems(model, graph, op, name)
    absent = [i for i in outputs if i not in ready]
    if absent:
        yield f"subgraph {index} has outputs that nothing computes: {absent}"


def _operator_problems(
    model: schema.ModelT, graph: schema.SubGraphT, op: schema.OperatorT, name: str
) -> Iterator[str]:
    code = flatbuffer.op_code(model, op)
    custom = model.operatorCodes[op.opcodeIndex].customCode
    wrong = list(operators.problems(op, code, graph.tensors or [], custom))
    yield from (f"{name} {problem}" for problem in wrong)
    if not wrong:
        yield from _shape_problems(model, graph, op, name)


def _shape_problems(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    op: schema.OperatorT,
    name: str,
    declared: bool = False,
) -> Iterator[str]:
    code, tensors = flatbuffer.op_code(model, op), graph.tensors or []
    constant = functools.partial(flatbuffer.constant, model)
    for problem in shapes.problems(op, code, tensors, constant, declared):
        yield f"{name} has {problem}"


def _signature_problems(model: schema.ModelT) -> Iterator[str]:
    for signature in model.signatureDefs or ():
        if not 0 <= signature.subgraphIndex < len(model.subgraphs):
            yield f"a signature belongs to subgraph {signature.subgraphIndex}, which does not exist"
            continue
        count = len(model.subgraphs[signature.subgraphIndex].tensors or ())
        for entry in (signature.inputs or []) + (signature.outputs or []):
            if not 0 <= entry.tensorIndex < count:
                yield f"a signature names tensor {entry.tensorIndex} of {count}"


def _call_problems(model: schema.ModelT) -> Iterator[str]:
    """Subgraphs that run one another in a circle never end, and the stack does."""
    calls: dict[int, set[int]] = {}
    for index, graph in enumerate(model.subgraphs):
        calls[index] = {i for op in graph.operators or () for i in operators.called_subgraphs(op)}
        wrong = sorted(calls[index] - set(range(len(model.subgraphs))))
        if wrong:
            yield f"subgraph {index} calls subgraphs that do not exist: {wrong}"
            return
    try:
        tuple(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        yield f"its subgraphs call one another in a circle: {error.args[1]}"
