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

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from faq_keras.integer import reference
from faq_keras.integer.program import INEXACT_KINDS, IntegerProgram
from faq_keras.integer.rounding import profile
from faq_keras.tflite.loader import Runner, computed_tensors, load
from faq_keras.tflite.runtimes import runtime

Codes = npt.NDArray[np.generic]
# Codes by tensor name: those of the inputs, and of every other tensor that the caller knows.
Batch = Mapping[str, Codes]

REFERENCE = "integer reference"
AS_SHIPPED = " (file as shipped)"
_SAMPLES = 5
# Images that an interpreter takes at a time; the reference may ask for fewer.
_IMAGES = 32


class Mismatch(NamedTuple):
    """One value that differs.

    Attributes:
        tensor: Name of the tensor.
        index: Where in it, image first.
        expected: The expected code.
        got: The code found instead.
    """

    tensor: str
    index: tuple[int, ...]  # type: ignore[assignment]  # hides tuple.index, on purpose
    expected: int
    got: int


class ParityError(ValueError):
    """A file does not compute what its model computes."""


@dataclasses.dataclass(frozen=True)
class TensorResult:
    """The comparison of one tensor.

    Attributes:
        name: The tensor.
        kind: Kind of the op that computes it.
        values: How many values were compared.
        mismatches: How many differ.
        largest_difference: By how much at most.
        by: Who differed first: the runtime, or the integer reference; empty if nobody did.
        samples: The first few that differ.
    """

    name: str
    kind: str
    values: int = 0
    mismatches: int = 0
    largest_difference: int = 0
    by: str = ""
    samples: tuple[Mismatch, ...] = ()


@dataclasses.dataclass(frozen=True)
class RuntimeRun:
    """The comparison on one runtime.

    Attributes:
        runtime: Its name.
        images: How many images it was run on.
        results: One entry per tensor, in execution order; the file's own outputs come last.
        undelegated: Tensors whose ops the runtime's delegate did not take (slower, not wrong).
        versions: Packages that the result depends on.
    """

    runtime: str
    images: int
    results: tuple[TensorResult, ...]
    undelegated: tuple[str, ...]
    versions: Mapping[str, str]

    @property
    def tensors(self) -> int:
        """How many tensors were compared."""
        return len(self.results)

    @property
    def values(self) -> int:
        """How many values were compared."""
        return sum(result.values for result in self.results)

    @property
    def mismatches(self) -> int:
        """How many values differ."""
        return sum(result.mismatches for result in self.results)

    @property
    def first_mismatch(self) -> Mismatch | None:
        """The first value that differs, in execution order."""
        return next((result.samples[0] for result in self.results if result.samples), None)

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.runtime}: {self.mismatches:,} mismatches of {self.values:,} values "
            f"({self.tensors} tensors, {self.images:,} images; {packages})"
        )


@dataclasses.dataclass(frozen=True)
class ParityReport:
    """The comparison of a file on all runtimes asked for.

    Attributes:
        path: The file.
        runs: One per runtime.
    """

    path: str
    runs: tuple[RuntimeRun, ...]

    @property
    def mismatches(self) -> int:
        """Differing values, over all runtimes."""
        return sum(run.mismatches for run in self.runs)

    @property
    def values(self) -> int:
        """Compared values, over all runtimes."""
        return sum(run.values for run in self.runs)

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.mismatches:,} mismatches of {self.values:,} values"]
        for run in self.runs:
            lines.append(f"  {run}")
            lines += [f"    {_describe(result)}" for result in run.results if result.mismatches]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The report as JSON text."""
        runs = [
            dataclasses.asdict(run)
            | {
                "tensors": run.tensors,
                "values": run.values,
                "mismatches": run.mismatches,
                "first_mismatch": run.first_mismatch,
                "versions": dict(run.versions),
            }
            for run in self.runs
        ]
        totals = {"path": self.path, "mismatches": self.mismatches, "values": self.values}
        return json.dumps(totals | {"runs": runs}, indent=1)

    def check(self) -> ParityReport:
        """Returns the report itself if nothing differs.

        Raises:
            ParityError: Names, for every runtime, the first op that differs, counts and samples.
        """
        problems = []
        for run in self.runs:
            wrong = [result for result in run.results if result.mismatches]
            if wrong:
                others = f"; {len(wrong) - 1} later tensors differ too" if len(wrong) > 1 else ""
                problems.append(f"on {run.runtime}, {_describe(wrong[0])}{others}")
        if problems:
            raise ParityError(
                f"'{self.path}' does not equal its model ({self.mismatches:,} mismatches of "
                f"{self.values:,} values): {'. And '.join(problems)}. Do not deploy it: export the "
                "model again with the installed versions, and report this if it persists."
            )
        return self


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
        for part in _split(batch, program):
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
        old = self._results[name]
        wide = want.astype(np.int64)
        wrong = np.zeros(want.shape, bool)
        by, samples, largest = old.by, old.samples, old.largest_difference
        for party, got in others.items():
            if np.array_equal(got, want):
                continue
            difference = np.abs(got.astype(np.int64) - wide)
            wrong |= difference > 0
            largest = max(largest, int(difference.max()))
            if not samples:
                by, samples = party, self._samples(name, want, got)
        self._results[name] = TensorResult(
            name,
            old.kind,
            old.values + want.size,
            old.mismatches + int(wrong.sum()),
            largest,
            by,
            samples,
        )

    def _samples(self, name: str, want: Codes, got: Codes) -> tuple[Mismatch, ...]:
        where = np.argwhere(want != got)[:_SAMPLES]
        return tuple(
            Mismatch(
                name,
                (self._images + int(index[0]), *(int(i) for i in index[1:])),
                int(want[tuple(index)]),
                int(got[tuple(index)]),
            )
            for index in where
        )

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


def _split(batch: Batch, program: IntegerProgram) -> Iterator[dict[str, Codes]]:
    """A few images at a time, so that memory stays bounded."""
    feed = {name: batch[name] for name in program.inputs if name in batch}
    count = len(next(iter(reference.check_inputs(program, feed).values())))
    step = min(_IMAGES, reference.images_per_chunk(program))
    for start in range(0, count, step):
        yield {name: codes[start : start + step] for name, codes in batch.items()}


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


def _describe(result: TensorResult) -> str:
    samples = ", ".join(
        f"{list(sample.index)} expected {sample.expected} got {sample.got}"
        for sample in result.samples
    )
    return (
        f"op '{result.name}' ({result.kind}): {result.mismatches:,} of {result.values:,} values "
        f"differ by up to {result.largest_difference:,} (first in the {result.by}: {samples})"
    )
