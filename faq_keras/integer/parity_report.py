"""What a comparison of a written file with its model reports: numbers, never a bare boolean.

The writers' rooms (`tflite.parity`, `converters.qdq_parity`) run their files and count with
`counted`; what they return is the same, whatever the format of the file:

    result = counted(result, want, {"integer reference": own, "onnxruntime": got}, first_image=0)
    report = ParityReport("model.onnx", (RuntimeRun("onnxruntime", 1000, (result,), (), {}),))
    print(report)      # model.onnx: 0 mismatches of 4,825,556 values ...
    report.check()     # ParityError, unless there are none
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from faq_keras.integer import reference
from faq_keras.integer.program import IntegerProgram

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
        top1: Share of the images whose label has the largest of the runtime's logits; None without
            labels.
        expected_top1: The same of the expected logits, the Keras model's; None if unknown.
    """

    runtime: str
    images: int
    results: tuple[TensorResult, ...]
    undelegated: tuple[str, ...]
    versions: Mapping[str, str]
    top1: float | None = None
    expected_top1: float | None = None

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
            f"({self.tensors} tensors, {self.images:,} images; {packages}){self._accuracy()}"
        )

    def _accuracy(self) -> str:
        if self.top1 is None:
            return ""
        expected = "" if self.expected_top1 is None else f", Keras {100 * self.expected_top1:.2f} %"
        return f"; top-1 {100 * self.top1:.2f} %{expected}"


@dataclasses.dataclass(frozen=True)
class ParityReport:
    """The comparison of a file on all runtimes asked for; there is none of nothing.

    Attributes:
        path: The file.
        runs: One per runtime, each with values.
    """

    path: str
    runs: tuple[RuntimeRun, ...]

    def __post_init__(self) -> None:
        if not self.runs or not all(run.values for run in self.runs):
            empty = [run.runtime for run in self.runs if not run.values]
            what = f"in no value on {', '.join(empty)}" if empty else "on no runtime"
            raise ValueError(
                f"'{self.path}' was compared {what}, which proves nothing: name runtimes "
                "and images."
            )

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


def counted(
    old: TensorResult, want: Codes, others: Mapping[str, Codes], first_image: int
) -> TensorResult:
    """Compares a tensor of the next few images and adds what was found.

    Args:
        old: What was found so far.
        want: The expected codes, image first.
        others: What the other parties computed instead, by their names; same shape.
        first_image: Number of the first of these images, for the samples.

    Returns:
        The result with these images in it.
    """
    wide = want.astype(np.float64)
    wrong = np.zeros(want.shape, bool)
    by, samples, largest = old.by, old.samples, old.largest_difference
    for party, got in others.items():
        if np.array_equal(got, want):
            continue
        difference = np.abs(got.astype(np.float64) - wide)
        wrong |= difference > 0
        largest = max(largest, int(np.ceil(difference.max())))
        if not samples:
            by, samples = party, _samples(old.name, want, got, first_image)
    return dataclasses.replace(
        old,
        values=old.values + want.size,
        mismatches=old.mismatches + int(wrong.sum()),
        largest_difference=largest,
        by=by,
        samples=samples,
    )


def split(batch: Batch, program: IntegerProgram) -> Iterator[dict[str, Codes]]:
    """A few images at a time, so that memory stays bounded."""
    feed = {name: batch[name] for name in program.inputs if name in batch}
    count = len(next(iter(reference.check_inputs(program, feed).values())))
    step = min(_IMAGES, reference.images_per_chunk(program))
    for start in range(0, count, step):
        yield {name: codes[start : start + step] for name, codes in batch.items()}


def _samples(name: str, want: Codes, got: Codes, first_image: int) -> tuple[Mismatch, ...]:
    where = np.argwhere(want != got)[:_SAMPLES]
    return tuple(
        Mismatch(
            name,
            (first_image + int(index[0]), *(int(i) for i in index[1:])),
            int(want[tuple(index)]),
            int(got[tuple(index)]),
        )
        for index in where
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
