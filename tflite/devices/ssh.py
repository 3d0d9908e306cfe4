"""A board that ssh reaches (a Raspberry Pi, a Jetson): copy, run, read, clean up.

    result = measure("model.tflite", Options(target="pi@raspberry", num_threads=4))

Over there are needed: python3, numpy and ai-edge-litert (or tflite-runtime); nothing of faq_keras.
Packed files are unpacked before they travel. Keys, ports and jump hosts come from the user's
ssh configuration; a password is never asked for.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from faq_keras.tflite import loader, model_file
from faq_keras.tflite.devices import tools
from faq_keras.tflite.devices.measurement import Options, TimedResult, statistics

_SSH = "Install OpenSSH's client (Debian: apt install openssh-client)."
# No questions, a quick refusal, and an end within 20 s when the other side goes away.
_OPTIONS = (
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
)
_TIMEOUT = 580
_SHORT_TIMEOUT = 60
_LOST = 255  # ssh's own status: whatever the command over there returns is below it
# The only folders that are ever removed: what mktemp made of our template.
_FOLDER = re.compile(r"/[\w./-]*/faq_keras\.[\w.]+")


def measure(path: str, options: Options) -> TimedResult:
    """Runs a file on another machine.

    Raises:
        ValueError: If ssh is missing, the file is invalid, the host cannot be reached or vanishes,
            or lacks what is needed.
    """
    stored = model_file.read(path)
    file = loader.unpacked(stored)
    host = _Host(options.target)
    folder = host.must("mktemp -d -t faq_keras.XXXXXXXX").strip()
    if not _FOLDER.fullmatch(folder):
        raise ValueError(
            f"'{host.name}' answered {folder[:200]!r} where the name of a temporary folder was "
            "expected. Check that its shell prints nothing at login."
        )
    try:
        facts = _run(host, folder, file.content, options)
    except BaseException:
        host.try_remove(folder)
        raise
    left = not host.try_remove(folder)
    if "error" in facts:
        raise ValueError(f"'{host.name}' cannot run '{path}': {facts['error']}.")
    return TimedResult(
        path=path,
        file_bytes=stored.size,
        device=host.name,
        runtime=f"{facts['runtime']} on {facts['machine']}",
        num_threads=options.num_threads,
        init_us=facts["init_us"],
        first_us=facts["warmup_us"][0],
        warmup_us=float(np.mean(facts["warmup_us"])),
        peak_memory_bytes=facts["peak_memory_bytes"],
        notes=_notes(file is not stored, folder if left else ""),
        **statistics(facts["runs_us"]),
    )


class _Host:
    """One machine: how to call it and how to name it in messages."""

    def __init__(self, target: str) -> None:
        self.target, self.name = target, f"ssh:{target}"
        self._ssh, self._scp = tools.require("ssh", _SSH), tools.require("scp", _SSH)

    def call(self, line: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a line of shell over there."""
        limit = _SHORT_TIMEOUT if timeout is None else timeout
        done = tools.run([self._ssh, *_OPTIONS, "--", self.target, line], limit, self.name)
        if done.returncode == _LOST:
            raise ValueError(self._away(done))
        return done

    def must(self, line: str) -> str:
        """Runs a line that has to succeed; what it printed on stdout."""
        done = self.call(line)
        if done.returncode:
            reason = tools.last_line(done.stderr, done.stdout).rstrip(".")
            raise ValueError(f"`{line.split()[0]}` failed on '{self.name}': {reason}.")
        return done.stdout

    def copy(self, files: list[Path], folder: str) -> None:
        """Copies files into a folder over there."""
        sources = [str(path) for path in files]
        command = [self._scp, *_OPTIONS, "--", *sources, f"{self.target}:{folder}/"]
        done = tools.run(command, _TIMEOUT, self.name)
        if done.returncode:
            raise ValueError(self._away(done))

    def try_remove(self, folder: str) -> bool:
        """Removes a folder that `_FOLDER` matches; whether that succeeded."""
        try:
            return self.call(f"rm -rf {shlex.quote(folder)}").returncode == 0
        except ValueError:
            return False

    def _away(self, done: subprocess.CompletedProcess[str]) -> str:
        reason = tools.last_line(done.stderr, done.stdout).rstrip(".")
        return (
            f"The connection to '{self.name}' failed or broke ({reason}). Check that "
            f"`ssh -o BatchMode=yes {self.target} true` works without a password."
        )


def _run(host: _Host, folder: str, content: bytes, options: Options) -> dict[str, Any]:
    """Copies everything, runs it, gives back the facts."""
    with tempfile.TemporaryDirectory(prefix="faq_keras-") as name:
        model = Path(name) / "model.tflite"
        model.write_bytes(content)
        runner = Path(__file__).with_name("ssh_runner.py")
        host.copy([model, runner], folder)
    order = {
        "path": f"{folder}/{model.name}",
        "num_threads": options.num_threads,
        "warmup_runs": options.warmup_runs,
        "num_runs": options.num_runs,
    }
    script = shlex.quote(f"{folder}/{runner.name}")
    done = host.call(f"python3 {script} {shlex.quote(json.dumps(order))}", _TIMEOUT)
    if done.returncode:
        reason = tools.last_line(done.stderr, done.stdout).rstrip(".")
        raise ValueError(f"python3 {tools.ending(done.returncode)} on '{host.name}': {reason}.")
    try:
        facts: dict[str, Any] = json.loads(tools.last_line(done.stdout))
    except ValueError as error:
        raise ValueError(
            f"'{host.name}' answered {done.stdout[-200:]!r} where figures were expected. Check "
            "that its shell and Python print nothing of their own."
        ) from error
    return facts


def _notes(unpacked: bool, left: str) -> tuple[str, ...]:
    notes = []
    if unpacked:
        notes.append("The packed int4 file was unpacked to int8 before it travelled.")
    if left:
        notes.append(f"The folder {left} could not be removed over there.")
    return tuple(notes)
