"""The report of a training run, or of several in one folder: what `faq report` writes.

    document = run_report("runs/first", images_of=lambda run, count: images(run.config, count))
    write(document, Path("runs/first/report"))

A folder with several runs (seeds, precisions, rows of a table) gives a comparison: a line or a row
per run. Layers, ranges and parity are shown for a single run only.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from faq_keras.report import diagnoses, sections
from faq_keras.report.document import Document, Section
from faq_keras.report.measurements import RUNTIMES, Images, Measurements
from faq_keras.report.runs import Run, left_out, runs_in
from faq_keras.tflite.runtimes import names_of


def run_report(
    workdir: str | os.PathLike[str],
    images_of: Callable[[Run, int], Images],
    count: int = 64,
    runtimes: tuple[str, ...] = RUNTIMES,
    measure: bool = True,
) -> Document:
    """Reads and measures what is in a folder.

    Args:
        workdir: Folder of a run, or one with runs below it.
        images_of: Gives so many validation images of a run and their classes, as `Measurements`
            takes them.
        count: How many images to measure with.
        runtimes: Runtimes on which the exported file is compared.
        measure: Whether to measure what was not measured yet.

    Raises:
        ValueError: There is no run, no runtime, or one that is unknown.
    """
    runtimes = names_of(runtimes)
    runs = runs_in(workdir)
    pairs = [
        (run, Measurements(run.folder, functools.partial(images_of, run), count, runtimes, measure))
        for run in runs
    ]
    parts = [
        sections.accuracy(runs, left_out(workdir)),
        sections.curves(runs),
        diagnoses.noise(runs),
        diagnoses.similarity(pairs),
    ]
    if len(runs) == 1:
        parts += [diagnoses.activations(pairs[0]), diagnoses.layers(pairs[0])]
        parts += [diagnoses.parity(pairs[0])]
    else:
        parts.append(_singles(runs))
    parts.append(sections.provenance(runs))
    return Document(f"Report: {_title(runs)}", _summary(runs), tuple(parts), {"format": _FORMAT})


_FORMAT = "faq_keras.report/1"


def _title(runs: list[Run]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} training runs"
    return f"{runs[0].result.get('model', runs[0].name)}, {runs[0].bits}"


def _summary(runs: list[Run]) -> str:
    finished = [run for run in runs if run.finished]
    if len(runs) > 1:
        return f"{len(finished)} of {len(runs)} runs are finished."
    run = runs[0]
    if not run.finished:
        what = f"The run {run.name} is {run.progress}; what it left so far is shown."
        return " ".join([what, *_agreement(run)])
    figures = [
        f"{title} {sections.percent(run.result[stage].get('accuracy'))}"
        for stage, title in (("float", "float"), ("quantized", "quantized"), ("trained", "trained"))
        if run.result.get(stage)
    ]
    what = f"Top-1 accuracy: {', '.join(figures)}. Recipe {run.result.get('recipe', 'unknown')}."
    return " ".join([what, *_agreement(run)])


def _agreement(run: Run) -> list[str]:
    """A sentence per output: how close the quantized network was to the float one."""
    if run.plan is None:
        return []
    settings = run.plan.settings
    when = f"after {settings.post_training or 'apply'}"
    return [f"Agreement with the float network {when}: {entry}." for entry in settings.agreement]


def _singles(runs: list[Run]) -> Section:
    example = f"faq report {runs[0].folder}"
    return Section(
        "layers",
        "Layers, ranges, parity",
        text=(f"These are shown in the report of a single run: {example}",),
    )
