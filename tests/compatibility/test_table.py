"""`docs/compatibility.md` names a test in each cell: they exist, and none is left out."""

import pathlib
import re

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "compatibility.md"
START, END = "| feature |", "## What to know"


def rows():
    table = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    lines = [line for line in table.splitlines()[2:] if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def functions_in(name):
    return set(re.findall(r"^def (test_\w+)\(", (HERE / name).read_text(), re.MULTILINE))


def named():
    return {
        test for row in rows() for test in re.findall(r"`(test_\w+\.py)::(test_\w+)`", str(row))
    }


def test_every_cell_names_a_test_that_exists():
    assert len(rows()) > 30
    for feature, keras3, tf_keras, _ in rows():
        cells = [keras3, keras3 if tf_keras == "the same" else tf_keras]
        assert any("::test_" in cell for cell in cells), feature
        for cell in cells:
            assert "::test_" in cell or "not possible" in cell or "as in" in cell, feature
    for file, test in named():
        assert test in functions_in(file), f"{file}::{test}"


def test_every_feature_test_is_in_the_table():
    listed = {test for file, test in named() if file == "test_features.py"}
    assert listed == functions_in("test_features.py")
