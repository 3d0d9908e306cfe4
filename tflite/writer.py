"""Lays an IntegerProgram into a .tflite file, op by op, without deciding anything.

Every tensor and op of the program becomes one tensor and one operator of the same name, with the
program's scales, zero points and integers. The converter is not involved: it re-derives scales.

    program = lower(q)
    content = to_bytes(program, weights="int4")      # kernels of up to 4 bits: two codes per byte
    write(program, "model.tflite", weights="int4")   # the same, as a file

The batch is written as 1 and marked as resizable. Equal programs give equal files, byte for byte.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from faq_keras.files import atomic_write
from faq_keras.integer.layout import packed_tensors
from faq_keras.integer.program import IntegerProgram, Op, Tensor
from faq_keras.tflite import flatbuffer, int4
from faq_keras.tflite.model_file import METADATA_NAME

WEIGHTS = ("int8", "int4")
SIGNATURE = "serving_default"

Code = schema.BuiltinOperator
Options = schema.BuiltinOptions
_ACTIVATIONS = {
    None: schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}
_PADDINGS = {"same": schema.Padding.SAME, "valid": schema.Padding.VALID}


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How one op is written.

    Attributes:
        code: Builtin operator.
        version: The oldest version of the operator that knows these types.
        runtime: The oldest TensorFlow Lite that has this version (TFLite's `runtime_version.cc`).
        options_type: Which table of options follows.
        options: That table.
    """

    code: int
    version: int
    runtime: str
    options_type: int
    options: Any


