"""Matplotlib drawings as inline SVG that follows the page from light to dark.

A drawing is made in the fixed colours of `STYLE`. In the page each of them becomes a variable of
the style sheet, so that one SVG serves both themes; in a file of its own it keeps them, on white:

    with drawn():                                     # sets STYLE
        figure = Figure(figsize=(8, 3), layout="constrained")
        figure.subplots().plot(values)
    svg = inline_svg(figure, "curves", title="Training", description="Loss falls from 2 to 0.3.")
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

from faq_keras.diagnostics import plots
from faq_keras.files import atomic_write

INK, GRID, ALARM = "#1b1f24", "#d0d7de", "#c62828"
SERIES = (
    "#0b63c4",
    "#c2570c",
    "#12805c",
    "#8a3ffc",
    "#b3146b",
    "#5c6773",
    "#7a6a00",
    "#007a8a",
    "#a33b1f",
)
"""Colours with a contrast of at least 4.5 on white; `page.css` has twins for dark pages."""

PAGE = plots.Style(text=INK, grid=GRID, series=SERIES)
"""The same for `faq_keras.diagnostics.plots`."""

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=SERIES),
    "legend.frameon": False,
}

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_VARIABLES = {INK: "--ink", GRID: "--grid", ALARM: "--alarm"} | {
    color: f"--series-{number}" for number, color in enumerate(SERIES)
}


@contextlib.contextmanager
def drawn() -> Iterator[None]:
    """What is drawn inside has the colours of `STYLE`."""
    with matplotlib.rc_context(STYLE):
        yield


def inline_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """A drawing as an SVG element for a page.

    Args:
        figure: The drawing, made inside `drawn()`.
        name: Unique in the page: prefix of all ids.
        title: Its title, for screen readers.
        description: What it shows, for screen readers.
    """
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(plots.svg(figure))
    for element in list(root):
        if element.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}title"):
            root.remove(element)
    _prefix_ids(root, f"{name}-")
    # At most as large as it was drawn; narrower pages shrink it, the viewBox keeps its proportions.
    root.set("style", f"max-width: {root.attrib.pop('width')}")
    del root.attrib["height"]
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-description")
    for position, (part, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{_SVG}}}{part}")
        element.set("id", f"{name}-{'title' if part == 'title' else 'description'}")
        element.text = text
        root.insert(position, element)
    return _themed(ElementTree.tostring(root, encoding="unicode"))


def save(figure: Figure, path: Path, within: Path | None = None) -> None:
    """Writes a drawing on white in the format of the file's suffix (.svg, .png).

    Args:
        figure: The drawing.
        path: The file.
        within: As for `atomic_write`.
    """
    # Without a date and with fixed ids, the same drawing gives the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with (
        atomic_write(path, within) as partial,
        matplotlib.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}),
    ):
        figure.savefig(partial, dpi=110, facecolor="white", metadata=metadata)


def _prefix_ids(root: ElementTree.Element, prefix: str) -> None:
    """Makes ids unique in the page, with everything that refers to them."""
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, prefix + value)
            elif key in ("href", f"{{{_XLINK}}}href") and value.startswith("#"):
                element.set(key, f"#{prefix}{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{prefix}"))


def _themed(svg: str) -> str:
    pattern = re.compile("|".join(map(re.escape, _VARIABLES)))
    return pattern.sub(lambda match: f"var({_VARIABLES[match[0]]})", svg)
