"""Reads a written file back and checks, without running it, that it says what the program says.

Parity shows that the numbers agree on the images at hand; the audit shows that nothing else is in
the file: no float tensor, no op that the program lacks, every scale exactly the plan's, every code
inside its bit range, packed bytes that decode to the trained codes.

    found = audit("model.tflite", program, weights="int4")
    print(found.ops, found.weight_bytes, found.packed_tensors)     # numbers, or an AuditError
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from faq_keras.integer.layout import packed_tensors
from faq_keras.integer.program import IntegerProgram, Op, Tensor
from faq_keras.tflite import flatbuffer, model_file, writer
from faq_keras.tflite.model_file import ModelFile

# Ops that a converter slips in between and that an exact file has no use for.
_FOREIGN = ("DEQUANTIZE", "CAST", "TRANSPOSE", "FAKE_QUANT")
_WEIGHTED = ("conv_2d", "depthwise_conv_2d", "fully_connected")


class AuditError(ValueError):
    """A file does not say what its program says."""


@dataclasses.dataclass(frozen=True)
class Audit:
    """What a file consists of.

    Attributes:
        file_bytes: Size of the file.
        ops: Number of operators.
        operators: Number of operators by name.
        tensors: Number of tensors.
        constants: Number of tensors with data.
        codes: Number of weights whose codes were compared with the program's.
        weight_bytes: Bytes of all kernels as stored.
        packed_tensors: Number of kernels stored with two codes per byte.
        packed_bytes: Their bytes.
        float_tensors: Number of float tensors: inputs, if the file converts them, else none.
    """

    file_bytes: int
    ops: int
    operators: Mapping[str, int]
    tensors: int
    constants: int
    codes: int
    weight_bytes: int
    packed_tensors: int
    packed_bytes: int
    float_tensors: int

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return dataclasses.asdict(self) | {"operators": dict(self.operators)}


def audit(
    path: str | os.PathLike[str], program: IntegerProgram, weights: str | None = None
) -> Audit:
    """Checks a file against the program that it was written from.

    Args:
        path: The file.
        program: Its program.
        weights: "int8" or "int4", how the kernels must be stored; None accepts either.

    Raises:
        AuditError: Lists all differences.
        ValueError: If the file is missing or no valid TFLite model.
    """
    file = model_file.read(path)
    packed = _packed_names(file) if weights is None else _expected_packed(program, weights)
    problems = [*_tensor_list_problems(file, program)]
    found = {flatbuffer.tensor_name(t): t for t in file.graph.tensors or ()}
    for name, tensor in program.tensors.items():
        if name in found:
            problems += _tensor_problems(file, found[name], tensor, name in packed)
    problems += [*_interface_problems(file, program)]
    problems += [*_op_problems(file, program, packed)]
    problems += [*_metadata_problems(file, program)]
    if problems:
        raise AuditError(
            f"'{os.fspath(path)}' differs from its model in {len(problems)} points: "
            f"{'; '.join(problems)}. Export the model again."
        )
    return _count(file, program)


def _packed_names(file: ModelFile) -> frozenset[str]:
    tensors = file.graph.tensors or ()
    return frozenset(
        flatbuffer.tensor_name(t) for t in tensors if flatbuffer.type_name(t) == "int4"
    )


def _expected_packed(program: IntegerProgram, weights: str) -> frozenset[str]:
    return packed_tensors(program) if weights == "int4" else frozenset()


# ----------------------------------------------------------------------------------------- tensors


def _tensor_list_problems(file: ModelFile, program: IntegerProgram) -> Iterator[str]:
    if len(file.model.subgraphs) != 1:
        yield f"it has {len(file.model.subgraphs)} subgraphs instead of 1"
    names = [flatbuffer.tensor_name(t) for t in file.graph.tensors or ()]
    twice = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if twice:
        yield f"it has several tensors of the name {', '.join(twice)}"
    for name in program.tensors:
        if name not in names:
            yield f"tensor '{name}' is missing"
    for name in names:
        if name not in program.tensors:
            yield f"tensor '{name}' is not the model's"


def _tensor_problems(
    file: ModelFile, found: schema.TensorT, tensor: Tensor, packed: bool
) -> Iterator[str]:
    where = f"tensor '{tensor.name}'"
    kind, expected = flatbuffer.type_name(found), "int4" if packed else tensor.dtype
    if kind != expected:
        yield f"{where} is {kind} instead of {expected}"
    if kind.startswith("float") and tensor.name not in (file_inputs := _names(file, "inputs")):
        yield f"{where} is {kind}; only inputs ({', '.join(file_inputs)}) may be"
    shape = tuple(-1 if size is None else size for size in tensor.shape)
    if flatbuffer.shape(found) != shape:
        yield f"{where} has the shape {flatbuffer.shape(found)} instead of {shape}"
    yield from _scale_problems(where, found, tensor)
    codes = flatbuffer.constant(file.model, found)
    if (codes is None) != (tensor.data is None):
        what = "lacks its data" if codes is None else "is a constant, the model computes it"
        yield f"{where} {what}"
    elif codes is not None and tensor.data is not None:
        yield from _code_problems(where, codes, tensor.data, tensor)


def _scale_problems(where: str, found: schema.TensorT, tensor: Tensor) -> Iterator[str]:
    quantization = found.quantization or schema.QuantizationParametersT()
    scale = np.array([] if quantization.scale is None else quantization.scale, np.float32)
    if not np.array_equal(scale, np.array(tensor.scale, np.float32)):
        yield f"{where} has the scales {_short(scale)} instead of {_short(tensor.scale)}"
    zero_points = [] if quantization.zeroPoint is None else quantization.zeroPoint
    if len(zero_points) != len(tensor.scale) or any(z != tensor.zero_point for z in zero_points):
        yield f"{where} has the zero points {_short(zero_points)} instead of {tensor.zero_point}"
    if len(tensor.scale) > 1 and quantization.quantizedDimension != tensor.axis:
        axis = quantization.quantizedDimension
        yield f"{where} has its scales along axis {axis} instead of {tensor.axis}"


def _code_problems(
    where: str, codes: npt.NDArray[Any], wanted: npt.NDArray[Any], tensor: Tensor
) -> Iterator[str]:
    different = int(np.sum(codes != wanted)) if codes.shape == wanted.shape else codes.size
    if different:
        yield f"{where} stores {different:,} of {codes.size:,} codes other than the model's"
    lowest, highest = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
    if codes.size and (lowest < tensor.lowest or highest > tensor.highest):
        yield (
            f"{where} has codes from {lowest} to {highest}, outside of the range "
            f"[{tensor.lowest}, {tensor.highest}] of its {tensor.bits} bits"
        )


# --------------------------------------------------------------------------------------------- ops


def _interface_problems(file: ModelFile, program: IntegerProgram) -> Iterator[str]:
    for kind, expected in (("inputs", program.inputs), ("outputs", program.outputs)):
        found = _names(file, kind)
        if found != expected:
            yield f"its {kind} are {', '.join(found)} instead of {', '.join(expected)}"


def _op_problems(file: ModelFile, program: IntegerProgram, packed: frozenset[str]) -> Iterator[str]:
    operators = file.graph.operators or []
    for operator in operators:
        name = flatbuffer.op_name(file.model, operator)
        if name in _FOREIGN:
            yield f"it contains the operator {name}"
    if len(operators) != len(program.ops):
        yield f"it has {len(operators)} operators instead of {len(program.ops)}"
    for operator, op in zip(operators, program.ops, strict=False):
        yield from _one_op_problems(file, operator, op, writer.encode(op, program, packed))


def _one_op_problems(
    file: ModelFile, operator: schema.OperatorT, op: Op, expected: writer.Encoding
) -> Iterator[str]:
    where = f"op '{op.name}' ({op.kind})"
    code = flatbuffer.op_code(file.model, operator)
    if code != expected.code:
        name = flatbuffer.op_name(file.model, operator)
        yield f"{where} is {name} instead of {flatbuffer.OP_NAMES[expected.code]}"
        return
    version = file.model.operatorCodes[operator.opcodeIndex].version
    if version != expected.version:
        yield f"{where} has version {version} instead of {expected.version}"
    for kind, wanted in (("inputs", op.inputs), ("outputs", op.outputs)):
        names = _names(file, kind, operator)
        if names != wanted:
            yield f"{where} has the {kind} {', '.join(names)} instead of {', '.join(wanted)}"
    found, wanted_options = _fields(operator.builtinOptions), _fields(expected.options)
    for field, value in wanted_options.items():
        if found.get(field) != value:
            yield f"{where} has {field} {found.get(field)} instead of {value}"


def _metadata_problems(file: ModelFile, program: IntegerProgram) -> Iterator[str]:
    expected = json.loads(json.dumps({"numerics": program.numerics, **program.metadata}))
    different = [key for key in expected if file.metadata.get(key) != expected[key]]
    # A file may be audited against a model loaded later: what was recorded at export stays true.
    if not file.metadata:
        yield "it lacks the metadata that faq_keras writes"
    elif program.metadata and different:
        yield f"its metadata differs in {', '.join(different)}"


# ----------------------------------------------------------------------------------------- details


def _count(file: ModelFile, program: IntegerProgram) -> Audit:
    tensors = {flatbuffer.tensor_name(t): t for t in file.graph.tensors or ()}
    kernel_names = {op.inputs[1] for op in program.ops if op.kind in _WEIGHTED}
    kernels = [tensors[name] for name in sorted(kernel_names)]
    packed = [tensor for tensor in kernels if flatbuffer.type_name(tensor) == "int4"]
    names = [flatbuffer.op_name(file.model, op) for op in file.graph.operators or ()]
    return Audit(
        file_bytes=file.size,
        ops=len(names),
        operators=dict(sorted(collections.Counter(names).items())),
        tensors=len(tensors),
        constants=sum(flatbuffer.raw_data(file.model, t) is not None for t in tensors.values()),
        codes=sum(flatbuffer.element_count(tensor) for tensor in kernels),
        weight_bytes=sum(flatbuffer.byte_count(tensor) or 0 for tensor in kernels),
        packed_tensors=len(packed),
        packed_bytes=sum(flatbuffer.byte_count(tensor) or 0 for tensor in packed),
        float_tensors=sum(flatbuffer.type_name(t).startswith("float") for t in tensors.values()),
    )


def _names(file: ModelFile, kind: str, owner: Any = None) -> tuple[str, ...]:
    """Names of the inputs or outputs of an operator, or of the graph."""
    indices = getattr(file.graph if owner is None else owner, kind)
    tensors = file.graph.tensors
    return (
        tuple(flatbuffer.tensor_name(tensors[int(i)]) for i in indices)
        if indices is not None
        else ()
    )


def _fields(options: Any) -> dict[str, Any]:
    """A table of options as comparable values."""
    values = vars(options).items() if options is not None else ()
    return {key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in values}


def _short(values: Any) -> str:
    text = ", ".join(f"{value:g}" for value in list(values)[:4])
    return f"[{text}{', ...' if len(values) > 4 else ''}]"
