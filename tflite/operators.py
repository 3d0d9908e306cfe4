"""Operands and options that kernels use without looking, one operator at a time.

A missing first input, another operator's options, a stride of zero or scales whose ratio no
multiplier can hold end the process. Shapes are the business of `shapes`:

    for problem in problems(op, code, tensors):
        print(problem)      # lacks one of its 2 inputs or its output
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from faq_keras.tflite import flatbuffer

_Op = schema.BuiltinOperator
# Types of codes, whose kernels read scales without asking whether there are any.
_QUANTIZED_TYPES = ("int4", "int8", "uint8", "int16")
# Operators whose operands are checked further, and how many inputs they cannot lack.
_KNOWN = {
    _Op.ADD: 2,
    _Op.AVERAGE_POOL_2D: 1,
    _Op.CONCATENATION: 1,
    _Op.CONV_2D: 2,
    _Op.DEPTHWISE_CONV_2D: 3,  # its kernels read the bias without asking
    _Op.FULLY_CONNECTED: 2,
    _Op.MAX_POOL_2D: 1,
    _Op.MEAN: 2,
    _Op.MUL: 2,
    _Op.PAD: 2,
    _Op.QUANTIZE: 1,
    _Op.RELU: 1,
    _Op.RESHAPE: 1,
    _Op.SOFTMAX: 1,
    _Op.SUB: 2,
}
# They write to resources, or run another subgraph, and give nothing.
_WITHOUT_OUTPUTS = {_Op.ASSIGN_VARIABLE, _Op.CALL_ONCE, _Op.HASHTABLE_IMPORT}
# Types of input and output of known operators that may differ.
_TURNING = {(_Op.SOFTMAX, "int8", "int16")}
# The same of others: delegates take their inputs before any kernel counts them.
_FOREIGN_INPUTS = {
    1: ("DEQUANTIZE", "LOGISTIC", "RELU6", "TANH"),
    2: (
        "ARG_MAX", "ARG_MIN", "BATCH_MATMUL", "BROADCAST_ARGS", "BROADCAST_TO", "CONV_3D", "CUMSUM",
        "DIV", "EMBEDDING_LOOKUP", "EQUAL", "EXPAND_DIMS", "FILL", "FLOOR_DIV", "FLOOR_MOD",
        "GATHER", "GATHER_ND", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "LOGICAL_AND",
        "LOGICAL_OR", "MAXIMUM", "MINIMUM", "MIRROR_PAD", "NOT_EQUAL", "POW", "PRELU", "REDUCE_ALL",
        "REDUCE_ANY", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR", "REVERSE_SEQUENCE", "REVERSE_V2", "SPLIT", "SQUARED_DIFFERENCE",
        "SUM", "TILE", "TOPK_V2", "TRANSPOSE",
    ),
    3: (
        "BATCH_TO_SPACE_ND", "CONV_3D_TRANSPOSE", "DYNAMIC_UPDATE_SLICE", "PADV2", "RANGE",
        "SCATTER_ND", "SELECT", "SELECT_V2", "SLICE", "SPACE_TO_BATCH_ND", "SPLIT_V",
        "TRANSPOSE_CONV",
    ),
    4: ("ONE_HOT", "SPARSE_TO_DENSE", "STRIDED_SLICE", "SVDF"),
}  # fmt: skip
_REQUIRED_INPUTS = _KNOWN | {
    getattr(_Op, name): count for count, names in _FOREIGN_INPUTS.items() for name in names
}
# Those whose output may have another type than their first input.
_CONVERTING = (_Op.QUANTIZE,)
# The axis of a kernel along which its results lie: there is one scale for each, or one for all.
_KERNEL_AXES = {_Op.CONV_2D: 0, _Op.DEPTHWISE_CONV_2D: 3, _Op.FULLY_CONNECTED: 0}
# What kernels of codes take beside their input: types of the kernel, of the bias.
_KERNEL_TYPES = {
    "int8": (("int2", "int4", "int8"), ("int32",)),
    "uint8": (("int8", "uint8"), ("int32",)),
    "int16": (("int4", "int8"), ("int32", "int64")),
}
# Operators whose second input is a list of sizes or axes.
_WITH_SIZES = (_Op.MEAN, _Op.PAD, _Op.RESHAPE)
# Only these kernels ask whether an input is there.
_WITH_OPTIONAL_INPUTS = frozenset(
    {
        _Op.BIDIRECTIONAL_SEQUENCE_LSTM,
        _Op.BIDIRECTIONAL_SEQUENCE_RNN,
        _Op.CONV_2D,
        _Op.CONV_3D,
        _Op.CONV_3D_TRANSPOSE,
        _Op.CUSTOM,
        _Op.DEPTHWISE_CONV_2D,
        _Op.FULLY_CONNECTED,
        _Op.LSTM,
        _Op.SVDF,
        _Op.TRANSPOSE_CONV,
        _Op.UNIDIRECTIONAL_SEQUENCE_LSTM,
    }
)
# Operators that share a table of options; the others' is named after them.
_SHARED_OPTIONS: Mapping[str, str] = {
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "L2_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
}
# Operators that divide by their options' numbers and so cannot do without.
_NEED_OPTIONS = frozenset(
    {
        _Op.AVERAGE_POOL_2D,
        _Op.CONV_2D,
        _Op.DEPTHWISE_CONV_2D,
        _Op.L2_POOL_2D,
        _Op.MAX_POOL_2D,
        _Op.TRANSPOSE_CONV,
    }
)
_POSITIVE_OPTIONS = (
    "strideH", "strideW", "dilationHFactor", "dilationWFactor", "filterHeight", "filterWidth",
    "depthMultiplier",
)  # fmt: skip
_SUBGRAPH_OPTIONS = (
    "bodySubgraphIndex", "condSubgraphIndex", "comparatorSubgraphIndex",
    "decompositionSubgraphIndex", "elseSubgraphIndex", "initSubgraphIndex", "subgraph",
    "thenSubgraphIndex", "updateComputationSubgraphIndex",
)  # fmt: skip
# Custom operators that LiteRT brings along; they take their options for a flexbuffer of a map.
_FLEXBUFFER_OPS = (b"AudioSpectrogram", b"Mfcc", b"NumericVerify", b"TFLite_Detection_PostProcess")
# Additions first widen their inputs by these bits; the output's step must not be coarser.
_ADDITION_BITS = {"int8": 20, "uint8": 20, "int16": 15}


def _by_compressed_name(names: Any) -> dict[str, str]:
    return {name.removesuffix("Options").replace("_", "").lower(): name for name in names}


_OPTIONS = {name: value for name, value in vars(schema.BuiltinOptions).items() if name[0] != "_"}
_OPTIONS_BY_NAME = _by_compressed_name(_OPTIONS)


def problems(
    op: schema.OperatorT,
    code: int,
    tensors: Sequence[schema.TensorT],
    custom_code: bytes | None = None,
) -> Iterator[str]:
    """What a kernel would trip over in one operator, in words.

    Args:
        op: The operator, whose tensor indices are in range.
        code: Its builtin code.
        tensors: Those of its subgraph.
        custom_code: The name of a custom operator.
    """
    yield from _input_problems(op, code, tensors)
    yield from _option_problems(op, code)
    yield from _custom_problems(op, code, custom_code)


def reference_problems(
    op: schema.OperatorT, code: int, tensors: Sequence[schema.TensorT]
) -> Iterator[str]:
    """What only the reference kernels trip over: others look exponentials up in a table.

    They hold the step of the exponents, in units of 2^-26, in a multiplier above 1. A converted
    network whose logits are all zero has a smaller one.
    """
    values = tensors[int(op.inputs[0])] if code == _Op.SOFTMAX else None
    if values is None or flatbuffer.type_name(values) not in ("int8", "uint8"):
        return
    beta = getattr(op.builtinOptions, "beta", 0.0)
    scale = float(_scales(values)[0]) if is_quantized(values) else 0.0
    if not beta * scale * 2**26 > 1:
        yield f"has the scale {scale:g} and the factor {beta:g}, too small for its kernel"


def is_quantized(tensor: schema.TensorT) -> bool:
    """Whether a tensor has scales."""
    return len(_scales(tensor)) > 0


def called_subgraphs(op: schema.OperatorT) -> set[int]:
    """Indices of the subgraphs that an operator runs."""
    found: set[int] = set()
    for options in (op.builtinOptions, op.builtinOptions2):
        fields = vars(options) if options is not None else {}
        found |= {int(fields[key]) for key in _SUBGRAPH_OPTIONS if key in fields}
        branches = fields.get("branchSubgraphIndices")
        found |= {int(i) for i in branches} if branches is not None else set()
    return found


def _scales(tensor: schema.TensorT) -> Any:
    scale = None if tensor.quantization is None else tensor.quantization.scale
    return () if scale is None else scale


# ------------------------------------------------------------------------------------------- inputs


def _input_problems(
    op: schema.OperatorT, code: int, tensors: Sequence[schema.TensorT]
) -> Iterator[str]:
    inputs, outputs = flatbuffer.indices(op.inputs), flatbuffer.indices(op.outputs)
    used = [tensors[i] for i in inputs + outputs if i != -1]
    if len({is_quantized(t) for t in used if flatbuffer.type_name(t) in _QUANTIZED_TYPES}) > 1:
        yield "mixes quantized tensors with others that lack a scale"
    required = _REQUIRED_INPUTS.get(code, 1 if inputs else 0)
    if code not in _WITH_OPTIONAL_INPUTS:
        required = max(required, len(inputs))
    lacks_output = not outputs and code not in _WITHOUT_OUTPUTS
    if len(inputs) < required or -1 in inputs[:required] or lacks_output:
        yield f"lacks one of its {required} inputs or its output"
    elif code in _KNOWN:
        yield from _known_problems(
            code, [tensors[i] for i in inputs if i != -1], tensors[outputs[0]]
        )


def _known_problems(
    code: int, inputs: Sequence[schema.TensorT], output: schema.TensorT
) -> Iterator[str]:
    """Types and scales of the operators that are known."""
    types = [flatbuffer.type_name(tensor) for tensor in (inputs[0], output)]
    turns = types[0] != types[1] and (code, *types) not in _TURNING
    if turns and code not in _CONVERTING:
        yield f"turns {types[0]} into {types[1]}"
    axis = _KERNEL_AXES.get(code)
    per_tensor = inputs if axis is None else inputs[:1]
    if any(len(_scales(tensor)) > 1 for tensor in per_tensor):
        yield "reads a tensor with several scales as if it had one"
    if axis is not None and len(_scales(inputs[1])) > 1:
        sizes = flatbuffer.indices(inputs[1].shape)
        if len(sizes) <= axis or sizes[axis] != len(_scales(inputs[1])):
            yield f"has a kernel {sizes} with {len(_scales(inputs[1]))} scales"
    wanted: tuple[tuple[str, ...], ...] = (("int32", "int64"),) if code in _WITH_SIZES else ()
    if axis is not None:
        wanted = _KERNEL_TYPES.get(types[0], ())
    for tensor, possible in zip(inputs[1:], wanted, strict=False):  # a bias may be absent
        kind = flatbuffer.type_name(tensor)
        if kind not in possible:
            yield f"reads {types[0]} beside {kind} instead of {' or '.join(possible)}"
    if code in (_Op.ADD, _Op.SUB) and types[1] in _ADDITION_BITS and is_quantized(output):
        yield from _addition_problems(inputs, output, _ADDITION_BITS[types[1]])


def _addition_problems(
    inputs: Sequence[schema.TensorT], output: schema.TensorT, bits: int
) -> Iterator[str]:
    """Kernels hold the ratio of the scales, taken in float32, in a multiplier between 0 and 1."""
    steps = [np.float32(_scales(tensor)[0]) for tensor in (*inputs, output) if is_quantized(tensor)]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        ratio = 2 * max(steps[:-1], default=0) / (np.float32(2**bits) * steps[-1])
    if not 0 < ratio < 1:
        yield f"has scales too far apart: {steps[:-1]} for its inputs, {steps[-1]} for its output"


# ------------------------------------------------------------------------------------------ options


def _option_problems(op: schema.OperatorT, code: int) -> Iterator[str]:
    """Another operator's table, or numbers that kernels divide by or allocate from."""
    name = flatbuffer.OP_NAMES.get(code, "")
    own = _SHARED_OPTIONS.get(name) or _OPTIONS_BY_NAME.get(name.replace("_", "").lower())
    expected = 0 if own is None else _OPTIONS[own]
    if own is not None and op.builtinOptionsType not in (0, expected):
        yield f"has the options of another operator instead of {own}"
    if code in _NEED_OPTIONS and (op.builtinOptions is None or op.builtinOptionsType == 0):
        yield f"lacks its {own}"
    for field in _POSITIVE_OPTIONS:
        value = getattr(op.builtinOptions, field, 1)
        if not 0 < value <= 2**16 and not (field == "depthMultiplier" and value == 0):
            yield f"has the impossible {field} {value}"


def _custom_problems(op: schema.OperatorT, code: int, custom_code: bytes | None) -> Iterator[str]:
    if code != _Op.CUSTOM:
        return
    if op.largeCustomOptionsOffset:
        yield "keeps its options outside of the file's tree"
    if custom_code in _FLEXBUFFER_OPS:
        try:
            options = flexbuffers.Loads(bytes(np.asarray(op.customOptions, np.uint8)))
        except Exception as error:  # garbage may lead to anything
            yield f"has unreadable options ({type(error).__name__})"
        else:
            if not isinstance(options, dict):
                yield f"has options that are no map: {options!r:.40}"
