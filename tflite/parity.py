"""Proves that a written file computes what was trained: every value of every tensor, counted.

Three parties are compared: the codes that the caller expects (the Keras model's), the integer
reference under the runtime's own rounding, and the runtime. A value on which they do not all agree
is a mismatch, and a report always says how many values were looked at, on which runtime:

    report = compare(codes, program, "model.tflite", runtimes=("xnnpack",))
    print(report)      # model.tflite: 0 mismatches of 4,825,556 values ... on xnnpack ...
    report.check()     # ParityError, unless there are none

Interpreters hide intermediate tensors, so all of them are compared on a copy in memory that exposes
them; the outputs of the file as it is are compared as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from faq_keras.integer import reference
from faq_keras.integer.parity_report import (
    AS_SHIPPED,
    REFERENCE,
    Batch,
    Codes,
    Mismatch,
    ParityError,
    ParityReport,
    RuntimeRun,
    TensorResult,
    counted,
    split,
)
from faq_keras.integer.program import INEXACT_KINDS, IntegerProgram
from faq_keras.integer.rounding import profile
from faq_keras.tflite.loader import Runner, computed_tensors, load
from faq_keras.tflite.runtimes import runtime

__all__ = ["Mismatch", "ParityError", "ParityReport", "RuntimeRun", "TensorResult", "compare"]


def compare(
    expected: Batch | Iterable[Batch],
    program: IntegerProgram,
    path: str | os.PathLike[str],
    runtimes: Sequence[str] = ("xnnpack",),
    num_threads: int = 1,
) -> ParityReport:
    """Runs a file and compares every tensor.

    Args:
        expected: Codes by tensor name: of the inputs, and of every other tensor that the caller has
            computed (the Keras model's, rounded as `program.numerics`). Tensors that it lacks, and
            all of them on runtimes that round in another way, are compared with the integer
            reference alone. For many images, an iterable of such mappings: only one is held.
        program: The program that the file was written from.
        path: The file, packed or not.
        runtimes: Names of runtimes.
        num_threads: Threads that each runtime may use.

    Returns:
        The report, mismatches or not: `check()` turns them into an error.

    Raises:
        ValueError: If the file is invalid or another program's, or the inputs do not fit.
    """
    names = [op.outputs[0] for op in program.ops]
    comparisons = [_Comparison(program, load(path, name, num_threads)) for name in runtimes]
    for comparison in comparisons:
        _check_names(names, comparison.runner, os.fspath(path))
    images = 0
    for batch in [expected] if isinstance(expected, Mapping) else expected:
        unknown = sorted(set(batch) - set(program.tensors))
        if unknown:
            raise ValueError(f"The program has no tensors named {', '.join(unknown)}.")
        for part in split(batch, program):
            images += len(part[program.inputs[0]])
            for comparison in comparisons:
                comparison.add(part)
    if not images:
        raise ValueError("There is nothing to compare: no image was given.")
    return ParityReport(os.fspath(path), tuple(c.result(images) for c in comparisons))


# ----------------------------------------------------------------------------------------- details


class _Comparison:
    """Counts, part by part, what one runtime does."""

    def __init__(self, program: IntegerProgram, runner: Runner) -> None:
        self.runner = runner
        self._program = program
        self._profile = profile(runner.runtime_name)
        self._rounds_as_trained = runner.runtime_name == program.numerics
        self._images = 0
        kinds = {op.outputs[0]: op.kind for op in program.ops if op.kind not in INEXACT_KINDS}
        self._results = {name: TensorResult(name, kind) for name, kind in kinds.items()}
        for name in kinds.keys() & set(program.outputs):
            shipped = name + AS_SHIPPED
            self._results[shipped] = TensorResult(shipped, kinds[name])

    def add(self, part: Batch) -> None:
        """Compares the next few images."""
        feed = {name: part[name] for name in self._program.inputs}
        computed = reference.run(self._program, feed, self._profile)
        found = self.runner.tensors(feed)
        shipped = self.runner.run_int8(feed)
        for name, own in computed.items():
            if name not in self._results:
                continue  # a softmax: its tables are outside of the claim
            want = part[name] if self._rounds_as_trained and name in part else own
            if want.shape != own.shape:
                raise ValueError(
                    f"The expected codes of '{name}' have the shape {list(want.shape)}, "
                    f"the program computes {list(own.shape)}."
                )
            self._compare(name, want, {REFERENCE: own, self.runner.runtime_name: found[name]})
            if name in self._program.outputs:
                output = shipped[name] if isinstance(shipped, Mapping) else shipped
                self._compare(name + AS_SHIPPED, want, {self.runner.runtime_name: output})
        self._images += len(next(iter(feed.values())))

    def _compare(self, name: str, want: Codes, others: Mapping[str, Codes]) -> None:
        self._results[name] = counted(self._results[name], want, others, self._images)

    def result(self, images: int) -> RuntimeRun:
        """What was found."""
        engine = runtime(self.runner.runtime_name)
        return RuntimeRun(
            engine.name,
            images,
            tuple(self._results.values()),
            self.runner.undelegated,
            engine.versions | {"numpy": np.__version__},
        )


def _check_names(names: Sequence[str], runner: Runner, path: str) -> None:
    computed = set(computed_tensors(runner.file))
    missing = [name for name in names if name not in computed]
    extra = sorted(computed - set(names))
    problems = [f"the file lacks {', '.join(missing)}"] if missing else []
    problems += [f"the model lacks {', '.join(extra)}"] if extra else []
    if problems:
        raise ValueError(
            f"'{path}' was not written from this model: {'; '.join(problems)}. "
            "Export the model again, or name the model that the file came from."
        )
