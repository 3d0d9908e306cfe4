"""Every message that the troubleshooting page explains is one that the code can raise."""

import ast
import re

import pytest

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
ROOMS = ("faq_keras", "tflite", "converters", "configs")
_HEADING = re.compile(r"^### `(.+)`$", re.MULTILINE)
_GAP = "..."


def headings():
    return _HEADING.findall(PAGE.read_text())


def texts(source):
    """The strings in a program, what f-strings insert as `...`."""
    other = set()  # docstrings, and parts of f-strings
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr):
            other.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            other.update(map(id, ast.walk(node)))
            parts = [part.value if isinstance(part, ast.Constant) else _GAP for part in node.values]
            yield "".join(parts)
        elif id(node) not in other and isinstance(getattr(node, "value", None), str):
            yield re.sub(r"%[-.\d]*[sdf]", _GAP, node.value)


@pytest.fixture(scope="module")
def messages():
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return "\n".join(text for path in files for text in texts(path.read_text()))


def test_it_explains_the_messages_that_users_meet():
    assert len(headings()) == len(set(headings())) >= 50


@pytest.mark.parametrize("heading", headings())
def test_the_message_is_in_the_code(heading, messages):
    assert len(heading.replace(_GAP, "").strip()) >= 10
    fragments = map(re.escape, heading.split(_GAP))
    assert re.search(".*".join(fragments), messages), f"no message says: {heading}"
