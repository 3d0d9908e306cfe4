"""Cuts a model into its operators: each one a model of its own, with its constants.

    for single in cut(model_file.read("model.tflite")):
        print(single.op, single.name)
        Runner(single.file, "xnnpack", num_threads=1)       # runs just this operator

What the operator computes from (its tensors that are not constants) become the inputs.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import flatbuffer
from faq_keras.tflite.model_file import ModelFile


@dataclasses.dataclass(frozen=True)
class SingleOp:
    """One operator as a model.

    Attributes:
        op: Operator, such as `CONV_2D`.
        name: Name of its first output in the network.
        file: The model; its inputs are called `input_0`, `input_1`, ...
    """

    op: str
    name: str
    file: ModelFile


def cut(file: ModelFile) -> Iterator[SingleOp]:
    """The operators of a file in execution order.

    Raises:
        ValueError: If operators call other subgraphs (loops, conditions).
    """
    if len(file.model.subgraphs) > 1:
        raise ValueError(
            f"'{file.name}' has {len(file.model.subgraphs)} subgraphs: its operators cannot be run "
            "one by one. Leave out the profile."
        )
    for op in file.graph.operators or ():
        name = flatbuffer.tensor_name(file.graph.tensors[int(op.outputs[0])])
        yield SingleOp(flatbuffer.op_name(file.model, op), name, _model(file, op))


def _model(file: ModelFile, op: schema.OperatorT) -> ModelFile:
    source = file.model
    used = _unique([*_indices(op.inputs), *_indices(op.outputs)])
    place = {old: new for new, old in enumerate(used)} | {-1: -1}
    buffers, tensors = [schema.BufferT()], []
    inputs: list[int] = []
    for index in used:
        tensor = copy.copy(file.graph.tensors[index])
        data = source.buffers[tensor.buffer].data
        constant = data is not None and len(data) > 0
        if constant:
            buffers.append(schema.BufferT(data=data))
        elif index in _indices(op.inputs):
            tensor.name = f"input_{len(inputs)}".encode()
            inputs.append(place[index])
        tensor.buffer = len(buffers) - 1 if constant else 0
        tensors.append(tensor)
    alone = copy.copy(op)
    alone.opcodeIndex = 0
    alone.inputs = _vector(place[int(i)] for i in op.inputs)
    alone.outputs = _vector(place[int(i)] for i in op.outputs)
    alone.intermediates = None
    graph = schema.SubGraphT(
        tensors=tensors, inputs=_vector(inputs), outputs=alone.outputs, operators=[alone]
    )
    model = schema.ModelT(
        version=flatbuffer.VERSION,
        operatorCodes=[source.operatorCodes[op.opcodeIndex]],
        subgraphs=[graph],
        buffers=buffers,
    )
    return ModelFile(f"{file.name}, operator {flatbuffer.op_name(source, op)}", model, file.size)


def _indices(vector: Sequence[int] | None) -> list[int]:
    """Tensors in a flatbuffer's vector, without the optional ones that are left out (-1)."""
    return [i for i in flatbuffer.indices(vector) if i >= 0]


def _unique(indices: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(indices))


def _vector(indices: Iterator[int] | Sequence[int]) -> np.ndarray:
    return np.array(list(indices), np.int32)
