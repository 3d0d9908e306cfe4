"""The nodes and constants of a QDQ ONNX graph in the making; `qdq` says which op becomes what.

graph = QdqGraph(program)
for op in program.ops:
graph.close(op, result_of(graph, op))      # clips, quantizes, dequantizes for the readers
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from faq_keras.integer.program import IntegerProgram, Op, Tensor
from faq_keras.integer.reference import activation_range

_FLOAT_INPUT = "/float32"  # what lowering appends to the name of a float input
# Their codes are those of their input, or lie between them.
_RANGE_KEEPING = ("average_pool_2d", "concatenation", "max_pool_2d", "pad", "reshape")


def interface_name(name: str) -> str:
    """What an input or output tensor of the program is called in the file."""
    return name.removesuffix(_FLOAT_INPUT)


def codes_name(name: str) -> str:
    """What the file calls the codes (QuantizeLinear's output) of a program's tensor."""
    return f"{name}/codes"


def code_type(tensor: Tensor) -> int:
    """The ONNX type that holds an activation tensor's codes, zero point 0."""
    if tensor.dtype == "int16":
        return TensorProto.INT16
    if tensor.lowest < tensor.zero_point:
        return TensorProto.INT8
    return TensorProto.UINT4 if tensor.bits == 4 else TensorProto.UINT8


def channels_first(sizes: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """`(height, width, channels)` becomes `(channels, height, width)`; other shapes stay."""
    return (sizes[-1], *sizes[:-1]) if len(sizes) == 3 else sizes


class QdqGraph:
    """Collects nodes and constants; handlers read `values` and return the name of their result."""

    def __init__(self, program: IntegerProgram) -> None:
        self.program = program
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def node(
        self, kind: str, inputs: list[str], output: str, name: str = "", **attributes: Any
    ) -> str:
        """Adds a node; it is called as its output unless named."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name or output, **attributes))
        return output

    def constant(self, name: str, data: npt.NDArray[Any]) -> str:
        """Adds a constant."""
        self.initializers[name] = numpy_helper.from_array(np.asarray(data), name)
        return name

    def scalar(self, value: float) -> str:
        """A float32 constant, shared by all that use the same number."""
        return self.constant(f"constant/{value!r}", np.array(value, np.float32))

    def values(self, name: str) -> str:
        """The dequantized values of an activation tensor."""
        return name if name in self.program.outputs else f"{name}/values"

    def close(self, op: Op, result: str) -> None:
        """Clips and quantizes what an op computed, and dequantizes it for its readers.

        Unsigned tensors need no lower end: without activation they are means of unsigned ones.
        """
        name = op.outputs[0]
        tensor = self.program.tensors[name]
        step, kind = self.scalar(tensor.scale[0]), code_type(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        _, high = activation_range(tensor, op.attributes.get("activation"))
        high -= tensor.zero_point
        if high < ml_dtypes.iinfo(dtype).max and op.kind not in _RANGE_KEEPING:
            # Not a Clip: onnxruntime 1.31 fails on one in front of UINT4. The lowest code is the
            # type's own.
            result = self.at_most(result, high * tensor.scale[0], f"{name}/clipped")
        zero = self.constant(f"zero/{dtype.name}", np.array(0, dtype))
        codes = self.node("QuantizeLinear", [result, step, zero], codes_name(name))
        self.node(
            "DequantizeLinear", [codes, step, zero], self.values(name), f"{name}/DequantizeLinear"
        )

    def parameters(self, tensor: Tensor, data: npt.NDArray[Any], scale: Any, axis: int) -> str:
        """Stored integers and their DequantizeLinear, per channel or (one scale) per tensor."""
        scale = np.asarray(scale, np.float32)
        per_channel: dict[str, Any] = {"axis": axis} if scale.size > 1 else {}
        inputs = [
            self.constant(f"{tensor.name}/codes", data),
            self.constant(f"{tensor.name}/scale", scale if per_channel else scale.reshape(())),
        ]
        return self.node("DequantizeLinear", inputs, tensor.name, **per_channel)

    def at_most(self, value: str, highest: float, output: str) -> str:
        """Clips from above."""
        return self.node("Min", [value, self.scalar(highest)], output)

    def half_up(self, value: str, name: str, finest: float) -> str:
        """Makes QuantizeLinear round halves up: `value` is a multiple of `finest`."""
        return self.node("Add", [value, self.scalar(finest / 2)], f"{name}/half_up")

    def half_away(self, value: str, name: str, nudge: float, center: float = 0.0) -> str:
        """Makes QuantizeLinear round halves away from `center`; `nudge` is too small for more."""
        shifted = value
        if center:
            shifted = self.node("Sub", [value, self.scalar(center)], f"{name}/centered")
        side = self.node("Sign", [shifted], f"{name}/side")
        nudges = self.node("Mul", [side, self.scalar(nudge)], f"{name}/nudge")
        return self.node("Add", [value, nudges], f"{name}/half_away")
