"""Documents as HTML, Markdown and JSON: escaped, complete, whole or not there."""

import json
import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from faq_keras.report import pages, pictures
from faq_keras.report.document import Document, Picture, Section, Table

EVIL = "<script>alert(1)</script>|*x*"


def picture(name="lines"):
    with pictures.drawn():
        figure = Figure(figsize=(4, 2))
        figure.subplots().plot([1, 2, 3], label=EVIL)
        figure.axes[0].set_title(EVIL)
        figure.legend()
    numbers = Table("Numbers", ("layer", "value"), ((EVIL, "1"),))
    return Picture(name, EVIL, EVIL, figure, numbers)


def document(*sections):
    default = Section("one", EVIL, (EVIL,), (EVIL,), (picture().numbers,), (picture(),), {"a": 1})
    return Document(EVIL, EVIL, sections or (default,), {"format": "x/1"})


def test_no_text_becomes_markup_in_the_page():
    page = pages.html(document())
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8


def test_no_text_becomes_markup_in_markdown():
    text = pages.markdown(document())
    assert "<script" not in text
    assert "&lt;script\\>alert(1)&lt;/script\\>\\|\\*x\\*" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {3}


def test_the_page_loads_nothing_and_adapts_to_theme_and_width():
    page = pages.html(document())
    assert "default-src 'none'" in page
    references = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(reference.startswith(("#", "data:")) for reference in references)
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page


def test_a_picture_is_described_and_takes_its_colours_from_the_page():
    text = pictures.inline_svg(picture().drawing, "lines", "A title", "What it shows")
    root = ElementTree.fromstring(text)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert root.get("role") == "img"
    assert set(root.get("aria-labelledby").split()) <= set(ids)
    assert len(ids) == len(set(ids))
    assert all(name.startswith("lines-") for name in ids)
    assert "var(--series-0)" in text
    assert "var(--ink)" in text
    for reference in re.findall(r"url\(#([^)]*)\)", text):
        assert reference in ids


def test_every_colour_of_the_drawings_has_a_light_and_a_dark_twin():
    page = pages.html(document())
    for number, color in enumerate(pictures.SERIES):
        assert f"--series-{number}: {color}" in page
        assert len(re.findall(rf"--series-{number}: #", page)) == 2


def test_json_says_the_same(tmp_path):
    files = pages.write(document(), tmp_path / "report", picture_files=True)
    assert [path.name for path in files] == [
        "report.html",
        "report.md",
        "report.json",
        "report_lines.svg",
        "report_lines.png",
    ]
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["format"] == "x/1"
    assert data["sections"]["one"]["data"] == {"a": 1}
    assert data["sections"]["one"]["numbers"]["lines"]["rows"] == [[EVIL, "1"]]
    assert "report_lines.svg" in (tmp_path / "report.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files}


def test_the_same_document_gives_the_same_bytes(tmp_path):
    first = [path.read_bytes() for path in pages.write(document(), tmp_path / "a", True)]
    again = [path.read_bytes() for path in pages.write(document(), tmp_path / "a", True)]
    assert first == again


def test_names_are_unique_and_rows_are_as_long_as_the_columns():
    with pytest.raises(ValueError, match=r"not unique .*: lines"):
        document(Section("one", "1", pictures=(picture(), picture())))
    with pytest.raises(ValueError, match="another length"):
        Table("T", ("a", "b"), (("1",),))
