"""Lays an IntegerProgram into a QDQ ONNX file (opset 21) whose stored codes are the plan's.

The one idea: between a DequantizeLinear and the next QuantizeLinear an op computes in float32 on
values that are whole numbers times a power of two, so its result is exact, and QuantizeLinear
rounds it once, halves to even: XNNPACK's convolution. Kernels that send their halves elsewhere get
a *nudge*: ties (and nothing else) are moved off the middle, by less than half the finest step.

    program = lower(q, input_type="float32")
    write(program, "model.onnx")      # float32 [batch, channels, height, width] in, logits out
    # image -> QuantizeLinear -> DequantizeLinear -> Conv -> Mul -> QuantizeLinear -> ...

| in the program | in the file |
|---|---|
| unsigned 4-bit tensor | UINT4 |
| other unsigned tensor | UINT8 |
| a highest code below the type's (other widths, ReLU6) | Min in front of QuantizeLinear |
| signed tensor, 16-bit logits | INT8, INT16 |
| kernel of up to 4 bits, wider kernel | INT4, INT8; power-of-two scales, per channel |
| bias | INT32 on the grid of input scale times kernel scale |
| what a kernel scale is beyond a power of two (the batch normalization's multiplier) | Mul |

All zero points are 0: a code of the file is the program's integer minus its zero point. The
multiplier stays outside of the Conv: inside of the weights it costs 7 of the 24 bits of sums.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from faq_keras.converters.errors import ConversionError, listed
from faq_keras.converters.qdq_graph import QdqGraph, channels_first, code_type, interface_name
from faq_keras.files import atomic_write
from faq_keras.integer.layout import PACKED_BITS
from faq_keras.integer.program import IntegerProgram, Op, Tensor

OPSET = 21
"""The first one with INT4 and UINT4."""
METADATA_NAME = "faq_keras"


def to_model(program: IntegerProgram) -> onnx.ModelProto:
    """The file's content.

    Args:
        program: The lowered network, with float32 inputs and XNNPACK's rounding.

    Raises:
        ConversionError: If it contains something else; all of it is named.
    """
    _check(program)
    graph = QdqGraph(program)
    for op in program.ops:
        graph.close(op, _HANDLERS[op.kind](graph, op))
    inputs = [_value_info(interface_name(n), program.tensors[n]) for n in program.inputs]
    outputs = [_value_info(interface_name(n), program.tensors[n]) for n in program.outputs]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, program.name, inputs, outputs, list(graph.initializers.values())
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
        producer_name="faq_keras",
    )
    about = {"numerics": program.numerics, **program.metadata}
    helper.set_model_props(model, {METADATA_NAME: json.dumps(about, sort_keys=True)})
    onnx.checker.check_model(model, full_check=True)
    return model


def write(program: IntegerProgram, path: str | os.PathLike[str]) -> None:
    """Writes the file; it appears whole or not at all (see `to_model`)."""
    content = to_model(program).SerializeToString(deterministic=True)
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def _check(program: IntegerProgram) -> None:
    problems = [
        f"input '{name}' is {program.tensors[name].dtype}, not float32 (lower the model with "
        "input_type='float32')"
        for name in program.inputs
        if program.tensors[name].dtype != "float32"
    ]
    problems += [
        f"op '{op.name}' ({op.kind}) has no QDQ form"
        for op in program.ops
        if op.kind not in _HANDLERS
    ]
    if program.numerics != "xnnpack":
        problems.append(f"its rounding is {program.numerics}'s; QDQ follows xnnpack's")
    if problems:
        raise ConversionError(
            f"'{program.name}' cannot be written as QDQ ONNX: {listed(problems)}. Supported: "
            f"{', '.join(_HANDLERS)}."
        )


def _value_info(name: str, tensor: Tensor) -> onnx.ValueInfoProto:
    sizes = tensor.shape[1:]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *channels_first(sizes)])


# ------------------------------------------------------------------------------------- kernel ops


def _conv_2d(graph: QdqGraph, op: Op) -> str:
    kernel = _data(graph, op, 1)  # [out, height, width, in / groups]
    channels = _tensor(graph, op, 0).shape[3]
    assert channels is not None, "channels have a known number"
    groups = channels // kernel.shape[3]
    return _convolution(graph, op, kernel.transpose(0, 3, 1, 2), group=groups)


def _depthwise_conv_2d(graph: QdqGraph, op: Op) -> str:
    kernel = _data(graph, op, 1)  # [1, height, width, in * depth multiplier]
    groups = kernel.shape[3] // op.attributes["depth_multiplier"]
    return _convolution(graph, op, kernel.transpose(3, 0, 1, 2), group=groups)


def _convolution(graph: QdqGraph, op: Op, kernel: npt.NDArray[Any], group: int) -> str:
    inputs, multiplier = _operands(graph, op, kernel)
    y = graph.node(
        "Conv", inputs, f"{op.outputs[0]}/sum", group=group, dilations=op.attributes["dilations"],
        **_window(graph, op, kernel.shape[2:]),
    )  # fmt: skip
    return _multiplied(graph, op, y, multiplier.reshape(-1, 1, 1))


def _fully_connected(graph: QdqGraph, op: Op) -> str:
    inputs, multiplier = _operands(graph, op, _data(graph, op, 1))
    y = graph.node("Gemm", inputs, f"{op.outputs[0]}/sum", transB=1)
    y = _multiplied(graph, op, y, multiplier)
    source, output = _tensor(graph, op, 0), graph.program.tensors[op.outputs[0]]
    finest = source.scale[0] * _tensor(graph, op, 1).scale[0]
    if output.dtype == "int16" and finest < output.scale[0]:
        return graph.half_away(y, op.outputs[0], finest / 2)
    return y


def _operands(
    graph: QdqGraph, op: Op, kernel: npt.NDArray[Any]
) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Values of the input, kernel and bias, and what is left to multiply their sum with.

    A scale is split into a power of two, which weights and bias are stored with, and a number in
    [1, 2), so that sums stay whole numbers of at most 24 bits.
    """
    source, tensor, bias = (_tensor(graph, op, i) for i in range(3))
    mantissa, exponent = np.frexp(np.array(tensor.scale, np.float32))
    power = np.ldexp(np.float32(0.5), exponent)
    packed = tensor.bits <= PACKED_BITS
    codes = np.ascontiguousarray(kernel).astype(ml_dtypes.int4 if packed else np.int8)
    return [
        graph.values(source.name),
        graph.parameters(tensor, codes, power, axis=0),
        graph.parameters(
            bias, _data(graph, op, 2).astype(np.int32), power * np.float32(source.scale[0]), axis=0
        ),
    ], mantissa * np.float32(2)