def to_bytes(program: IntegerProgram, weights: str = "int8") -> bytes:
    """The file's content.

    Args:
        program: The lowered network.
        weights: "int8", or "int4" to pack the kernels that have at most four bits (`layout` says
            which of them).

    Raises:
        ValueError: If `weights` is neither, or a packed kernel's code needs more than four bits.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"Unknown weights {weights!r}; expected one of {', '.join(WEIGHTS)}.")
    packed = packed_tensors(program) if weights == "int4" else frozenset()
    return flatbuffer.serialize(_build(program, packed))


def write(program: IntegerProgram, path: str | os.PathLike[str], weights: str = "int8") -> None:
    """Writes the file; it appears whole or not at all (see `to_bytes`)."""
    content = to_bytes(program, weights)
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def encode(op: Op, program: IntegerProgram, packed: frozenset[str] = frozenset()) -> Encoding:
    """The operator, version and options of one op (spec: integer-deployment.md, section 2)."""
    return _HANDLERS[op.kind](op, program, packed)


# ------------------------------------------------------------------------------------------- ops


def _conv_2d(op: Op, program: IntegerProgram, packed: frozenset[str]) -> Encoding:
    options = schema.Conv2DOptionsT()
    _set_window(options, op)
    options.dilationHFactor, options.dilationWFactor = op.attributes["dilations"]
    options.fusedActivationFunction = _ACTIVATIONS[op.attributes["activation"]]
    version, runtime = (7, "2.11.0") if op.inputs[1] in packed else (3, "1.14.0")
    return Encoding(Code.CONV_2D, version, runtime, Options.Conv2DOptions, options)


def _depthwise_conv_2d(op: Op, program: IntegerProgram, packed: frozenset[str]) -> Encoding:
    options = schema.DepthwiseConv2DOptionsT()
    _set_window(options, op)
    options.dilationHFactor, options.dilationWFactor = op.attributes["dilations"]
    options.depthMultiplier = op.attributes["depth_multiplier"]
    options.fusedActivationFunction = _ACTIVATIONS[op.attributes["activation"]]
    # Packed is version 7 by TFLite's own table, but the runtimes that run it register only up to 6.
    version, runtime = (6, "2.11.0") if op.inputs[1] in packed else (3, "1.14.0")
    return Encoding(
        Code.DEPTHWISE_CONV_2D, version, runtime, Options.DepthwiseConv2DOptions, options
    )


def _fully_connected(op: Op, program: IntegerProgram, packed: frozenset[str]) -> Encoding:
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = _ACTIVATIONS[op.attributes["activation"]]
    options.keepNumDims = len(program.tensors[op.outputs[0]].shape) > 2
    if len(program.tensors[op.inputs[1]].scale) > 1:  # per channel, packed or not
        version, runtime = 12, "2.17.0"
    elif op.inputs[1] in packed:
        version, runtime = 10, "2.11.0"
    elif program.tensors[op.inputs[0]].dtype == "int16":
        version, runtime = 7, "2.3.0"
    else:
        version, runtime = 4, "1.14.0"
    return Encoding(Code.FULLY_CONNECTED, version, runtime, Options.FullyConnectedOptions, options)


def _add(op: Op, program: IntegerProgram, packed: frozenset[str]) -> Encoding:
    options = schema.AddOptionsT()
    options.fusedActivationFunction = _ACTIVATIONS[op.attributes["activation"]]
    return Encoding(Code.ADD, 2, "1.14.0", Options.AddOptions, options)


def _concatenation(op: Op, program: IntegerProgram, packed: frozenset[str]) -> Encoding:
    options = schema.ConcatenationOptionsT()
    options.axis = op.attributes["axis"]
    return Encoding(Code.CONCATENATION, 2, "1.14.0", Options.ConcatenationOptions, options)


def _pool_2d(op: Op, program: IntegerProgram, packed: frozenset[str]) -> Encoding:
    options = schema.Pool2DOptionsT()
    _set_window(options, op)
    options.filterHeight, options.filterWidth = op.attributes["pool_size"]
    code = Code.MAX_POOL_2D if op.kind == "max_pool_2d" else Code.AVERAGE_POOL_2D
    return Encoding(code, 2, "1.14.0", Options.Pool2DOptions, options)


def _mean(op: Op, program: IntegerProgram, packed: frozenset[str]) -> Encoding:
    options = schema.ReducerOptionsT()
    options.keepDims = False
    return Encoding(Code.MEAN, 2, "1.14.0", Options.ReducerOptions, options)


def _pad(op: Op, program: IntegerProgram, packed: frozenset[str]) -> Encoding:
    return Encoding(Code.PAD, 2, "1.14.0", Options.PadOptions, schema.PadOptionsT())


def _reshape(op: Op, program: IntegerProgram, packed: frozenset[str]) -> Encoding:
    options = schema.ReshapeOptionsT()
    options.newShape = np.array(op.attributes["shape"], np.int32)
    return Encoding(Code.RESHAPE, 1, "1.5.0", Options.ReshapeOptions, options)


def _quantize(op: Op, program: IntegerProgram, packed: frozenset[str]) -> Encoding:
    from_float = program.tensors[op.inputs[0]].dtype == "float32"
    version, runtime = (1, "1.14.0") if from_float else (2, "1.15.0")
    return Encoding(
        Code.QUANTIZE, version, runtime, Options.QuantizeOptions, schema.QuantizeOptionsT()
    )


def _softmax(op: Op, program: IntegerProgram, packed: frozenset[str]) -> Encoding:
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    version, runtime = (
        (3, "2.3.0") if program.tensors[op.inputs[0]].dtype == "int16" else (2, "1.14.0")
    )
    return Encoding(Code.SOFTMAX, version, runtime, Options.SoftmaxOptions, options)


def _set_window(options: Any, op: Op) -> None:
    """Strides and padding, which convolutions and pools store alike."""
    options.strideH, options.strideW = op.attributes["strides"]
    options.padding = _PADDINGS[op.attributes["padding"]]


_HANDLERS: Mapping[str, Callable[[Op, IntegerProgram, frozenset[str]], Encoding]] = {
    "conv_2d": _conv_2d,
    "depthwise_conv_2d": _depthwise_conv_2d,
    "fully_connected": _fully_connected,
    "add": _add,
    "concatenation": _concatenation,
    "average_pool_2d": _pool_2d,
    "mean": _mean,
    "max_pool_2d": _pool_2d,
    "pad": _pad,
    "reshape": _reshape,
    "quantize": _quantize,
    "softmax": _softmax,
}


# ----------------------------------------------------------------------------------------- model


class _Buffers:
    """The constants' bytes; equal constants share one buffer. Buffer 0 is empty by convention."""

    def __init__(self) -> None:
        self.all = [schema.BufferT()]
        self._known: dict[tuple[str, bytes], int] = {}

    def add(self, kind: str, data: npt.NDArray[Any]) -> int:
        """Stores an array's bytes (little endian) and returns their index."""
        content = np.ascontiguousarray(data).astype(data.dtype.newbyteorder("<")).tobytes()
        key = (kind, content)
        if key not in self._known:
            self._known[key] = len(self.all)
            self.all.append(schema.BufferT(data=np.frombuffer(content, np.uint8)))
        return self._known[key]


