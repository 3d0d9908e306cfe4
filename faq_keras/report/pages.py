"""Documents as files: one HTML page that needs nothing else, Markdown, JSON.

    write(document, Path("runs/first/report"))      # report.html, report.md, report.json

The page loads nothing (its content security policy forbids it), follows the system's light or dark
theme, and gives the numbers behind each picture as a table. All text is escaped by the template
engine: names of layers and messages come from files of anybody's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from faq_keras.files import atomic_write
from faq_keras.report import pictures
from faq_keras.report.document import Document, Picture

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("faq_keras.report"),
    autoescape=jinja2.select_autoescape(("html",)),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def write(document: Document, stem: Path, picture_files: bool = False) -> list[Path]:
    """Writes a document as `stem` with .html, .md and .json; each file whole or not at all.

    Args:
        document: What to write.
        stem: Path without suffix.
        picture_files: Also write each picture beside it as .svg and .png, which the Markdown shows.

    Returns:
        The files.
    """
    texts = {
        ".html": html(document),
        ".md": markdown(document, f"{stem.name}_" if picture_files else None),
        ".json": json.dumps(document.to_dict(), indent=1, allow_nan=False) + "\n",
    }
    files = []
    for suffix, text in texts.items():
        files.append(stem.with_name(stem.name + suffix))
        with atomic_write(files[-1], within=stem.parent) as partial:
            partial.write_text(text, encoding="utf-8")
    if picture_files:
        for picture in document.pictures:
            for suffix in (".svg", ".png"):
                files.append(stem.with_name(f"{stem.name}_{picture.name}{suffix}"))
                pictures.save(picture.drawing, files[-1], within=stem.parent)
    return files


def html(document: Document) -> str:
    """The page."""
    return _TEMPLATES.get_template("page.html").render(
        document=document, svg=_svg, series=len(pictures.SERIES)
    )


def markdown(document: Document, picture_prefix: str | None = None) -> str:
    """The same for people who read Markdown.

    Args:
        document: The document.
        picture_prefix: Beginning of the names of the pictures' files, or None if there are none.
    """
    template = _TEMPLATES.get_template("page.md")
    return template.render(document=document, picture_prefix=picture_prefix, cell=_cell)


def _svg(picture: Picture) -> markupsafe.Markup:
    """The picture's SVG; safe, since it was made element by element."""
    svg = pictures.inline_svg(picture.drawing, picture.name, picture.title, picture.description)
    return markupsafe.Markup(svg)


def _cell(value: Any) -> str:
    """Text for a cell or a line of Markdown: nothing in it is markup."""
    text = " ".join(str(value).split())
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}" if character != "<" else "&lt;")
    return text
