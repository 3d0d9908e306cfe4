r"""Texts from anybody's files, made fit to be shown.

A name in a file may hold anything: line feeds, escape sequences that a terminal obeys, halves of
characters that no file can store. `printable` is for every text that goes to a terminal or a page:

    printable("conv\x1b[2J")      # 'conv\\\\x1b[2J', as Python would write it
    reason_of(error)              # what an exception says, on one line
"""

from __future__ import annotations

_LONGEST = 1000


def printable(text: str) -> str:
    """The text with everything that is no printable character escaped; line feeds stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def one_line(text: str, longest: int = _LONGEST) -> str:
    """A printable text on one line, cut off in the middle if it is longer than `longest`."""
    line = printable(" ".join(text.split()))
    if len(line) <= longest:
        return line
    half = longest // 2
    return f"{line[:half]} ... {line[-half:]}"


def reason_of(error: BaseException, longest: int = _LONGEST) -> str:
    """All that an exception says, on one line; its kind if it says nothing."""
    return one_line(str(error), longest) or type(error).__name__


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