def _multiplied(graph: QdqGraph, op: Op, y: str, multiplier: npt.NDArray[np.float32]) -> str:
    """The one product that rounds, as in `arithmetic.apply_folded`.

    Without it, onnxruntime 1.31 takes an op with 8-bit weights for one of its integer kernels, also
    at 4-bit activations, for which it has none, and refuses the file: fenced in, as a MaxPool is.
    """
    name = op.outputs[0]
    if (multiplier == 1).all():
        tensor = graph.program.tensors[name]
        types = code_type(tensor), code_type(_tensor(graph, op, 0))
        if TensorProto.UINT4 not in types:
            return y
        highest = (tensor.highest - tensor.zero_point) * tensor.scale[0]
        return graph.at_most(y, highest, f"{name}/fenced")
    return graph.node(
        "Mul", [y, graph.constant(f"{name}/multiplier", multiplier)], f"{name}/scaled"
    )


def _data(graph: QdqGraph, op: Op, index: int) -> npt.NDArray[np.integer]:
    data = _tensor(graph, op, index).data
    assert data is not None, f"'{op.inputs[index]}' has no data"
    return data


def _tensor(graph: QdqGraph, op: Op, index: int) -> Tensor:
    return graph.program.tensors[op.inputs[index]]


# -------------------------------------------------------------------------------------- other ops


def _add(graph: QdqGraph, op: Op) -> str:
    name = op.outputs[0]
    y = graph.node("Add", [graph.values(n) for n in op.inputs], f"{name}/sum")
    finest = min(graph.program.tensors[n].scale[0] for n in op.inputs)
    if finest >= graph.program.tensors[name].scale[0]:
        return y  # nothing to round
    return graph.half_up(y, name, finest)


def _concatenation(graph: QdqGraph, op: Op) -> str:
    """Along the channels: axis 1 here, whatever it is in the program."""
    values = [graph.values(name) for name in op.inputs]
    return graph.node("Concat", values, f"{op.outputs[0]}/joined", axis=1)


def _average_pool_2d(graph: QdqGraph, op: Op) -> str:
    """TFLite rounds the mean of raw integers: the zero point says where "away from zero" is.

    A mean of n codes is a multiple of 1/n from every tie. Windows of odd sizes have no ties.
    """
    name, size = op.outputs[0], op.attributes["pool_size"]
    window = _window(graph, op, size)
    y = graph.node(
        "AveragePool", [graph.values(op.inputs[0])], f"{name}/mean", kernel_shape=size, **window
    )
    area = size[0] * size[1]
    if area % 2 and not any(window["pads"]):
        return y
    tensor = graph.program.tensors[name]
    step = tensor.scale[0]
    return graph.half_away(y, name, step / (4 * area), center=-tensor.zero_point * step)


