"""The figures of the paper, measured: gradient noise over layers, distance from the start.

section = figure1(runs)                        # notices say what was not run
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from faq_keras.diagnostics import plots
from faq_keras.report.diagnoses import noise_picture
from faq_keras.report.document import Picture, Section, Table
from faq_keras.report.measurements import Images, Measurements, NotMeasuredError
from faq_keras.report.pictures import PAGE
from faq_keras.report.runs import number, read_run
from faq_keras.reproduction import published
from faq_keras.reproduction.cells import Measured, notices
from faq_keras.reproduction.runs import Outcome, Runs

_SAME = 0.05  # of cosine: closer values are called equal
_STARTS = {"standard": "pretrained", "from_scratch": "random weights"}
Layers = dict[str, float | None]


def figure1(runs: Runs) -> Section:
    """Figure 1: a line per precision over the layers, the mean of the seeds' last records."""
    series, problems = {}, []
    for row in runs.rows:
        outcomes = runs.outcomes(row.name)
        problems += notices(row.title, outcomes)
        if row.shown and (layers := _noise(outcomes, problems)):
            series[row.title] = layers
    title = "Figure 1: gradient noise over the layers"
    if not series:
        return Section("figure-1", title, notices=tuple(problems))
    return Section(
        "figure-1",
        title,
        text=(_ordering(series), _ends(series)),
        notices=tuple(problems),
        pictures=(noise_picture(series),),
        data=series,
    )


def figure2(runs: Runs) -> Section:
    """Figure 2: mean cosine between initial and final weights, by kind of start."""
    found, problems, data = {}, [], {}
    for row in runs.rows:
        outcomes = runs.outcomes(row.name)
        problems += notices(row.title, outcomes)
        if row.shown:
            name = "from_scratch" if row.config.from_scratch else "standard"
            found[name] = measured = _distance(outcomes, problems)
            data[name] = measured.to_dict() | {"published": published.FIGURE_2[name]}
    rows = tuple(
        (_STARTS[name], f"{published.FIGURE_2[name]:.3f}", measured.shown(3))
        for name, measured in found.items()
    )
    table = Table("Mean cosine over all neurons", ("start", "published", "measured"), rows)
    picture = Picture(
        "distance",
        "Cosine between the weights before and after training",
        "; ".join(f"{start}: published {paper}, measured {own}" for start, paper, own in rows)
        + ".",
        plots.similarity_bars(
            {_STARTS[name]: measured.mean for name, measured in found.items()},
            {_STARTS[name]: value for name, value in published.FIGURE_2.items()},
            PAGE,
        ),
        table,
    )
    return Section(
        "figure-2",
        "Figure 2: distance from the start",
        notices=tuple(problems),
        pictures=(picture,),
        data=data,
    )


def _noise(outcomes: Sequence[Outcome], problems: list[str]) -> Layers:
    """Cosine of each layer at the end of the training, mean over the finished seeds."""
    last = []
    for outcome in outcomes:
        if outcome.status == "finished":
            run = read_run(outcome.folder)
            problems += [f"{outcome.folder}: {problem}" for problem in run.problems]
            last += [record["layers"] for record in run.noise[-1:]]
    names = list(dict.fromkeys(name for layers in last for name in layers))
    return {name: _mean([layers.get(name) for layers in last]) for name in names}


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for v in values if (value := number(v)) is not None]
    return statistics.fmean(known) if known else None


def _ordering(series: dict[str, Layers]) -> str:
    """Whether more bits mean less noise, layer by layer; first and last have 8 bits in all."""
    names = list(next(iter(series.values())))[1:-1]
    lines = [[layers.get(name) for name in names] for layers in series.values()]
    columns = zip(names, zip(*lines, strict=True), strict=True)
    ordered: list[str] = []
    others: list[str] = []
    for name, values in columns:
        known = [value for value in values if value is not None]
        fits = len(known) == len(values) and known == sorted(known, reverse=True)
        (ordered if fits else others).append(name)
    text = (
        f"The similarity falls from {' to '.join(series)} in {len(ordered)} of {len(names)} layers "
        "between the first and the last."
    )
    return f"{text} Not so in {', '.join(others)}." if others else text


def _ends(series: dict[str, Layers]) -> str:
    """How far the precisions lie apart in the first and the last layer."""
    names = list(next(iter(series.values())))
    parts = []
    for place, name in (("first", names[0]), ("last", names[-1])):
        values = [value for layers in series.values() if (value := layers.get(name)) is not None]
        spread = max(values) - min(values) if values else 0.0
        judged = "equal within" if spread <= _SAME else "apart by"
        parts.append(f"the {place} layer, {name}, is {judged} {spread:.3f}")
    return f"Of 8 bits in all networks: {' and '.join(parts)}."


def _distance(outcomes: Sequence[Outcome], problems: list[str]) -> Measured:
    values = []
    for outcome in outcomes:
        if outcome.status != "finished":
            continue
        try:
            value = number(Measurements(outcome.folder, _no_images).similarity()["network"])
        except (NotMeasuredError, ValueError) as error:
            problems.append(f"{outcome.folder}: {error}")
            continue
        if value is not None:
            values.append(value)
    return Measured(tuple(values))


def _no_images(_count: int) -> Images:
    raise ValueError("The distance needs no images.")
