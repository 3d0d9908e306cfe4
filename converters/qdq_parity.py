"""Proves that a QDQ file computes what was trained: Keras = integer reference = onnxruntime.

onnxruntime rewrites graphs before it runs them, and fused integer kernels need not round as the
graph says. So the file is run twice, as written (`ORT_DISABLE_ALL`) and with every optimization
(`ORT_ENABLE_ALL`, the default), and both count:

    report = compare(codes, program, "model.onnx")
    print(report)      # model.onnx: 0 mismatches of 9,651,112 values ...

All code tensors are compared on a copy in memory that casts them to INT32 outputs (readers and
writers of the codes stay as they are); the outputs of the file as it is are compared as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper

from faq_keras.converters.qdq_graph import codes_name, interface_name
from faq_keras.integer import reference
from faq_keras.integer.parity_report import (
    AS_SHIPPED,
    REFERENCE,
    Batch,
    Codes,
    ParityReport,
    RuntimeRun,
    TensorResult,
    counted,
    split,
)
from faq_keras.integer.program import IntegerProgram, Tensor

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL")


def compare(
    expected: Iterable[Batch], program: IntegerProgram, path: str | os.PathLike[str]
) -> ParityReport:
    """Runs a QDQ file in onnxruntime at both levels and compares every tensor.

    Args:
        expected: Batches of what Keras computes, by the program's tensor names: values of the
            float inputs and codes of the other tensors; only one batch is held.
        program: The program that the file was written from.
        path: The file.

    Returns:
        The report with one run per level, mismatches or not: `check()` turns them into an error.

    Raises:
        ValueError: If there is no image, or the inputs do not fit.
    """
    model = onnx.load(path)
    comparisons = [_Comparison(program, model, level) for level in LEVELS]
    images = 0
    for batch in expected:
        for part in split(batch, program):
            own = reference.run(program, {name: part[name] for name in program.inputs})
            for comparison in comparisons:
                comparison.add(part, own, images)
            images += len(part[program.inputs[0]])
    if not images:
        raise ValueError("There is nothing to compare: no image was given.")
    return ParityReport(os.fspath(path), tuple(c.result(images) for c in comparisons))


class _Comparison:
    """Counts, part by part, what onnxruntime does at one level."""

    def __init__(self, program: IntegerProgram, model: onnx.ModelProto, level: str) -> None:
        self._program = program
        self._runtime = f"onnxruntime {level}"
        self._shipped = _session(model, level)
        self._exposed = _session(_exposed(model, program), level)
        kinds = {op.outputs[0]: op.kind for op in program.ops}
        names = [*kinds, *(name + AS_SHIPPED for name in program.outputs)]
        self._results = {
            name: TensorResult(name, kinds[name.removesuffix(AS_SHIPPED)]) for name in names
        }

    def add(self, part: Batch, own: Mapping[str, Codes], first_image: int) -> None:
        """Compares the next few images."""
        program = self._program
        feed = {interface_name(n): channels_first(part[n]) for n in program.inputs}
        names = program.activations()
        found = self._exposed.run([_exposed_name(name) for name in names], feed)
        for name, codes in zip(names, found, strict=True):
            got = channels_last(codes) + program.tensors[name].zero_point
            parties = {REFERENCE: own[name], self._runtime: got}
            self._count(name, part.get(name, own[name]), parties, first_image)
        outputs = self._shipped.run([interface_name(n) for n in program.outputs], feed)
        for name, values in zip(program.outputs, outputs, strict=True):
            got = _codes_of(channels_last(values), program.tensors[name])
            want = part.get(name, own[name])
            self._count(name + AS_SHIPPED, want, {self._runtime: got}, first_image)

    def _count(
        self, name: str, want: Codes, parties: Mapping[str, Codes], first_image: int
    ) -> None:
        self._results[name] = counted(self._results[name], want, parties, first_image)

    def result(self, images: int) -> RuntimeRun:
        """What was found."""
        versions = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}
        return RuntimeRun(
            self._runtime,
            images,
            tuple(self._results.values()),
            (),
            versions | {"numpy": np.__version__},
        )


def channels_first(x: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """`[batch, height, width, channels]` as the file has it; other shapes stay."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x


def channels_last(x: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """The inverse of `channels_first`."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def _codes_of(values: npt.NDArray[np.generic], tensor: Tensor) -> npt.NDArray[np.float64]:
    """Integers of dequantized values; a value off the grid gives no integer, and so a mismatch."""
    return values.astype(np.float64) / tensor.scale[0] + tensor.zero_point


def _session(model: onnx.ModelProto, level: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _exposed_name(name: str) -> str:
    return f"{name}/exposed"


def _exposed(model: onnx.ModelProto, program: IntegerProgram) -> onnx.ModelProto:
    """A copy whose code tensors can be read."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in program.activations():
        output = _exposed_name(name)
        copy.graph.node.append(
            helper.make_node("Cast", [codes_name(name)], [output], output, to=TensorProto.INT32)
        )
        copy.graph.output.append(helper.make_tensor_value_info(output, TensorProto.INT32, None))
    return copy
