"""What the site takes from the code: the help of every command, and docstrings as they are.

A page with the line `<!-- faq: commands -->` gets a section per command there, made of what
`faq COMMAND --help` shows: the docstring of the command's module and its own flags.

    ## faq unpack
    Usage, text, example ... and a table of flags

Docstrings are written to be read in the code. Their indented code and Markdown tables, which
reStructuredText would take for quotations and for lines of verse, become what they mean.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy.typing as npt
from docutils import nodes
from sphinx.util.typing import stringify_annotation

from faq_keras.cli.main import COMMANDS, own_flags

MARK = "<!-- faq: commands -->"
_COLON = "\0"
_ARRAY_LIKE = stringify_annotation(npt.ArrayLike, "smart")
_ARRAY = re.compile(r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[([^\]]*)\]\]")
_UNPRINTABLE = re.compile(r"<factory>|<function [\w.]*(<lambda>)?( at 0x[0-9a-f]+)?>")
_PAGE = re.compile(r"`docs/(\w+)\.md`")
_MARKUP = re.compile(r"([\\*_<>\[\]$|])")


def setup(app: Any) -> dict[str, bool]:
    """Connects all of it to Sphinx."""
    app.connect("source-read", _with_commands)
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
    app.connect("autodoc-process-signature", _signature)
    app.connect("doctree-read", _dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def commands_page() -> str:
    """A Markdown section per command."""
    return "\n\n".join("\n".join(_command(name)) for name in COMMANDS)


def _command(name: str) -> Iterator[str]:
    module = importlib.import_module(f"faq_keras.cli.{name}")
    first, *paragraphs = re.split(r"\n\s*\n", (module.__doc__ or "").strip())
    yield f"## faq {name}\n"
    yield f"{COMMANDS[name][0].upper()}{escaped(COMMANDS[name][1:])}.\n"
    yield from ("```text", first[first.index(f"faq {name}") :].removesuffix("."), "```\n")
    for paragraph in paragraphs:
        if paragraph.startswith("Example: "):
            yield from ("Example:\n", "```bash", paragraph.removeprefix("Example: "), "```\n")
        elif "\n    " in paragraph:  # entries with their continuations indented
            yield from (f"- {escaped(entry)}" for entry in re.split(r"\n(?! )", paragraph))
            yield ""
        else:
            yield f"{escaped(paragraph)}\n"
    yield from ("| flag | default | meaning |", "|---|---|---|")
    for flag in own_flags(module):
        default = "" if flag.default is None else f"`{flag.default_as_str.strip(chr(39))}`"
        yield f"| `--{flag.name}` | {default} | {escaped(flag.help)} |"


def escaped(text: str) -> str:
    """Plain text as Markdown that shows the same; flags become code, named pages links."""
    parts = re.split(r"(`[^`]+`|docs/\w+\.md|--\w[\w.]*\w)", " ".join(text.split()))
    return "".join(map(_escaped_part, parts))


def _escaped_part(part: str) -> str:
    if part.startswith("`"):
        return part
    if part.startswith("docs/"):
        return f"[{part}]({part.removeprefix('docs/')})"
    if part.startswith("--"):
        return f"`{part}`"
    return _MARKUP.sub(r"\\\1", part)


def code_blocks(lines: Iterable[str]) -> Iterator[str]:
    """Marks indented lines behind a blank one as code."""
    blank, inside = True, False
    for line in lines:
        indented = line.startswith("    ")
        if indented and blank and not inside:
            yield from ("::", "")
        inside = indented or (inside and not line.strip())
        blank = not line.strip()
        yield line


def tables(lines: Iterable[str]) -> Iterator[str]:
    """Turns Markdown tables, which docstrings have, into reStructuredText's."""
    row = 0
    for line in lines:
        text = line.strip()
        if not text.startswith("|"):
            row = 0
            yield line
        elif not set(text) <= set("|-: "):
            cells = [cell.strip().replace("*", r"\*") for cell in text.strip("|").split("|")]
            indent = line[: line.index("|")]
            if row == 0:
                yield from (f"{indent}.. list-table::", f"{indent}   :header-rows: 1", "")
            yield f"{indent}   * - {cells[0]}"
            yield from (f"{indent}     - {cell}" for cell in cells[1:])
            row += 1


def without_types(lines: Iterable[str], what: str) -> Iterator[str]:
    """Hides colons where napoleon would take the words before them for a type."""
    hidden = what in ("attribute", "data", "property")
    for line in lines:
        hidden = (hidden or line.strip() in ("Returns:", "Yields:")) and bool(line.strip())
        yield line[:-1].replace(":", _COLON) + line[-1:] if hidden else line


def _with_commands(app: Any, name: str, source: list[str]) -> None:
    if MARK in source[0]:
        source[0] = source[0].replace(MARK, commands_page())


def _before_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list) -> None:
    marked = tables(code_blocks(lines) if what == "module" else lines)
    linked = (_PAGE.sub(r":doc:`docs/\1.md </\1>`", line) for line in marked)
    lines[:] = without_types(linked, what)


def _after_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list) -> None:
    lines[:] = (line.replace(_COLON, ":") for line in lines)


def readable_types(signature: str) -> str:
    """A signature with numpy's aliases by their names, and `...` for what has no literal."""
    text = signature.replace(_ARRAY_LIKE, "~numpy.typing.ArrayLike")
    return _UNPRINTABLE.sub("...", _ARRAY.sub(r"~numpy.typing.NDArray[\1]", text))


def _signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, result: str
) -> tuple[str | None, str | None]:
    return signature and readable_types(signature), result and readable_types(result)


def _dashes(app: Any, tree: nodes.document) -> None:
    """Sphinx writes `name -- text`, and counts on smart quotes to make a dash of it."""
    for text in list(tree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))