def _mean(graph: QdqGraph, op: Op) -> str:
    """Never half way between two codes, or exact: QuantizeLinear's rounding does not matter."""
    axes = graph.constant(f"{op.outputs[0]}/axes", np.array([2, 3], np.int64))
    inputs = [graph.values(op.inputs[0]), axes]
    return graph.node("ReduceMean", inputs, f"{op.outputs[0]}/mean", keepdims=0)


def _max_pool_2d(graph: QdqGraph, op: Op) -> str:
    """Fenced in at 4 bits.

    onnxruntime 1.31 moves (de)quantization across a MaxPool, though it has no UINT4 kernel for it,
    and then refuses the file. A Min that changes nothing, on either side, keeps it from that.
    """
    name, size, value = op.outputs[0], op.attributes["pool_size"], graph.values(op.inputs[0])
    tensor = graph.program.tensors[name]
    fenced = code_type(tensor) == TensorProto.UINT4
    highest = (tensor.highest - tensor.zero_point) * tensor.scale[0]
    if fenced:
        value = graph.at_most(value, highest, f"{name}/unpooled")
    window = _window(graph, op, size)
    value = graph.node("MaxPool", [value], f"{name}/max", kernel_shape=size, **window)
    return graph.at_most(value, highest, f"{name}/pooled") if fenced else value


def _window(graph: QdqGraph, op: Op, size: tuple[int, ...]) -> dict[str, Any]:
    """Strides and explicit paddings: the last window says how much "same" adds, odd one last."""
    strides, dilations = op.attributes["strides"], op.attributes.get("dilations", (1, 1))
    before, after = [], []
    for axis in range(2):
        length = _tensor(graph, op, 0).shape[axis + 1]
        outputs = graph.program.tensors[op.outputs[0]].shape[axis + 1]
        assert length is not None and outputs is not None, "pixels have known sizes"
        reach = (size[axis] - 1) * dilations[axis] + 1
        total = max((outputs - 1) * strides[axis] + reach - length, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return {"strides": strides, "pads": before + after}


def _pad(graph: QdqGraph, op: Op) -> str:
    """Pads with 0.0, the program's zero point."""
    (_, rows, columns, _) = _data(graph, op, 1)
    name = op.outputs[0]
    pads = np.array([0, 0, rows[0], columns[0], 0, 0, rows[1], columns[1]], np.int64)
    inputs = [graph.values(op.inputs[0]), graph.constant(f"{name}/pads", pads)]
    return graph.node("Pad", inputs, f"{name}/padded")


def _reshape(graph: QdqGraph, op: Op) -> str:
    """Reshapes in channels-last order, as Keras does, whatever lies in the file."""
    name, value = op.outputs[0], graph.values(op.inputs[0])
    source, target = _tensor(graph, op, 0).shape, op.attributes["shape"]
    if len(source) == 4 and tuple(source[1:3]) != (1, 1):
        value = graph.node("Transpose", [value], f"{name}/channels_last", perm=[0, 2, 3, 1])
    shape = graph.constant(f"{name}/shape", np.array(target, np.int64))
    value = graph.node("Reshape", [value, shape], f"{name}/reshaped")
    if len(target) == 4:
        value = graph.node("Transpose", [value], f"{name}/channels_first", perm=[0, 3, 1, 2])
    return value


def _quantize(graph: QdqGraph, op: Op) -> str:
    """From the float input: halves to even. Between grids: halves up, if there are any."""
    source, output = _tensor(graph, op, 0), graph.program.tensors[op.outputs[0]]
    if source.dtype == "float32":
        return interface_name(source.name)
    value = graph.values(source.name)
    if source.scale[0] >= output.scale[0]:
        return value
    return graph.half_up(value, output.name, source.scale[0])


_HANDLERS: Mapping[str, Callable[[QdqGraph, Op], str]] = {
    "conv_2d": _conv_2d,
    "depthwise_conv_2d": _depthwise_conv_2d,
    "fully_connected": _fully_connected,
    "add": _add,
    "concatenation": _concatenation,
    "average_pool_2d": _average_pool_2d,
    "mean": _mean,
    "max_pool_2d": _max_pool_2d,
    "pad": _pad,
    "reshape": _reshape,
    "quantize": _quantize,
}
