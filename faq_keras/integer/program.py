"""IntegerProgram: the network as a device runs it, nothing but integers, scales and zero points.

`lowering` writes it from a quantized model; `reference` executes it in numpy; the TFLite and ONNX
writers lay it down op by op. They decide nothing: every constant is here in the layout of the
TFLite kernel, on the scale of the plan.

    program = lower(q)
    for op in program.ops:
        print(op.kind, op.inputs, "->", op.outputs)
    codes = reference.run(program, x_codes)          # every intermediate tensor

Layouts: activations `[batch, height, width, channels]` (batch is None), convolution kernels
`[out, height, width, in]`, grouped ones `[out, height, width, in / groups]`, depthwise kernels
`[1, height, width, channels]`, fully connected weights `[out, in]` (from `[batch, ..., in]` to
`[batch, ..., out]`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# Every op kind that a program may contain, with the attributes its `Op` carries.
OP_KINDS: Mapping[str, tuple[str, ...]] = {
    "conv_2d": ("strides", "dilations", "padding", "activation"),
    "depthwise_conv_2d": ("strides", "dilations", "padding", "activation", "depth_multiplier"),
    "fully_connected": ("activation",),
    "add": ("activation",),
    "concatenation": ("axis",),
    "average_pool_2d": ("pool_size", "strides", "padding"),
    "mean": (),
    "max_pool_2d": ("pool_size", "strides", "padding"),
    "pad": (),
    "reshape": ("shape",),
    "quantize": (),
    "softmax": (),
}

# Kernels that look the exponential up in tables of their own: outside of the claim of exactness.
INEXACT_KINDS = ("softmax",)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An integer tensor: `real value = scale * (integer - zero_point)`.

    Attributes:
        name: Unique in the program; a quantized layer's output has the layer's name.
        shape: Batch first and None, for activations; fully known for constants.
        dtype: "int8", "int16", "int32" or "int64": what the runtime holds.
        scale: One float32-exact number per tensor, or one per channel along `axis`; empty for
            shape-like constants.
        zero_point: Integer that stands for 0.0.
        axis: Channel axis of per-channel scales, else None.
        bits: Bits that the codes use (4 in an int8 container, say); 4 and below may be packed.
        lowest: Smallest integer that may occur.
        highest: Largest integer that may occur.
        data: The integers of a constant, of `dtype`; None for an activation.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: tuple[float, ...] = ()
    zero_point: int = 0
    axis: int | None = None
    bits: int = 8
    lowest: int = -128
    highest: int = 127
    data: npt.NDArray[np.integer] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )


@dataclasses.dataclass(frozen=True)
class Op:
    """One integer operation.

    Attributes:
        kind: A key of `OP_KINDS`.
        name: The quantized layer it computes.
        inputs: Tensor names: activations first, then constants (kernel, bias; paddings; shape).
        outputs: Tensor names (always one today).
        attributes: `strides`, `dilations`, `pool_size`: pairs (height, width); `padding`: "same" or
            "valid"; `activation`: None, "relu" or "relu6"; `axis`: that of a concatenation, whose
            inputs all have the output's scale and zero point; `shape`: the target of a reshape, -1
            for the batch.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in OP_KINDS:
            raise ValueError(
                f"Op '{self.name}' has the unknown kind {self.kind!r}; known: "
                f"{', '.join(OP_KINDS)}."
            )
        if set(self.attributes) != set(OP_KINDS[self.kind]):
            raise ValueError(
                f"Op '{self.name}' ({self.kind}) has the attributes {sorted(self.attributes)}, "
                f"expected {sorted(OP_KINDS[self.kind])}."
            )


@dataclasses.dataclass(frozen=True)
class AccumulatorBound:
    """The proof that an accumulator cannot overflow.

    Attributes:
        op: Name of the op.
        bound: Largest magnitude the accumulator (bias included) can reach, from the integer weights
            and the activation range.
    """

    op: str
    bound: int

    @property
    def exact_in_float32(self) -> bool:
        """Whether float32 holds every partial sum exactly, as the float training needs it."""
        return self.bound < 2**24


@dataclasses.dataclass(frozen=True)
class IntegerProgram:
    """A lowered network.

    Attributes:
        name: The Keras model's name.
        tensors: All tensors by name, in order of creation.
        ops: In execution order.
        inputs: Names of the input tensors.
        outputs: Names of the output tensors.
        numerics: The runtime whose rounding the network was trained for.
        bounds: Accumulator bounds of the ops that accumulate.
        metadata: What the written file tells about itself (plan hash, preprocessing, versions ...),
            JSON types.
        fully_connected_1x1: Whether 1x1 convolutions were rewritten for XNNPACK (`layout`); only
            fully connected kernels are packed then.
    """

    name: str
    tensors: Mapping[str, Tensor]
    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numerics: str = "xnnpack"
    bounds: tuple[AccumulatorBound, ...] = ()
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fully_connected_1x1: bool = False

    def activations(self) -> tuple[str, ...]:
        """Names of the tensors that ops compute, in execution order."""
        return tuple(name for op in self.ops for name in op.outputs)