def _build(program: IntegerProgram, packed: frozenset[str]) -> schema.ModelT:
    model, buffers = schema.ModelT(), _Buffers()
    model.version = flatbuffer.VERSION
    model.description = f"faq_keras: {program.name}".encode()
    index = {name: i for i, name in enumerate(program.tensors)}

    graph = schema.SubGraphT(name=b"main")
    graph.tensors = [_tensor(t, t.name in packed, buffers) for t in program.tensors.values()]
    graph.inputs = np.array([index[name] for name in program.inputs], np.int32)
    graph.outputs = np.array([index[name] for name in program.outputs], np.int32)
    model.subgraphs = [graph]

    encodings = [encode(op, program, packed) for op in program.ops]
    codes = list(dict.fromkeys((e.code, e.version) for e in encodings))
    model.operatorCodes = [_operator_code(*code) for code in codes]
    graph.operators = [
        _operator(op, e, codes.index((e.code, e.version)), index)
        for op, e in zip(program.ops, encodings, strict=True)
    ]
    model.signatureDefs = [_signature(program, index)]
    model.metadata = [
        schema.MetadataT(name=name.encode(), buffer=buffers.add("metadata", _bytes(text)))
        for name, text in _metadata(program, encodings).items()
    ]
    model.buffers = buffers.all
    return model


def _tensor(tensor: Tensor, is_packed: bool, buffers: _Buffers) -> schema.TensorT:
    result = schema.TensorT(name=tensor.name.encode(), hasRank=True)
    result.shape = np.array([1 if size is None else size for size in tensor.shape], np.int32)
    if None in tensor.shape:
        result.shapeSignature = np.array(
            [-1 if size is None else size for size in tensor.shape], np.int32
        )
    result.type = flatbuffer.TENSOR_TYPES["int4" if is_packed else tensor.dtype]
    if tensor.data is not None:
        data = int4.pack(tensor.data) if is_packed else tensor.data.astype(tensor.dtype)
        result.buffer = buffers.add("int4" if is_packed else tensor.dtype, data)
    if tensor.scale:
        result.quantization = schema.QuantizationParametersT(
            scale=np.array(tensor.scale, np.float32),
            zeroPoint=np.full(len(tensor.scale), tensor.zero_point, np.int64),
            quantizedDimension=tensor.axis or 0,
        )
    return result


def _operator_code(code: int, version: int) -> schema.OperatorCodeT:
    # Old runtimes read only the byte-sized field, new ones the larger of both.
    return schema.OperatorCodeT(
        deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=version
    )


def _operator(
    op: Op, encoding: Encoding, opcode_index: int, index: Mapping[str, int]
) -> schema.OperatorT:
    return schema.OperatorT(
        opcodeIndex=opcode_index,
        inputs=np.array([index[name] for name in op.inputs], np.int32),
        outputs=np.array([index[name] for name in op.outputs], np.int32),
        builtinOptionsType=encoding.options_type,
        builtinOptions=encoding.options,
    )


def _signature(program: IntegerProgram, index: Mapping[str, int]) -> schema.SignatureDefT:
    def entries(names: tuple[str, ...]) -> list[schema.TensorMapT]:
        return [schema.TensorMapT(name=n.encode(), tensorIndex=index[n]) for n in names]

    return schema.SignatureDefT(
        inputs=entries(program.inputs),
        outputs=entries(program.outputs),
        signatureKey=SIGNATURE.encode(),
    )


def _metadata(program: IntegerProgram, encodings: list[Encoding]) -> dict[str, str]:
    """What the file tells about itself, by entry name.

    `min_runtime_version` is TFLite's convention (16 bytes): the newest of the operators' releases.
    """
    runtime = max(
        (e.runtime for e in encodings),
        key=lambda version: tuple(int(part) for part in version.split(".")),
        default="1.5.0",
    )
    about = {"numerics": program.numerics, **program.metadata}
    return {
        METADATA_NAME: json.dumps(about, sort_keys=True, separators=(",", ":")),
        "min_runtime_version": runtime.ljust(16, "\0"),
    }


def _bytes(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)
