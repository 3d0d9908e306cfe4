"""Compressed files from anywhere: how much they hold is checked before anything is unpacked.

A file of a few kilobytes may unpack to terabytes, and a member of an archive may be named
`../../somewhere`. So what an archive *says* about its members is checked first; Python's readers
never give more bytes than a member has declared:

    check_archive("model.keras")          # then Keras may read it
    arrays = read_arrays("x.npz")         # no pickles: {"x": ..., "y": ...}
    content = read_gzip(path)

Everything raises ValueError with a reason that a message of the caller's can go on with.
"""

from __future__ import annotations

import gzip
import os
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

# Any file may unpack to so many bytes, a larger one to so many times its size. Weights and images
# do not shrink to a tenth; deflate packs zeros a thousandfold.
FREE_BYTES = 256 * 2**20
MOST_EXPANSION = 100
_NPY, _ZIP = b"\x93NUMPY", b"PK"  # how files of one array and of several begin


def check_archive(path: str | os.PathLike[str]) -> None:
    """Checks the list of members of a zip file, such as `.keras` and `.npz`, and unpacks nothing.

    Raises:
        ValueError: It is no zip file, has members of the same name or ones that point out of the
            archive, or would unpack to far more than its size.
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
    _check_size(Path(path).stat().st_size, sum(member.file_size for member in members))


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
