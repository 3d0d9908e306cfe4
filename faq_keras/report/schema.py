"""What the files of a run say, checked entry by entry before a report shows any of it.

A folder of a run may come from anywhere and be damaged anyhow. So every JSON text goes through
`parsed` (finite numbers, printable text, little nesting) and then through one of the records here,
which pydantic checks; whatever does not fit is left out and named:

    problems: list[str] = []
    result = validated(Result, parsed(text), "result.json", problems)
    result["float"]["accuracy"]          # a finite number or None
    problems                             # ["result.json: best.epoch: Input should be ..."]
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from faq_keras.texts import one_line

_DEPTH = 24  # of nested lists and dictionaries; configurations have 3
_LARGEST = 1e30  # number that drawings can show
_MOST_LAYERS, _MOST_FIGURES = 1000, 200
_MOST_COUNT = 10**15


def number(value: Any) -> float | None:
    """A finite number that can be drawn, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _LARGEST else None  # NaN compares as False


def parsed(text: str) -> Any:
    """JSON as plain values: finite numbers, printable text on one line, None for what is no number.

    Raises:
        ValueError: It is no JSON, or nested more deeply than any file of a run.
    """
    try:
        return plain(json.loads(text, parse_constant=lambda _name: None))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def plain(value: Any, depth: int = _DEPTH) -> Any:
    """A copy of a JSON value that can be shown and written again, whatever it holds.

    Raises:
        ValueError: It is nested too deeply.
    """
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        fits = abs(value) <= _MOST_COUNT if isinstance(value, int) else math.isfinite(value)
        return value if fits else number(value)
    if not depth:
        raise ValueError("it is nested too deeply")
    if isinstance(value, Mapping):
        return {one_line(str(key)): plain(part, depth - 1) for key, part in value.items()}
    return [plain(part, depth - 1) for part in value]


Number = Annotated[float | None, BeforeValidator(number)]
"""Anything that is no finite number is None: a gap in a curve, a dash in a table."""
Count = Annotated[int, Field(ge=0, le=_MOST_COUNT)]
Step = Annotated[int, Field(ge=0, le=10**9)]
Epochs = Annotated[int, Field(ge=0, le=10**6)]
Layers = Annotated[dict[str, Number], Field(max_length=_MOST_LAYERS)]


class _Record(BaseModel):
    """Fields that a record does not know are kept: `parsed` has made them harmless."""

    model_config = ConfigDict(strict=True, extra="allow")


class Epoch(_Record):
    """A line of `metrics.jsonl`: an epoch, its figures, the states of its layers."""

    __pydantic_extra__: dict[str, Number] = Field(init=False)
    epoch: Epochs
    layers: Annotated[dict[str, Layers], Field(max_length=_MOST_LAYERS)] | None = None

    @pydantic.model_validator(mode="after")
    def _few_figures(self) -> Epoch:
        if len(self.__pydantic_extra__ or {}) > _MOST_FIGURES:
            raise ValueError(f"an epoch has at most {_MOST_FIGURES} figures")
        return self


class Noise(_Record):
    """A line of `gradient_noise.jsonl`."""

    step: Step
    epoch: Epochs = 0
    updates: Step = 0
    layers: Layers | None = None


class Stage(_Record):
    """Metrics of a network."""

    accuracy: Number = None
    top5: Number = None
    loss: Number = None


class Best(_Record):
    """The best epoch."""

    epoch: Epochs
    accuracy: Number = None


class Result(_Record):
    """`result.json`."""

    status: str | None = None
    model: str = "unknown"
    recipe: str | None = None
    plan: str | None = None
    epochs: Epochs | None = None
    seconds: Number = None
    float: Stage | None = None
    quantized: Stage | None = None
    trained: Stage | None = None
    best: Best | None = None
    versions: dict[str, str] | None = None


class Similarity(_Record):
    """Kept figures of `weight_similarity`; what each neuron has is not shown."""

    network: Number
    layers: Layers


class Tensor(_Record):
    """An entry of `activation_statistics`."""

    model_config = ConfigDict(strict=True, extra="ignore")
    name: str
    kind: str
    bits: Annotated[int, Field(ge=2, le=16)]
    exponent: Annotated[int, Field(ge=-60, le=60)]
    signed: bool
    clip: Annotated[float, Field(gt=0, le=_LARGEST)]
    saturation: Annotated[float, Field(ge=0, le=1)]
    zeros: Annotated[float, Field(ge=0, le=1)]
    bits_used: Annotated[float, Field(ge=0, le=16)]
    sqnr: Number
    own_sqnr: Number
    minimum: Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
    maximum: Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
    edges: Annotated[
        list[Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]],
        Field(min_length=2, max_length=1025),
    ]
    histogram: list[Count]

    @pydantic.model_validator(mode="after")
    def _histogram_fits(self) -> Tensor:
        rising = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        if len(self.edges) != len(self.histogram) + 1 or not rising:
            raise ValueError("edges have to rise and to be one more than the histogram's entries")
        return self


