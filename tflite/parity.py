"""Proves that a written file computes what was trained: every value of every tensor, counted.

Three parties are compared: the codes that the caller expects (the Keras model's), the integer
reference under the runtime's own rounding, and the runtime. A value on which they do not all agree
is a mismatch, and a report always says how many values were looked at, on which runtime:

    report = compare(codes, program, "model.tflite", runtimes=("xnnpack",))
    print(report)      # model.tflite: 0 mismatches of 4,825,556 values ... on xnnpack ...
    report.check()     # ParityError, unless there are none

Interpreters hide intermediate tensors, so all of them are compared on a copy in memory that exposes
them; the outputs of the file as it is are compared as well. With labels, a report also tells what
each runtime's rounding means for accuracy.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

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
from faq_keras.integer.rounding import profile, round_alike
from faq_keras.tflite.loader import Runner, computed_tensors, load
from faq_keras.tflite.runtimes import names_of, runtime

__all__ = ["Mismatch", "ParityError", "ParityReport", "RuntimeRun", "TensorResult", "compare"]

# What the name of a runtime ends with in a report if it ran packed kernels as they are.
PACKED = " (packed)"


def compare(
    expected: Batch | Iterable[Batch],
    program: IntegerProgram,
    path: str | os.PathLike[str],
    runtimes: str | Iterable[str] = ("xnnpack",),
    num_threads: int = 1,
    labels: npt.ArrayLike | None = None,
) -> ParityReport:
    """Runs a file and compares every tensor.

    Args:
        expected: Codes by tensor name: of the inputs, and of every other tensor that the caller has
            computed (the Keras model's, rounded as `program.numerics`). Tensors that it lacks, and
            all of them on runtimes that round in another way, are compared with the integer
            reference alone. For many images, an iterable of such mappings: only one is held.
        program: The program that the file was written from.
        path: The file, packed or not.
        runtimes: Names of runtimes, at least one. A program that is laid out as
            `fully_connected_1x1` runs twice on each one with a delegate: unpacked by `load`, and
            packed as the file is.
        num_threads: Threads that each runtime may use.
        labels: The class of each image, an integer: adds the top-1 accuracy to each run.

    Returns:
        The report, mismatches or not: `check()` turns them into an error.

    Raises:
        ValueError: If the file is invalid or another program's, inputs or labels do not fit, or
            there is no runtime or no image.
    """
    classes = None if labels is None else _checked_labels(labels, program)
    names = [op.outputs[0] for op in program.ops]
    runners = [r for name in names_of(runtimes) for r in _runners(program, path, name, num_threads)]
    comparisons = [_Comparison(program, runner) for runner in runners]
    for comparison in comparisons:
        _check_names(names, comparison.runner, os.fspath(path))
    images = 0
    for batch in [expected] if isinstance(expected, Mapping) else expected:
        unknown = sorted(set(batch) - set(program.tensors))
        if unknown:
            raise ValueError(f"The program has no tensors named {', '.join(unknown)}.")
        for part in split(batch, program):
            end = images + len(part[program.inputs[0]])
            wanted = None if classes is None else classes[images:end]
            for comparison in comparisons:
                comparison.add(part, wanted)
            images = end
    if not images:
        raise ValueError("There is nothing to compare: no image was given.")
    if classes is not None and len(classes) != images:
        raise ValueError(f"There are {len(classes):,} labels for {images:,} images.")
    return ParityReport(os.fspath(path), tuple(c.result(images) for c in comparisons))


# ----------------------------------------------------------------------------------------- details


def _runners(
    program: IntegerProgram, path: str | os.PathLike[str], name: str, num_threads: int
) -> Iterator[Runner]:
    """The file as `load` runs it, and packed as it is where the layout claims this to be equal."""
    yield load(path, name, num_threads)
    if program.fully_connected_1x1 and runtime(name).delegates:
        packed = load(path, name, num_threads, keep_packed=True)
        if packed.packed:
            yield packed


class _Comparison:
    """Counts, part by part, what one runtime does."""

    def __init__(self, program: IntegerProgram, runner: Runner) -> None:
        self.runner = runner
        self._program = program
        self._profile = profile(runner.runtime_name)
        self._rounds_as_trained = round_alike(runner.runtime_name, program.numerics)
        self._images = 0
        self._right: dict[str, int] = {}  # by field of `RuntimeRun`
        kinds = {op.outputs[0]: op.kind for op in program.ops if op.kind not in INEXACT_KINDS}
        self._results = {name: TensorResult(name, kind) for name, kind in kinds.items()}
        for name in kinds.keys() & set(program.outputs):
            shipped = name + AS_SHIPPED
            self._results[shipped] = TensorResult(shipped, kinds[name])

    def add(self, part: Batch, labels: Codes | None = None) -> None:
        """Compares the next few images, and counts those whose logits are largest at the label."""
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
        if labels is not None:
            logits = _logits(self._program)
            self._count_right("top1", found[logits], labels)
            if logits in part:
                self._count_right("expected_top1", part[logits], labels)

    def _count_right(self, field: str, logits: Codes, labels: Codes) -> None:
        # One scale for all classes: codes have the order of the values. Too few labels: `compare`.
        right = np.argmax(logits[: len(labels)], axis=-1) == labels
        self._right[field] = self._right.get(field, 0) + int(right.sum())

    def _compare(self, name: str, want: Codes, others: Mapping[str, Codes]) -> None:
        self._results[name] = counted(self._results[name], want, others, self._images)

    def result(self, images: int) -> RuntimeRun:
        """What was found."""
        engine = runtime(self.runner.runtime_name)
        return RuntimeRun(
            engine.name + (PACKED if self.runner.packed else ""),
            images,
            tuple(self._results.values()),
            self.runner.undelegated,
            engine.versions | {"numpy": np.__version__},
            **{field: right / images for field, right in self._right.items()},
        )


def _logits(program: IntegerProgram) -> str:
    """The first output; what it was computed from, if that is a softmax."""
    last = next(op for op in program.ops if program.outputs[0] in op.outputs)
    return last.inputs[0] if last.kind in INEXACT_KINDS else last.outputs[0]


def _checked_labels(labels: npt.ArrayLike, program: IntegerProgram) -> npt.NDArray[np.int64]:
    """Labels as a vector, in the range of the program's classes.

    Raises:
        ValueError: If they are no integers, no vector, out of range, or there are no logits.
    """
    given, shape = np.asarray(labels), program.tensors[_logits(program)].shape
    if len(program.outputs) != 1 or len(shape) != 2:
        raise ValueError(
            f"Labels need a model with one output [batch, classes]; '{program.name}' has "
            f"{len(program.outputs)}, the first of {len(shape)} dimensions. Leave the labels out."
        )
    if given.ndim == 2 and given.shape[1] == 1:  # as Keras' CIFAR-10 has them
        given = given[:, 0]
    if not np.issubdtype(given.dtype, np.integer) or given.ndim != 1:
        raise ValueError(
            "Labels must be integers [images]; received "
            f"{given.dtype.name} {list(given.shape)}. Leave them out to compare tensors only."
        )
    classes = int(shape[1] or 0)
    if given.size and not 0 <= int(given.min()) <= int(given.max()) < classes:
        raise ValueError(
            f"Labels must lie in 0..{classes - 1}, the model's classes; received "
            f"{int(given.min())} to {int(given.max())}."
        )
    return given.astype(np.int64)


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
