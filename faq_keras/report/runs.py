"""What training runs left in their folders, read so that nothing is lost silently.

A folder may be half finished, torn by a kill or edited by hand. Whatever cannot be read is left out
and becomes a sentence in `problems`, which the report shows where the part is missing:

    for run in runs_in("runs/first"):
        run.epochs[-1]["val_accuracy"], run.problems
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from faq_keras.archives import read_lines, read_text
from faq_keras.plan import QuantPlan
from faq_keras.report.schema import Epoch, Noise, Result, checked, number, parsed, validated
from faq_keras.texts import one_line, reason_of
from faq_keras.training.experiment import METRICS
from faq_keras.training.workdir import CONFIG, RESULT

PLAN, NOISE = "plan.json", "gradient_noise.jsonl"
_MARKS = (CONFIG, METRICS)  # a folder with one of these is a run
_MOST_LINES, _MOST_CONFIG = 20_000, 2**16
_MOST_SAID = 10  # damaged lines that are named one by one
_DEPTH = 4  # of folders below the one that was named


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        folder: Its folder.
        name: What distinguishes it from the other runs of a report.
        config: Its configuration; empty if unknown.
        result: Accuracies and status; empty if unknown.
        plan: Its plan; None for float networks or if unknown.
        epochs: The lines of its log, one per epoch, in order.
        noise: The lines of its gradient noise, in order.
        problems: What could not be read, in whole sentences.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    plan: QuantPlan | None
    epochs: tuple[Mapping[str, Any], ...]
    noise: tuple[Mapping[str, Any], ...]
    problems: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.result.get("status") == "finished"

    @property
    def progress(self) -> str:
        """How far it came, for people."""
        planned = self.result.get("epochs")
        done = f"{len(self.epochs)} of {planned}" if planned else str(len(self.epochs))
        return "finished" if self.finished else f"not finished: {done} epochs"

    @property
    def bits(self) -> str:
        """Its bits, such as `W4A4` or `float`."""
        if self.plan is None:
            return "float" if self.config.get("bits") == 0 else "unknown"
        return f"W{self.plan.settings.weight_bits}A{self.plan.settings.activation_bits}"


def runs_in(workdir: str | os.PathLike[str]) -> list[Run]:
    """The run in a folder, or all runs in the folders below it.

    Raises:
        ValueError: There is no such folder, or no run in it.
    """
    folder = Path(workdir)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: name the --workdir of a training run.")
    found = _folders(folder, _DEPTH)
    if not found:
        raise ValueError(
            f"{' '.join([*left_out(folder), ''])}There is no training run in {folder} or "
            "below it: none of these folders has a "
            f"{' or a '.join(_MARKS)}. Name the --workdir of `faq train`."
        )
    return [read_run(path, str(path.relative_to(folder)), folder) for path in found]


def left_out(workdir: str | os.PathLike[str]) -> list[str]:
    """A sentence for each folder that is a link: what is measured would be written beyond it."""
    links: list[Path] = []
    _folders(Path(workdir), _DEPTH, links)
    return [
        f"{path} is a link to another folder and was left out: report on that one by itself."
        for path in links
    ]


def read_run(folder: Path, name: str = ".", base: Path | None = None) -> Run:
    """Reads one run; `name` "." stands for the name of the folder."""
    problems: list[str] = []
    epochs = _lines(folder / METRICS, "epoch", Epoch, problems)
    noise = _lines(folder / NOISE, "step", Noise, problems)
    return Run(
        folder=folder,
        name=one_line((base or folder).resolve().name if name == "." else name, 200),
        config=_config(folder / CONFIG, problems),
        result=validated(Result, _object(folder / RESULT, problems), RESULT, problems),
        plan=_plan(folder / PLAN, problems),
        epochs=epochs,
        noise=noise,
        problems=tuple(problems),
    )


def _folders(folder: Path, depth: int, links: list[Path] | None = None) -> list[Path]:
    """Folders of runs; those that are links are not entered, but added to `links`."""
    if any((folder / mark).is_file() for mark in _MARKS):
        return [folder]
    if not depth:
        return []
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    if links is not None:
        links += [path for path in below if path.is_symlink()]
    own = [path for path in below if not path.is_symlink()]
    return [found for path in own for found in _folders(path, depth - 1, links)]


def _text(path: Path, problems: list[str]) -> str | None:
    if not path.is_file():
        return None
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read and was left out: {reason_of(error)}.")
        return None


def _object(path: Path, problems: list[str]) -> Any:
    text = _text(path, problems)
    if text is None:
        return {}
    try:
        return parsed(text)
    except ValueError as error:
        problems.append(f"{path.name} is damaged and was left out: {reason_of(error)}.")
        return {}


def _config(path: Path, problems: list[str]) -> dict[str, Any]:
    data = _object(path, problems)
    if not isinstance(data, dict):
        problems.append(f"{path.name} does not hold a JSON object and was left out.")
        return {}
    if len(json.dumps(data)) > _MOST_CONFIG:
        problems.append(f"{path.name} is larger than any configuration and was left out.")
        return {}
    return data


def _plan(path: Path, problems: list[str]) -> QuantPlan | None:
    text = _text(path, problems)
    if text is None:
        return None
    try:
        return QuantPlan.from_json(text, path.name)
    except ValueError as error:
        problems.append(f"{path.name} was left out: {reason_of(error)}")
        return None


def _lines(
    path: Path, key: str, record: type[BaseModel], problems: list[str]
) -> tuple[dict[str, Any], ...]:
    """The objects of a log by ascending `key`; of several with the same one the last counts."""
    found: dict[int, dict[str, Any]] = {}
    bad: list[str] = []
    try:
        for index, line in enumerate(read_lines(path, torn=True), start=1):
            try:
                data = checked(record, parsed(line))
            except ValueError as error:
                bad.append(f"line {index} is torn or damaged and was left out: {reason_of(error)}.")
                continue
            if len(found) >= _MOST_LINES:
                bad.append(f"more than {_MOST_LINES:,} lines; the later ones were left out.")
                break
            found[int(data[key])] = data
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        bad.append(f"it cannot be read to its end: {reason_of(error)}.")
    problems += [f"{path.name}: {said}" for said in bad[:_MOST_SAID]]
    if len(bad) > _MOST_SAID:
        problems.append(f"{path.name}: {len(bad) - _MOST_SAID} more lines were left out.")
    lines = tuple(found[place] for place in sorted(found))
    problems += _not_finite(path.name, key, lines)
    return lines


def _not_finite(file: str, key: str, lines: tuple[dict[str, Any], ...]) -> list[str]:
    """A sentence for each figure that is not a finite number somewhere."""
    places: dict[str, list[int]] = {}
    for line in lines:
        for name, value in line.items():
            if len(places) > _MOST_SAID:
                break
            if name not in ("layers", key) and number(value) is None:
                places.setdefault(name, []).append(int(line[key]))
    return [
        f"{file}: {name} is not a finite number at {key} {', '.join(map(str, where[:5]))}"
        f"{' and others' if len(where) > 5 else ''}."
        for name, where in places.items()
    ]
