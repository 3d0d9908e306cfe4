"""The parts of a run's report that come from its logs: accuracy, curves, noise, provenance.

Each function takes the runs of a report and gives a section; what is missing becomes a notice.

    section = accuracy(runs_in("runs/first"))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from faq_keras.archives import read_json_member
from faq_keras.report import drawings
from faq_keras.report.document import Picture, Section, Table
from faq_keras.report.runs import Run
from faq_keras.report.schema import number
from faq_keras.texts import one_line, reason_of
from faq_keras.training.experiment import METRICS, MODEL, START

_PACKAGES = ("faq_keras", "tensorflow", "keras", "numpy", "ai-edge-litert")
_STAGES = {"float": "float", "quantized": "before training", "trained": "trained"}


def accuracy(runs: Sequence[Run], left_out: Sequence[str] = ()) -> Section:
    """Accuracies of each run: float, right after quantization, after training.

    Args:
        runs: The runs.
        left_out: What else is in the folder, in whole sentences.
    """
    columns = ("run", "bits", "recipe", "state", *_STAGES.values(), "best epoch", "top-5")
    notices = [*left_out]
    notices += [f"{run.name}: {problem}" for run in runs for problem in run.problems]
    notices += [f"{run.name} is {run.progress}." for run in runs if not run.finished]
    notices += [
        f"{run.name}: no epoch was logged, {METRICS} is missing or empty."
        for run in runs
        if not run.epochs
    ]
    table = Table("Top-1 accuracy on the validation images", columns, tuple(map(_row, runs)))
    return Section(
        "accuracy",
        "Accuracy",
        notices=tuple(notices),
        tables=(table,),
        data={run.name: dict(run.result) for run in runs},
    )


def curves(runs: Sequence[Run]) -> Section:
    """Training curves."""
    shown = [run for run in runs if run.epochs]
    if not shown:
        return Section("curves", "Training curves", notices=("There is no logged epoch.",))
    drawing = drawings.training_curves({run.name: run.epochs for run in shown})
    rows = tuple(
        (
            run.name,
            str(int(line["epoch"]) + 1),
            percent(line.get("val_accuracy")),
            digits(line.get("loss")),
            digits(line.get("val_loss")),
            digits(line.get("learning_rate"), ".3g"),
            digits(line.get("seconds"), ".1f"),
        )
        for run in shown
        for line in run.epochs
    )
    columns = ("run", "epoch", "val accuracy", "loss", "val loss", "learning rate", "seconds")
    picture = Picture(
        "training-curves",
        "Training curves",
        " ".join(map(_course, shown)),
        drawing,
        Table("Every epoch", columns, rows),
    )
    return Section(
        "curves",
        "Training curves",
        pictures=(picture,),
        data={run.name: [dict(line) for line in run.epochs] for run in shown},
    )


def provenance(runs: Sequence[Run]) -> Section:
    """What the runs were made from: configuration, seed, versions, hashes."""
    files = tuple(
        (f"{run.name}: {name}", f"{path.stat().st_size:,}", _sha256(path), _keras_version(path))
        for run in runs
        for name in (START, MODEL)
        if (path := run.folder / name).is_file()
    )
    own = {name: metadata.version(name) for name in _PACKAGES}
    versions = {run.name: dict(run.result.get("versions") or {}) for run in runs}
    notices = [f"{run.name}: its configuration is not known." for run in runs if not run.config]
    notices += [f"{name}: its versions are not known." for name, v in versions.items() if not v]
    tables = [
        Table(
            "Networks",
            ("file", "bytes", "SHA-256", "saved by"),
            files,
        ),
        _versions(own, versions),
    ]
    tables[:0] = _configurations({run.name: _flat(run.config) for run in runs if run.config})
    return Section(
        "provenance",
        "Provenance",
        notices=tuple(notices),
        tables=tuple(tables),
        data={
            "versions": versions | {"this report": own},
            "plans": {run.name: run.plan.hash for run in runs if run.plan},
            "configs": {run.name: dict(run.config) for run in runs},
        },
    )


def percent(share: Any) -> str:
    """A share as a percentage; a dash for what is no finite number."""
    value = number(share)
    return "-" if value is None else f"{100 * value:.2f} %"


def digits(value: Any, form: str = ".4f") -> str:
    """A number; a dash for what is no finite one."""
    known = number(value)
    return "-" if known is None else format(known, form)


def _configurations(configs: Mapping[str, Mapping[str, str]]) -> list[Table]:
    """What the runs have in common, and a row per run for what they do not."""
    names = list(dict.fromkeys(name for config in configs.values() for name in config))
    values = {name: [config.get(name, "") for config in configs.values()] for name in names}
    common = tuple((name, found[0]) for name, found in values.items() if len(set(found)) == 1)
    tables = [Table("Configuration", ("field", "value"), common)] if common else []
    different = [name for name, found in values.items() if len(set(found)) > 1]
    if different:
        rows = tuple((n, *(c.get(field, "") for field in different)) for n, c in configs.items())
        tables.append(Table("What differs between the runs", ("run", *different), rows))
    return tables


def _versions(own: Mapping[str, str], runs: Mapping[str, Mapping[str, str]]) -> Table:
    """Versions that trained and that wrote the report; runs with the same ones share a column."""
    shared: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, versions in runs.items():
        shared.setdefault(tuple(sorted(versions.items())), []).append(name)
    trained = {", ".join(names): dict(versions) for versions, names in shared.items() if versions}
    titles = ["training"] if len(shared) == 1 else [f"training of {names}" for names in trained]
    columns = ("package", "this report", *(titles if trained else ()))
    rows = tuple(
        (name, version, *(versions.get(name, "") for versions in trained.values()))
        for name, version in own.items()
    )
    return Table("Versions", columns, rows)


def _row(run: Run) -> tuple[str, ...]:
    stages = [run.result.get(stage) or {} for stage in _STAGES]
    best = run.result.get("best") or {}
    epoch = number(best.get("epoch"))
    shown = "-" if epoch is None else f"{int(epoch) + 1}: {percent(best.get('accuracy'))}"
    return (
        run.name,
        run.bits,
        str(run.result.get("recipe", "-")),
        run.progress,
        *(percent(stage.get("accuracy")) for stage in stages),
        shown,
        percent(stages[-1].get("top5")),
    )


def _course(run: Run) -> str:
    known = [
        (line, v) for line in run.epochs if (v := number(line.get("val_accuracy"))) is not None
    ]
    if not known:
        return f"{run.name}: no epoch has a finite accuracy."
    (first, start), (last, end) = known[0], known[-1]
    return (
        f"{run.name}: validation accuracy {percent(start)} after epoch {int(first['epoch']) + 1}, "
        f"{percent(end)} after epoch {int(last['epoch']) + 1}."
    )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = json.dumps(value)
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _keras_version(path: Path) -> str:
    """Version and date in a .keras file."""
    try:
        facts = read_json_member(path, "metadata.json")
        return one_line(f"Keras {facts['keras_version']}, {facts['date_saved']}", 200)
    except (OSError, KeyError, TypeError, ValueError) as error:
        return f"damaged: {reason_of(error)}"
