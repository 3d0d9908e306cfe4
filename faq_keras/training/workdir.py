"""The folder of a run: one run at a time, and never another one's results overwritten.

    with locked(folder):                        # refused while another process trains in it
        fresh = claim(folder, config, resume=False)
        ...                                     # config.json is there now

Whether a run may go on is decided by its `config.json`: whatever has an influence on the result
must be what it was.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from faq_keras.archives import read_lines, read_text
from faq_keras.files import LinkError, atomic_write, make_folder, open_log, refuse_links

CONFIG, LOCK, RESULT = "config.json", "lock", "result.json"
# What may change between start and resume: it has no influence on the numbers.
FREE = ("data.data_dir", "checkpoint_steps", "expected_float_accuracy")


class WorkdirError(ValueError):
    """A folder cannot be used for this run."""


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the folder's lock, a file that names the process; makes the folder if it is missing.

    The lock of a process that is gone is taken over, and a message says so.

    Raises:
        WorkdirError: A process that runs, or one on another machine, has the lock; or there are
            links in the folder.
        OSError: The folder cannot be made or written.
    """
    path = Path(folder) / LOCK
    make_folder(path.parent)
    try:
        refuse_links(folder)
        file = open_log(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, "a+")
    except LinkError as error:
        raise WorkdirError(str(error)) from error
    with file:
        _acquire(file, path)
        _replace(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        try:
            yield
        finally:
            _replace(file, "")  # not removed: another process may have it open already


def _replace(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _acquire(file: IO[str], path: Path) -> None:
    """Takes the operating system's lock on the file, which ends with its process in any case."""
    free = _lock_file(file)
    file.seek(0)
    owner = _owner(file.read())
    host = owner.get("host")
    if not free:
        raise WorkdirError(
            f"Another run (process {owner.get('pid', 'unknown')} on {host or 'this machine'}) is "
            f"working in {path.parent}. Wait for it, or choose another --workdir."
        )
    if host not in (None, socket.gethostname()):
        raise WorkdirError(
            f"A run on another machine ({host}, process {owner['pid']}) has the lock of "
            f"{path.parent}, and whether it still works cannot be seen from here. If it does not, "
            f"delete {path}."
        )
    if owner:
        logging.getLogger(__name__).warning(
            "Process %s, which worked in %s, is gone without unlocking it; taking over.",
            owner["pid"],
            path.parent,
        )


def _lock_file(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # not POSIX: the owner in the file is all there is
        file.seek(0)
        return not file.read()
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(text: str) -> dict[str, Any]:
    """Who wrote a lock; a text torn by a kill has no owner."""
    try:
        owner = json.loads(text)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) and "pid" in owner else {}


def claim(folder: str | os.PathLike[str], config: Mapping[str, Any], resume: bool) -> bool:
    """Makes the folder this run's.

    Args:
        folder: The folder; it is locked.
        config: The run's configuration, of plain JSON types.
        resume: Whether a run that is there may go on.

    Returns:
        Whether this is a fresh start; False if an earlier one goes on.

    Raises:
        WorkdirError: There is a run and `resume` is off, or the run is another one.
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        write_json(path, config)
        return True
    if not resume:
        raise WorkdirError(
            f"{folder} holds a run already ({_progress(Path(folder))}). Go on with --resume, or "
            "choose another --workdir."
        )
    differences = config_differences(read_json(path), json.loads(json.dumps(config)))
    if differences:
        raise WorkdirError(
            f"The run in {folder} was started with another configuration: "
            f"{'; '.join(differences)}. Resume with the same one, or choose another --workdir."
        )
    return False


def config_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations, field by field, but for those in `FREE`."""
    old, new = _flat(before), _flat(now)
    return [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r} now"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name) and name not in FREE
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _progress(folder: Path) -> str:
    if (folder / RESULT).exists() and read_json(folder / RESULT).get("status") == "finished":
        return "finished"
    return "not finished"


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file of a run.

    Raises:
        WorkdirError: It is something else.
    """
    try:
        data = json.loads(read_text(path))
    except (OSError, RecursionError, ValueError) as error:
        raise WorkdirError(f"{path} cannot be read: {error}. Choose another --workdir.") from error
    if not isinstance(data, dict):
        raise WorkdirError(f"{path} does not hold a JSON object. Choose another --workdir.")
    return data


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, without one that a kill tore in two.

    Raises:
        WorkdirError: A line is something else.
    """
    lines: list[dict[str, Any]] = []
    try:
        for line in read_lines(path):
            lines.append(_object(json.loads(line)))
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise WorkdirError(
            f"{path} cannot be read: line {len(lines) + 1} is no JSON object ({error}). Put back "
            "a copy of the file, or remove that line, or choose another --workdir."
        ) from error
    return lines


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}")
    return value


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
