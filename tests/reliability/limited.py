"""Runs `faq` commands in one child process of little memory and little time.

The child's address space is limited (`resource.setrlimit(RLIMIT_AS)`, what `ulimit -v` sets): with
TensorFlow, Keras and LiteRT loaded and a small model exported it needs 2.3 GB of it (measured, and
0.8 GB of memory), so 4 GiB leave room for one sensible command and none for a bomb. Every command
also has 30 seconds of its own, not counted the imports.

    outcomes = commands(["inspect", "bomb.keras"], ["inspect", "plan.json"])
    outcomes[0].status, outcomes[0].err, outcomes[0].seconds
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="limits of memory need POSIX")

ROOT = Path(__file__).resolve().parents[2]
MEMORY, SECONDS = 4 * 2**30, 30

_CHILD = """
import contextlib, faulthandler, io, json, resource, sys, time, traceback
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
import faq_keras
from faq_keras.cli.main import dispatch
for line in sys.stdin:
    words, out, err = json.loads(line), io.StringIO(), io.StringIO()
    faulthandler.dump_traceback_later({seconds}, exit=True)
    start = time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = dispatch(words)
        except BaseException:
            status = -1
            traceback.print_exc()
    seconds = time.perf_counter() - start
    faulthandler.cancel_dump_traceback_later()
    print("OUTCOME " + json.dumps([status, out.getvalue(), err.getvalue(), seconds]), flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command left: exit status (-1: a traceback), what it printed, how long it took."""

    status: int
    out: str
    err: str
    seconds: float


def commands(*lines, cwd=ROOT):
    """Runs commands one after the other in one child; each has to end within its limits."""
    code = _CHILD.format(memory=MEMORY, seconds=SECONDS)
    text = "".join(json.dumps([str(word) for word in words]) + "\n" for words in lines)
    child = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        input=text, capture_output=True, text=True, cwd=cwd, check=False,
    )  # fmt: skip
    found = [
        Outcome(*json.loads(line.removeprefix("OUTCOME ")))
        for line in child.stdout.splitlines()
        if line.startswith("OUTCOME ")
    ]
    last = lines[len(found)] if len(found) < len(lines) else None
    assert last is None, f"{last} ended the process ({child.returncode}): {child.stderr[-3000:]}"
    return found


def refusal(outcome, command):
    """The one sentence that a refused command has to print."""
    assert outcome.status == 1, outcome
    *notes, message = outcome.err.rstrip("\n").split("\n")
    assert message.startswith(f"faq {command}: error: "), outcome.err[-2000:]
    assert all(note.startswith(("I0", "W0", "E0", "WARNING")) for note in notes), outcome.err
    assert len(message) < 2000 and message.isprintable(), message
    return message
