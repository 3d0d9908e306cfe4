"""Collects an IntegerProgram op by op, and proves that its accumulators cannot overflow.

`lowering` says what is added, from a quantized Keras model:

    builder = ProgramBuilder("int8")
    x = builder.tensor(activation_tensor("image", (None, 32, 32, 3), spec))
    builder.op("max_pool_2d", "pool", [x], builder.like(x, "pool", (None, 16, 16, 3)), **window)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from faq_keras.integer.program import AccumulatorBound, Op, Tensor
from faq_keras.plan import TensorSpec


class ProgramBuilder:
    """Collects the tensors, ops and accumulator bounds of a program.

    Args:
        input_type: Type of the input tensors.
    """

    def __init__(self, input_type: str) -> None:
        self.input_type = input_type
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Op] = []
        self.inputs: dict[str, str] = {}  # name of the model's input -> tensor
        self.joined: dict[tuple[str, ...], str] = {}  # tensors -> their concatenation
        self.bounds: list[AccumulatorBound] = []

    def tensor(self, tensor: Tensor) -> str:
        """Registers a tensor."""
        if tensor.name in self.tensors:
            raise ValueError(
                f"Two layers of the model produce the tensor '{tensor.name}': rename one."
            )
        self.tensors[tensor.name] = tensor
        return tensor.name

    def op(self, kind: str, name: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Appends an op."""
        self.ops.append(Op(kind, name, tuple(inputs), (output,), attributes))
        return output

    def like(self, source: str, name: str, shape: tuple[int | None, ...]) -> str:
        """A tensor with the quantization of another one."""
        return self.tensor(dataclasses.replace(self.tensors[source], name=name, shape=shape))

    def reshape(self, name: str, source: str, shape: tuple[int, ...]) -> str:
        """Appends the op that gives a tensor another shape, `[batch, *shape]`."""
        constant = self.tensor(layout_tensor(f"{name}/shape", np.array((-1, *shape), np.int32)))
        output = self.like(source, name, (None, *shape))
        return self.op("reshape", name, [source, constant], output, shape=(-1, *shape))

    def bound(
        self, layer: Any, source: str, codes: npt.NDArray[Any], bias: npt.NDArray[Any]
    ) -> None:
        """Proves that no accumulator of an op overflows, even for the worst input.

        Args:
            layer: The layer.
            source: Name of its input tensor.
            codes: Weights, `[channels, products]`.
            bias: `[channels]`.
        """
        spec = self.tensors[source]
        low, high = spec.lowest - spec.zero_point, spec.highest - spec.zero_point
        codes = codes.astype(np.int64)
        positive, negative = np.maximum(codes, 0).sum(1), np.minimum(codes, 0).sum(1)
        # Padding gives zero products, so neither end is below 0 for the sum alone.
        highest = np.maximum(positive * high + negative * low, 0) + bias
        lowest = np.minimum(positive * low + negative * high, 0) + bias
        largest_bias = int(np.abs(bias).max())
        worst = int(max(np.abs(highest).max(), np.abs(lowest).max(), largest_bias))
        if worst >= 2**31:
            remedy = "Use fewer bits for its weights or its input."
            if 2 * largest_bias > worst:
                remedy = (
                    f"Its bias alone takes {largest_bias}: beside it, its inputs are tiny. Train "
                    "the float network first, and calibrate with images like its training images."
                )
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) could overflow its 32-bit "
                f"accumulator: its weights and input "
                f"range allow a sum of {worst} (limit {2**31 - 1}). {remedy}"
            )
        self.bounds.append(AccumulatorBound(layer.name, worst))


def activation_tensor(name: str, shape: tuple[int | None, ...], spec: TensorSpec) -> Tensor:
    """The program tensor of an activation: the plan's codes, moved by the zero point."""
    return Tensor(
        name=name,
        shape=(None, *shape[1:]),
        dtype="int16" if spec.bits == 16 else "int8",
        scale=(spec.step,),
        zero_point=spec.zero_point,
        bits=spec.bits,
        lowest=spec.lowest + spec.zero_point,
        highest=spec.highest + spec.zero_point,
    )


def layout_tensor(name: str, data: npt.NDArray[np.int32]) -> Tensor:
    """A constant that says where codes go: paddings, a shape, axes."""
    int32 = np.iinfo(np.int32)
    return Tensor(
        name, data.shape, "int32", bits=32, lowest=int32.min, highest=int32.max, data=data
    )
