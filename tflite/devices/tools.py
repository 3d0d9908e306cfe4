"""Runs the tools that devices need: the user's own, looked up on PATH, never without a time limit.

    adb = require("adb", "Install the Android platform tools ...")
    done = run([adb, "shell", "true"], timeout=60, device="adb")
    done.returncode, done.stdout, done.stderr

A missing tool and one that does not come back are errors that say what to do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence

# Seconds to read what a program that was ended has left.
_GRACE = 5


def require(name: str, remedy: str) -> str:
    """The path of an executable.

    Args:
        name: What it is called.
        remedy: A sentence that says how to get it.

    Raises:
        ValueError: If it is not on PATH.
    """
    path = shutil.which(name)
    if path is None:
        raise ValueError(f"The program '{name}' is not on PATH. {remedy}")
    return path


def run(
    command: Sequence[str],
    timeout: float,
    device: str,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end and keeps what it prints.

    The program gets a process group of its own: when the time is over (or the user interrupts), its
    children end with it, or they would hold its output open.

    Args:
        command: Program and arguments.
        timeout: Seconds that it may take.
        device: Name of the device, for the message.
        environment: Variables beside those of this process.

    Raises:
        ValueError: If it takes longer, or cannot be started.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env=None if environment is None else {**os.environ, **environment},
        )
    except OSError as error:
        raise ValueError(f"'{command[0]}' cannot be started: {error.strerror}.") from error
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            _end(process)
            raise ValueError(
                f"The device '{device}' did not answer within {timeout:.0f} s "
                f"({os.path.basename(command[0])}). Check that it is awake and connected, or "
                "measure fewer runs."
            ) from error
        except BaseException:
            _end(process)
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)


def last_line(*texts: str) -> str:
    """The last line that is not empty, of the first text that has one: usually the reason."""
    for text in texts:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines:
            return lines[-1]
    return "it printed nothing"


def ending(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"ended with status {returncode}"


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process with its children, and reads the rest of its output.

    A server that the process has started (adb does) may have left the group and hold the output
    open: it is not waited for.
    """
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=_GRACE)
