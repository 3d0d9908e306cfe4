"""Devices that are not here, as small executables that answer as the real tools do.

A fake is a Python script put first on PATH. It appends its arguments to `<name>.calls`, so that a
test can see what was asked of the device, and does what its body says.
"""

import json
import os
import stat
import sys
import textwrap

import pytest

# Prepended to the body of each fake; `ROOT` is the folder that stands for the device's disk.
_PRELUDE = """\
#!{python}
import json, os, pathlib, shutil, subprocess, sys, time
ROOT = pathlib.Path({root!r})
arguments = sys.argv[1:]
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")

def stop(status, message=""):
    sys.stderr.write(message)
    sys.exit(status)

"""


class Bench:
    """Where the fakes live.

    Attributes:
        disk: The folder that stands for the device's disk.
    """

    def __init__(self, folder, monkeypatch):
        self.disk = folder / "disk"
        self.disk.mkdir()
        self._bin = folder / "bin"
        self._bin.mkdir()
        monkeypatch.setenv("PATH", f"{self._bin}{os.pathsep}{os.environ['PATH']}")

    def install(self, name, body):
        """Puts an executable on PATH; `body` is Python that sees `arguments`, `ROOT`, `stop`."""
        prelude = _PRELUDE.format(
            python=sys.executable, root=str(self.disk), calls=str(self._bin / f"{name}.calls")
        )
        path = self._bin / name
        path.write_text(prelude + textwrap.dedent(body))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def calls(self, name):
        """The arguments of each call so far."""
        path = self._bin / f"{name}.calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


@pytest.fixture
def empty_path(tmp_path, monkeypatch):
    """No program can be found."""
    folder = tmp_path / "nothing"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
