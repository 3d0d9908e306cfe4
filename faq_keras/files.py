"""The one place that writes output files: they appear whole, or not at all.

A file is written under a temporary name in the folder of its target and renamed when it is
complete. A rename within a folder is atomic, so a reader (also after a run was killed in the
middle) sees the old file or the new one, never a half:

    with atomic_write("model.tflite") as partial:
        partial.write_bytes(content)      # any way of writing to this path will do
    # here model.tflite is complete and on the disk; after an exception it is what it was before

Logs, which grow line by line, are the exception: `append_line` and `drop_torn_line`.

A path that a user names is followed where it is a link. A name that a command chooses by itself,
in a folder that may come from elsewhere, is not: `atomic_write(folder / "report.html",
within=folder)` replaces a link and refuses folders that are links; `refuse_links(folder)` looks at
a whole folder before a training writes in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PARTIAL_PREFIX = ".partial-"


class LinkError(ValueError):
    """Writing would follow a link that nobody named; the message says which one."""


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str], within: str | os.PathLike[str] | None = None
) -> Iterator[Path]:
    """Gives a temporary path, which becomes `path` when the block ends without an exception.

    The temporary file exists already (empty), lies in the same folder and has the suffix of `path`,
    because libraries such as Keras choose the format by it. Only a killed process leaves a
    temporary file behind; its name starts with `PARTIAL_PREFIX` and it may be deleted.

    Args:
        path: The file to write. It is replaced if it exists; its folder has to exist. A link is
            followed, unless `within` is given.
        within: The folder that was named by a user, for a file in it whose name was not: a link of
            that name is replaced.

    Yields:
        The path to write to.

    Raises:
        OSError: The file cannot be created (no such folder, not a folder, no permission, read-only,
            no space) or `path` is a folder. The class is that of the operating system's error, the
            message names the file.
        LinkError: A folder between `within` and the file is a link.
    """
    target = Path(os.path.realpath(path) if within is None else _own(Path(path), Path(within)))
    partial = _create_partial(target, os.fspath(path))
    try:
        yield partial
        _flush(partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)  # gone already after a successful rename
    _flush(target.parent)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Makes a folder, and those that it lies in, if they are missing.

    Raises:
        OSError: It cannot be made. The class is that of the operating system's error, the message
            names the folder and the reason.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        paths = (folder, *folder.parents)
        files = [p for p in paths if os.path.exists(p) and not os.path.isdir(p)]
        reason = f"{files[0]} is a file" if files else error.strerror
        raise type(error)(
            f"The folder {folder} cannot be made: {reason}. Name another folder."
        ) from error


def refuse_links(folder: str | os.PathLike[str]) -> None:
    """Looks for links in a folder, at any depth, before something is written there.

    The folder itself may be one, or be missing.

    Raises:
        LinkError: There is a link; names the first one.
    """
    for place, folders, names in os.walk(folder):
        for name in sorted([*folders, *names]):
            refuse_link(Path(place) / name)


def refuse_link(path: Path) -> None:
    """Raises a LinkError if a path is a link."""
    if path.is_symlink():
        raise LinkError(
            f"{path} is a link to {os.readlink(path)}, which this would write to. Remove the link, "
            "or copy the folder with what its links name (cp -rL)."
        )


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Appends a line to a log, which is on the disk when this returns; makes the file if needed.

    Args:
        path: The log.
        line: The text without its line feed.

    Raises:
        LinkError: The log is a link, or has several names.
    """
    with open_log(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, "a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def drop_torn_line(path: str | os.PathLike[str]) -> None:
    """Cuts off a last line without a line feed, which a kill left behind, if the log exists.

    Raises:
        LinkError: The log is a link, or has several names.
    """
    refuse_link(Path(path))
    if os.path.exists(path):
        content = Path(path).read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with open_log(path, os.O_RDWR, "r+") as file:
                file.truncate(whole)


def open_log(path: str | os.PathLike[str], flags: int, mode: str) -> IO[str]:
    """Opens a file that is changed in place, unless it has another name elsewhere.

    Args:
        path: The file.
        flags: As for `os.open`.
        mode: The same for Python's files: "a", "r+", "a+".

    Raises:
        LinkError: It is a link, or has several names.
        OSError: It cannot be opened.
    """
    refuse_link(Path(path))
    descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise LinkError(
            f"{os.fspath(path)} has several names (hard links), and the others would change with "
            "it. Replace it by a copy."
        )
    return os.fdopen(descriptor, mode, encoding="utf-8")


def _own(path: Path, within: Path) -> Path:
    """A path in a folder of a user's, after the folders between were looked at."""
    parts = path.relative_to(within).parts
    for count in range(1, len(parts)):
        refuse_link(within.joinpath(*parts[:count]))
    return Path(os.path.realpath(within)).joinpath(*parts)


def _create_partial(target: Path, shown: str) -> Path:
    if target.is_dir():
        raise IsADirectoryError(f"Cannot write {shown!r}: it is a folder. Name a file inside it.")
    partial = target.with_name(f"{PARTIAL_PREFIX}{secrets.token_hex(8)}{target.suffix}")
    try:
        partial.touch(exist_ok=False)
    except OSError as error:
        folder = str(target.parent)
        hint = (
            f"the folder {folder!r} does not exist. Create it first or name another one."
            if isinstance(error, FileNotFoundError) and not target.parent.exists()
            else f"no file can be created in {folder!r} ({error.strerror}). Name another folder."
        )
        raise type(error)(f"Cannot write {shown!r}: {hint}") from error
    return partial


def _flush(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name != "posix":
        return  # elsewhere folders cannot be opened, and a rename is on the disk without it
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
