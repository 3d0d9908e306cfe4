"""The tutorial is a program: its code runs in order, and prints what the page says it prints."""

import ast
import contextlib
import io
import itertools
import re
import textwrap

import pytest

import faq_keras  # noqa: F401 - the code of the page names it
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^( *)```(python|text)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
# What training decides: shares, steps, ranges, hashes; and versions.
_VARIES = re.compile(
    r"\d+\.\d+ %|-?\b[01]\.\d{4,5}\b|2\^-?\d+|\[-?[\d.]+, [\d.]+\]|\b[0-9a-f]{16}\b"
    r"|(?<=litert|.numpy) [\d.]+|-?\d+(?:\.\d+)?(?= std\b| dB\b| ->)"
)


def blocks():
    """The page's blocks in order: language and text."""
    found = _BLOCK.findall(PAGE.read_text())
    return [(language, textwrap.dedent(text)) for _, language, text in found]


def shape_of(text):
    """A text without what varies; the order of its lines may vary, too."""
    return sorted(" ".join(_VARIES.sub("*", line).split()) for line in text.splitlines())


def percentages(text):
    """The accuracies in a text."""
    return list(map(float, re.findall(r"\d+\.\d+(?= %)", text)))


def test_every_output_follows_code():
    languages = [language for language, _ in blocks()]
    assert languages.count("text") >= 10
    assert ("text", "text") not in itertools.pairwise(["text", *languages])


@pytest.mark.parametrize("code", [text for language, text in blocks() if language == "python"])
def test_every_name_of_ours_exists(code):
    for node in ast.walk(ast.parse(code)):
        if ast.unparse(node).startswith("faq_keras.") and isinstance(node, ast.Attribute):
            assert eval(ast.unparse(node)) is not None


@pytest.mark.slow
def test_it_prints_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, printed = {}, ""
    for language, text in blocks():
        if language == "text":
            assert shape_of(printed) == shape_of(text)
            for measured, quoted in zip(*map(percentages, (printed, text)), strict=True):
                if quoted > 90:
                    assert measured == pytest.approx(quoted, abs=2.5)  # 500 images: 3 std errors
                else:  # what a broken network still gets right is chance
                    assert measured < 90
            continue
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(text, str(PAGE), "exec"), names)
        printed = output.getvalue()
        print(printed, end="")
