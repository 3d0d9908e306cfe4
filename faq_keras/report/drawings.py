"""The drawings of reports: how training went, and what each layer costs.

Matplotlib figures in the colours of `pictures.STYLE`; those of the diagnostics come from
`faq_keras.diagnostics.plots`.

    figure = training_curves({"seed 1": run.epochs})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from faq_keras.diagnostics.plots import plain_text
from faq_keras.report.pictures import SERIES, drawn
from faq_keras.report.schema import number

_MOST_NAMES = 10  # entries of a legend


def training_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Validation accuracy and loss of each epoch.

    Args:
        runs: Lines of the runs' logs, by name of the run; gaps where a figure is missing.
    """
    with drawn():
        figure = Figure(figsize=(8.5, 3.6), layout="constrained")
        accuracy, loss = figure.subplots(1, 2)
        for index, (name, lines) in enumerate(runs.items()):
            style: dict[str, Any] = {
                "color": SERIES[index % len(SERIES)],
                "marker": "o",
                "markersize": 4,
                "label": plain_text(name),
            }
            epochs = [int(line["epoch"]) + 1 for line in lines]
            shares = _values(lines, "val_accuracy")
            accuracy.plot(epochs, [100 * share for share in shares], **style)
            loss.plot(epochs, _values(lines, "loss"), **style)
            loss.plot(epochs, _values(lines, "val_loss"), linestyle="--", **style | {"label": None})
        accuracy.set_title("Validation accuracy (%)")
        loss.set_title("Loss: training (solid), validation (dashed)")
        longest = max(int(line["epoch"]) + 1 for lines in runs.values() for line in lines)
        for axes in (accuracy, loss):
            axes.set_xlabel("epoch")
            axes.set_xlim(0.5, longest + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if 1 < len(runs) <= _MOST_NAMES:
            figure.legend(
                *accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=2
            )
    return figure


def layer_costs(names: Sequence[str], sizes: Sequence[int], times: Sequence[float]) -> Figure:
    """Bytes of constants and microseconds of each operator.

    Args:
        names: The operators, in execution order.
        sizes: Bytes.
        times: Microseconds.
    """
    with drawn():
        figure = Figure(figsize=(8.5, 1.2 + 0.24 * len(names)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        places = np.arange(len(names))
        left.barh(places, [size / 1024 for size in sizes], color=SERIES[0])
        right.barh(places, times, color=SERIES[1])
        left.set_yticks(places, [_short(name) for name in names])
        left.invert_yaxis()
        left.set_title("Constants (KiB)")
        right.set_title("Time, each operator alone (us)")
        for axes in (left, right):
            axes.grid(visible=False, axis="y")
    return figure


def layer_similarity(runs: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Bars of the cosine between weights before and after training, per layer.

    Args:
        runs: Cosine of each layer (None: no bar), by name of the run; a layer that a run lacks has
            no bar.
    """
    names = list(dict.fromkeys(name for layers in runs.values() for name in layers))
    thickness = 0.8 / len(runs)
    with drawn():
        height = 1.2 + max(0.24, 0.14 * len(runs)) * len(names)
        figure = Figure(figsize=(8.5, height), layout="constrained")
        axes = figure.subplots()
        for index, (run, layers) in enumerate(runs.items()):
            places = np.arange(len(names)) + (index - (len(runs) - 1) / 2) * thickness
            values = [number(layers.get(name)) or 0.0 for name in names]
            color = SERIES[index % len(SERIES)]
            axes.barh(places, values, thickness, label=plain_text(run), color=color)
        axes.set_yticks(np.arange(len(names)), [_short(name) for name in names])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(right=1.02)
        axes.set_xlabel("mean cosine of the neurons' weights before and after training")
        if 1 < len(runs) <= _MOST_NAMES:
            figure.legend(loc="outside lower center", ncols=2)
    return figure


def _values(lines: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [np.nan if (value := number(line.get(key))) is None else value for line in lines]


def _short(name: str, length: int = 28) -> str:
    return plain_text(name if len(name) <= length else f"...{name[3 - length :]}")
