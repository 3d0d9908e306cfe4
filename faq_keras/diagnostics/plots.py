"""The pictures of the diagnostics: the paper's Figures 1 and 2, ranges, and which layers hurt.

Each function returns a matplotlib `Figure` that belongs to nobody (no pyplot, no window system):

    figure = similarity_over_layers({"8 bits": noise8.latest, "4 bits": noise4.latest})
    figure.savefig("figure1.png", dpi=150)
    html = svg(figure)                        # an <svg> element; its text stays text

Backgrounds are transparent. Lines and text of the default style have enough contrast on white and
on near black; `LIGHT` and `DARK` have more on theirs. Series differ in marker or hatch as well as
in colour, and the colours (Okabe and Ito) are told apart with every kind of colour blindness.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from faq_keras.diagnostics.activations import TensorStatistics
from faq_keras.diagnostics.layer_sensitivity import Sensitivity

_MARKERS = ("o", "s", "^", "D", "v", "P")
_HATCHES = ("", "///", "...", "xxx")


@dataclasses.dataclass(frozen=True)
class Style:
    """Colours of a picture.

    Attributes:
        text: Of text and axes.
        grid: Of grid lines.
        series: Of the data, one after the other.
    """

    text: str = "#7a7a7a"
    grid: str = "#7a7a7a55"
    series: tuple[str, ...] = ("#0082c8", "#d55e00", "#009e73", "#cc79a7", "#b08b00")


ANY = Style()
LIGHT = Style("#222222", "#00000022", ("#0072b2", "#d55e00", "#007a5a", "#b8578d", "#8a6d00"))
DARK = Style("#eeeeee", "#ffffff33", ("#56b4e9", "#e69f00", "#2ec4a0", "#e6a3c8", "#f0e442"))


def similarity_over_layers(
    series: Mapping[str, Mapping[str, float | None]], style: Style = ANY
) -> Figure:
    """Figure 1: similarity of intended and quantized steps, a line per precision.

    Args:
        series: Cosine of each layer (None: a gap) by the name of the precision; all have the layers
            of the first.
        style: Colours.

    Raises:
        ValueError: There is nothing to draw, or the layers differ.
    """
    layers = _layers_of(series)
    figure, axes = _figure(style, max(5.0, 0.32 * len(layers) + 2), 3.6)
    places = list(range(1, len(layers) + 1))
    for number, (label, values) in enumerate(series.items()):
        heights = [math.nan if (value := values[name]) is None else value for name in layers]
        axes.plot(places, heights, label=plain_text(label), **_line(style, number))
    _name_layers(axes, places, layers)
    axes.set_ylabel("mean cosine similarity")
    axes.set_ylim(top=1.02)
    axes.axhline(1.0, color=style.text, linewidth=0.8, linestyle=":")
    _legend(axes, style)
    return figure


def similarity_over_updates(
    series: Mapping[str, Sequence[tuple[int, float | None]]], style: Style = ANY
) -> Figure:
    """Similarity during a training.

    Args:
        series: `(update, mean cosine)` pairs, by what the line is called.
        style: Colours.

    Raises:
        ValueError: There is nothing to draw.
    """
    _require(series)
    figure, axes = _figure(style, 6.0, 3.4)
    for number, (label, points) in enumerate(series.items()):
        updates = [update for update, _ in points]
        heights = [math.nan if value is None else value for _, value in points]
        axes.plot(updates, heights, label=plain_text(label), **_line(style, number))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("update")
    axes.set_ylabel("mean cosine similarity")
    _legend(axes, style)
    return figure


def similarity_bars(
    measured: Mapping[str, float | None],
    published: Mapping[str, float] | None = None,
    style: Style = ANY,
) -> Figure:
    """Figure 2: similarity of the weights before and after training, measured beside published.

    Args:
        measured: Mean cosine of the network, by kind of start; None: not measured, no bar.
        published: The paper's values, by the same names.
        style: Colours.

    Raises:
        ValueError: There is nothing to draw.
    """
    _require(measured)
    groups = {"measured": measured, "published": published or {}}
    groups = {title: values for title, values in groups.items() if values}
    figure, axes = _figure(style, max(4.0, 1.6 * len(measured) + 1), 3.4)
    width = 0.8 / len(groups)
    for number, (title, values) in enumerate(groups.items()):
        shift = (number - (len(groups) - 1) / 2) * width
        found = [(place + shift, values.get(name)) for place, name in enumerate(measured)]
        drawn = [(place, value) for place, value in found if value is not None]
        bars = axes.bar(
            [place for place, _ in drawn],
            [value for _, value in drawn],
            width,
            label=title,
            color=style.series[number],
            hatch=_HATCHES[number],
            edgecolor=style.text,
        )
        axes.bar_label(bars, fmt="%.3f", color=style.text, padding=2, fontsize=9)
    axes.set_xticks(range(len(measured)), list(map(plain_text, measured)))
    axes.set_ylabel("mean cosine similarity")
    axes.set_ylim(top=1.15)
    if len(groups) > 1:
        _legend(axes, style, loc="upper left", ncols=2)
    return figure


def activation_histograms(
    tensors: Sequence[TensorStatistics], columns: int = 4, style: Style = ANY
) -> Figure:
    """Histograms of the float activations, each with the line at which its codes end.

    Args:
        tensors: The tensors to draw.
        columns: Histograms side by side.
        style: Colours.

    Raises:
        ValueError: There is nothing to draw.
    """
    _require(tensors)
    columns = min(columns, len(tensors))
    rows = math.ceil(len(tensors) / columns)
    figure = Figure(figsize=(2.9 * columns, 1.9 * rows), layout="constrained")
    figure.patch.set_alpha(0)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, tensor in zip(grid.flat, tensors, strict=False):
        _style_axes(axes, style)
        counts = [count if count else math.nan for count in tensor.histogram]
        axes.stairs(counts, tensor.edges, fill=True, color=style.series[0], baseline=0.5)
        for place in (-tensor.clip, tensor.clip) if tensor.signed else (tensor.clip,):
            axes.axvline(place, color=style.series[1], linewidth=1.6, linestyle="--")
        axes.set_yscale("log")
        title = f"{plain_text(tensor.name)}\n{tensor.bits} bits, step 2^{tensor.exponent}"
        axes.set_title(title, color=style.text, fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in grid.flat[len(tensors) :]:
        axes.remove()
    return figure


def signal_to_noise(tensors: Sequence[TensorStatistics], style: Style = ANY) -> Figure:
    """Signal to noise of each tensor: with the noise of all layers before it, and its own.

    Args:
        tensors: The tensors, in the order of the network.
        style: Colours.

    Raises:
        ValueError: There is nothing to draw.
    """
    _require(tensors)
    figure, axes = _figure(style, max(5.0, 0.28 * len(tensors) + 2), 3.6)
    places = list(range(1, len(tensors) + 1))
    series = {
        "with all noise before it": [tensor.sqnr for tensor in tensors],
        "its own rounding and clipping": [tensor.own_sqnr for tensor in tensors],
    }
    for number, (label, ratios) in enumerate(series.items()):
        heights = [math.nan if ratio is None else ratio for ratio in ratios]
        axes.plot(places, heights, label=plain_text(label), **_line(style, number))
    _name_layers(axes, places, [tensor.name for tensor in tensors])
    axes.set_ylabel("signal / noise in dB")
    _legend(axes, style)
    return figure


def sensitivity_ranking(sensitivity: Sensitivity, most: int = 30, style: Style = ANY) -> Figure:
    """Bars of the layers that lose most when they alone have few bits.

    Args:
        sensitivity: What was measured.
        most: How many layers to draw at most.
        style: Colours.

    Raises:
        ValueError: There is nothing to draw.
    """
    rows = sensitivity.ranked[:most]
    _require(rows)
    figure, axes = _figure(style, 6.4, max(2.4, 0.24 * len(rows) + 1.2))
    places = range(len(rows))
    axes.barh(places, [row.divergence for row in rows], color=style.series[0], height=0.7)
    axes.axvline(
        sensitivity.divergence, color=style.series[1], linestyle="--", label="all layers at 8 bits"
    )
    axes.set_yticks(places, [plain_text(f"{row.name} ({row.bits})") for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("divergence from the float network, nats")
    _legend(axes, style, loc="lower right")
    return figure


def plain_text(text: str) -> str:
    """Text for a drawing in which nothing is a formula: names may have dollar signs."""
    return text.replace("$", r"\$")


def svg(figure: Figure) -> str:
    """The figure as an `<svg>` element; equal figures give equal text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "faq_keras"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _figure(style: Style, width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    _style_axes(axes, style)
    return figure, axes


def _style_axes(axes: Any, style: Style) -> None:
    axes.patch.set_alpha(0)
    axes.tick_params(colors=style.text)
    axes.grid(color=style.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_color(style.text)
        spine.set_visible(side in ("left", "bottom"))
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(style.text)


def _line(style: Style, number: int) -> dict[str, Any]:
    return {
        "color": style.series[number % len(style.series)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "markersize": 4.5,
        "linewidth": 1.6,
    }


def _name_layers(axes: Any, places: Sequence[int], names: Sequence[str]) -> None:
    labels = [plain_text(name) for name in names]
    axes.set_xticks(places, labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)


def _legend(axes: Any, style: Style, **options: Any) -> None:
    axes.legend(frameon=False, labelcolor=style.text, fontsize=9, **options)


def _layers_of(series: Mapping[str, Mapping[str, Any]]) -> list[str]:
    _require(series)
    first, *others = series.items()
    for label, values in others:
        if list(values) != list(first[1]):
            raise ValueError(
                f"{label!r} has other layers than {first[0]!r}: the lines of one picture have to "
                "belong to the same network."
            )
    _require(first[1])
    return list(first[1])


def _require(what: Any) -> None:
    if not what:
        raise ValueError("There is nothing to draw: the measurement is empty.")
