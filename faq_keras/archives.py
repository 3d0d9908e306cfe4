"""Compressed files from anywhere: how much they hold is checked before anything is unpacked.

A file of a few kilobytes may unpack to terabytes, and a member of an archive may be named
`../../somewhere`. So what an archive *says* about its members is checked first; Python's readers
never give more bytes than a member has declared:

    check_archive("model.keras")          # then Keras may read it
    arrays = read_arrays("x.npz")         # no pickles: {"x": ..., "y": ...}
    content = read_gzip(path)
    facts = read_json_member("model.keras", "metadata.json")
    text = read_text("plan.json")         # of at most 16 MiB

Everything raises ValueError with a reason that a message of the caller's can go on with.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

# Any file may unpack to so many bytes, a larger one to so many times its size. Weights and images
# do not shrink to a tenth; deflate packs zeros a thousandfold.
FREE_BYTES = 256 * 2**20
MOST_EXPANSION = 100
# JSON becomes up to 25 times as large in memory ("[[],[],..."), so it has its own limit. Keras's
# largest networks have 1 to 2 MiB of it, their plans less; arrays do not belong in there.
MOST_JSON = 16 * 2**20
# Logs are read line by line: 110 epochs of ImageNet give 70 MiB of gradient noise.
MOST_LOG = 256 * 2**20
_NPY, _ZIP = b"\x93NUMPY", b"PK"  # how files of one array and of several begin


def check_archive(path: str | os.PathLike[str]) -> None:
    """Checks the list of members of a zip file, such as `.keras` and `.npz`, and unpacks nothing.

    Raises:
        ValueError: It is no zip file, has members of the same name or ones that point out of the
            archive, would unpack to far more than its size or has JSON of more than `MOST_JSON`.
        OSError: It cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"it is truncated or no zip file ({error})") from error
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise ValueError("it is an archive with several members of one name")
    outside = [member.filename for member in members if _points_out(member)]
    if outside:
        raise ValueError(f"it is an archive whose member {outside[0]!r} points out of it")
    for member in members:
        if member.filename.lower().endswith(".json") and member.file_size > MOST_JSON:
            raise ValueError(f"its member {member.filename!r} has {size_of_json(member.file_size)}")
    _check_size(Path(path).stat().st_size, sum(member.file_size for member in members))


def size_of_json(size: int) -> str:
    """Says that a text of so many bytes is too large."""
    return f"{size:,} bytes of JSON, more than the {MOST_JSON // 2**20} MiB that are read of any"


def read_json_member(path: str | os.PathLike[str], name: str) -> Any:
    """What a JSON text in a zip file says; None if there is no such member.

    Raises:
        ValueError: It is no sound zip file (`check_archive`) or the member is no JSON.
        OSError: It cannot be read.
    """
    check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if name not in archive.namelist():
                return None
            return json.loads(archive.read(name))
    except (EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"its member {name!r} is damaged ({error})") from error
    except RecursionError as error:
        raise ValueError(f"its member {name!r} is nested too deeply") from error


def read_text(path: str | os.PathLike[str], most: int = MOST_JSON) -> str:
    """A text file of at most `most` bytes; no more than these are ever read.

    Raises:
        ValueError: It is larger, or not UTF-8.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most // 2**20} MiB, more than any file of its kind")
    return content.decode("utf-8")


def read_arrays(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an `.npz` file by name; the one of an `.npy` file is called "x".

    Raises:
        ValueError: It is neither, is damaged, holds pickled objects or too much.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(len(_NPY))
    if not (start == _NPY or start.startswith(_ZIP)):  # numpy would take it for a pickle
        raise ValueError("it is something else, or empty")
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        data = np.load(path, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return {"x": data}
        with data:
            return {name: data[name] for name in data.files}
    except MemoryError as error:
        raise ValueError("it declares arrays that are larger than the memory") from error
    except (EOFError, KeyError, OverflowError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error) or "it is truncated") from error


def read_gzip(path: str | os.PathLike[str]) -> bytes:
    """The content of a gzip file.

    Raises:
        ValueError: It is no gzip file, is damaged or unpacks to far more than its size.
        OSError: It cannot be read.
    """
    size = Path(path).stat().st_size
    most = _most_bytes(size)
    try:
        with gzip.open(path) as file:
            content = file.read(most + 1)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"it is a damaged gzip file ({error})") from error
    _check_size(size, len(content))
    return content


def read_lines(path: str | os.PathLike[str], torn: bool = False) -> Iterator[str]:
    """The lines of a log.

    Args:
        path: The log.
        torn: Also give a last line that has no line feed: a kill tore it.

    Raises:
        ValueError: A line has more than `MOST_JSON` bytes, or is not UTF-8; the log has more than
            `MOST_LOG`.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > MOST_LOG:
            raise ValueError(f"it has more than {MOST_LOG // 2**20} MiB, more than any log")
        while (line := file.readline(MOST_JSON + 1)).endswith(b"\n"):
            yield line[:-1].decode("utf-8")
    if len(line) > MOST_JSON:
        raise ValueError(f"a line has more than {MOST_JSON // 2**20} MiB")
    if line and torn:
        yield line.decode("utf-8")


def _points_out(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a link, or would land outside of the folder that it is unpacked in."""
    name = member.filename
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    absolute = name.startswith("/") or PureWindowsPath(name).anchor
    return bool(absolute) or ".." in parts or stat.S_ISLNK(member.external_attr >> 16)


def _most_bytes(packed: int) -> int:
    return max(FREE_BYTES, MOST_EXPANSION * packed)


def _check_size(packed: int, unpacked: int) -> None:
    if unpacked > _most_bytes(packed):
        raise ValueError(
            f"its {packed:,} bytes would unpack to {unpacked:,} or more, over {MOST_EXPANSION} "
            "times as many: it looks like a decompression bomb"
        )
