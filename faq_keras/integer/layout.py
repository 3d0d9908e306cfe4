"""1x1 convolutions as fully connected ops: the one form in which XNNPACK takes packed kernels.

XNNPACK has no convolution with two weights in a byte; the stock interpreter then runs its own
kernel, slowly and with another rounding. Its fully connected kernel takes them, one scale per
channel, and a 1x1 convolution with stride 1 is a fully connected layer over every pixel:

    program = fully_connected_1x1(lower(q))
    writer.write(program, "m.tflite", weights="int4")   # packs the fully connected kernels alone

The rewriting decides no number: codes, scales, biases and tensor names stay what they are.
"""

from __future__ import annotations

import dataclasses

from faq_keras.integer.program import IntegerProgram, Op, Tensor

# The widest codes of which a byte holds two.
PACKED_BITS = 4
_WEIGHTED = ("conv_2d", "depthwise_conv_2d", "fully_connected")


def fully_connected_1x1(program: IntegerProgram) -> IntegerProgram:
    """Rewrites the convolutions whose packed kernels XNNPACK takes as fully connected ones.

    These are 1x1, with stride 1 and without groups, from int8 codes, with an even number of input
    channels, more than one output channel, and at most `PACKED_BITS` bits per weight. Dense layers
    of that kind repeat their one scale for every channel, because LiteRT before 2.2 delegates no
    packed kernel with a single scale. Every other op is left alone.

    Args:
        program: A lowered network.

    Returns:
        The same network, marked as `fully_connected_1x1`: kernels `[out, 1, 1, in]` of the
        convolutions have become `[out, in]`.
    """
    tensors = dict(program.tensors)
    ops = []
    for op in program.ops:
        if _is_eligible(op, program):
            tensors[op.inputs[1]] = _flattened(program.tensors[op.inputs[1]])
            op = _as_fully_connected(op)
        elif _is_packable(op, program) and _is_taken_packed(op, program):
            tensors |= {n: _per_channel(program.tensors[n]) for n in op.inputs[1:]}
        ops.append(op)
    return dataclasses.replace(program, tensors=tensors, ops=tuple(ops), fully_connected_1x1=True)


def packed_tensors(program: IntegerProgram) -> frozenset[str]:
    """Names of the kernels that a packed file stores with two codes per byte.

    All of `PACKED_BITS` and fewer; in a program that is laid out as `fully_connected_1x1` those
    that XNNPACK takes packed, so that the file needs no loader. The 16-bit head stays int8 whatever
    its bits: no kernel reads int16 beside packed weights.
    """
    return frozenset(
        op.inputs[1]
        for op in program.ops
        if _is_packable(op, program)
        and (not program.fully_connected_1x1 or _is_taken_packed(op, program))
    )


def _is_eligible(op: Op, program: IntegerProgram) -> bool:
    if op.kind != "conv_2d" or not _is_packable(op, program):
        return False
    kernel, channels = program.tensors[op.inputs[1]], program.tensors[op.inputs[0]].shape[3]
    is_pointwise = kernel.shape[1:3] == (1, 1) and op.attributes["strides"] == (1, 1)
    return is_pointwise and kernel.shape[3] == channels and _is_delegated(kernel)


def _is_packable(op: Op, program: IntegerProgram) -> bool:
    if op.kind not in _WEIGHTED:
        return False
    source, kernel = (program.tensors[name] for name in op.inputs[:2])
    return source.dtype == "int8" and kernel.bits <= PACKED_BITS


def _is_taken_packed(op: Op, program: IntegerProgram) -> bool:
    return op.kind == "fully_connected" and _is_delegated(program.tensors[op.inputs[1]])


def _is_delegated(kernel: Tensor) -> bool:
    """Whether XNNPACK takes it packed: rows of whole bytes, and a scale for each of several."""
    rows, row = kernel.shape[0] or 0, kernel.shape[-1] or 0
    return rows > 1 and row % 2 == 0


def _flattened(kernel: Tensor) -> Tensor:
    shape = (kernel.shape[0], kernel.shape[3])
    data = None if kernel.data is None else kernel.data.reshape(kernel.data.shape[0], -1)
    return dataclasses.replace(kernel, shape=shape, data=data)


def _per_channel(constant: Tensor) -> Tensor:
    """A kernel or a bias with its one scale repeated along the output channels."""
    scale = constant.scale * ((constant.shape[0] or 1) // len(constant.scale))
    return dataclasses.replace(constant, scale=scale, axis=0)


def _as_fully_connected(op: Op) -> Op:
    attributes = {"activation": op.attributes["activation"]}
    return dataclasses.replace(op, kind="fully_connected", attributes=attributes)