class Activations(_Record):
    """Kept figures of `activation_statistics`."""

    model: str
    images: Annotated[int, Field(ge=1, le=_MOST_COUNT)]
    tensors: Annotated[list[Tensor], Field(min_length=1, max_length=_MOST_LAYERS)]


class Row(_Record):
    """An operator of a file, as `tflite.inspect` lists it."""

    op: str
    name: str
    scale: str
    weight_bytes: Count
    bits: Count | None = None
    weight_bits: Count | None = None


class Time(_Record):
    """An operator's time."""

    name: str
    us: Number


class Benchmark(_Record):
    """What `tflite.benchmark` measured."""

    median_us: Annotated[float, Field(ge=0, le=_LARGEST)]
    num_runs: Annotated[int, Field(ge=1, le=_MOST_COUNT)]
    ops: Annotated[list[Time], Field(max_length=10 * _MOST_LAYERS)] | None = None


class ParityRun(_Record):
    """The comparison on one runtime, of something."""

    runtime: str
    mismatches: Count
    values: Annotated[int, Field(ge=1, le=_MOST_COUNT)]
    tensors: Annotated[int, Field(ge=1, le=_MOST_COUNT)]
    images: Annotated[int, Field(ge=1, le=_MOST_COUNT)]
    top1: Number = None
    expected_top1: Number = None
    versions: dict[str, str] = {}


class Parity(_Record):
    """The comparison of a file; there is none of nothing."""

    path: str = ""
    mismatches: Count
    values: Annotated[int, Field(ge=1, le=_MOST_COUNT)]
    runs: Annotated[list[ParityRun], Field(min_length=1, max_length=100)]


class Deployment(_Record):
    """Kept figures of the exported file."""

    file: str
    bytes: Count
    rows: Annotated[list[Row], Field(min_length=1, max_length=_MOST_LAYERS)]
    benchmark: Benchmark
    parity: Parity


class Kept(_Record):
    """A file of `measured`: figures with what they were made from."""

    of: dict[str, str]
    settings: dict[str, Any]
    data: dict[str, Any]


def checked(record: type[BaseModel], data: Any) -> dict[str, Any]:
    """The fields of a record that were given, as plain JSON types.

    Raises:
        ValueError: Something does not fit; all of it is named.
    """
    try:
        return record.model_validate(data).model_dump(exclude_unset=True)
    except pydantic.ValidationError as error:
        raise ValueError("; ".join(said for _, said in _faults(error))) from error


def validated(record: type[BaseModel], data: Any, name: str, problems: list[str]) -> dict[str, Any]:
    """The same without the entries that do not fit, which are named in `problems`.

    Args:
        record: What is expected.
        data: The JSON object.
        name: The file.
        problems: Gets a sentence per entry.
    """
    if not isinstance(data, dict):
        problems.append(f"{name} does not hold a JSON object and was left out.")
        return {}
    rest = dict(data)
    try:
        return record.model_validate(rest).model_dump(exclude_unset=True)
    except pydantic.ValidationError as error:
        for field, said in _faults(error):
            problems.append(f"{name}: {said}; it was left out.")
            rest.pop(field, None)
    try:
        return record.model_validate(rest).model_dump(exclude_unset=True)
    except pydantic.ValidationError:
        return {}


def _faults(error: pydantic.ValidationError, most: int = 5) -> list[tuple[str, str]]:
    """The entry at fault and a sentence, for the first few."""
    found = [
        (str(fault["loc"][0]) if fault["loc"] else "", _said(fault))
        for fault in error.errors(include_url=False, include_input=False)
    ]
    first: dict[str, str] = {}
    for field, said in found:
        first.setdefault(field, said)
    kept = list(first.items())
    return kept if len(kept) <= most else [*kept[:most], *((f, f) for f, _ in kept[most:])]


def _said(fault: Any) -> str:
    place = ".".join(one_line(str(part), 60) for part in fault["loc"])
    return one_line(f"{place}: {fault['msg']}".removeprefix(": "), 300)
