"""What a reconstruction has finished, on the disk: a second call goes on where the first ended.

`key.json` says what the journal belongs to; each finished layer has a file with what was changed in
it. They appear whole or not at all, so a kill leaves nothing half done:

    journal = Journal(folder, key)                 # refuses the journal of something else
    solution = journal.load(3, "conv1")            # None: not finished yet
    journal.save(3, "conv1", solution)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faq_keras.archives import read_arrays, read_text
from faq_keras.files import atomic_write, make_folder
from faq_keras.post_training.correction import Solution

FORMAT = "faq_keras.reconstruct/1"
KEY = "key.json"


class Journal:
    """The finished layers of one reconstruction.

    Args:
        folder: Where; made if it is missing. One process at a time may work in it.
        key: What has an influence on the result, by name: hashes and options.

    Raises:
        ValueError: The folder has the journal of something else (it says what differs), a damaged
            one, or cannot be written.
    """

    def __init__(self, folder: str | Path, key: Mapping[str, str]) -> None:
        self.folder = Path(folder)
        wanted = {"format": FORMAT, **key}
        path = self.folder / KEY
        if not path.exists():
            _written(self.folder, lambda: make_folder(self.folder))
            text = json.dumps(wanted, indent=1) + "\n"
            self._write(path, lambda partial: partial.write_text(text, encoding="utf-8"))
            return
        found = _read_key(path)
        names = [name for name in wanted if found.get(name) != wanted[name]]
        if names:
            raise ValueError(
                f"{self.folder} holds the journal of another reconstruction: other "
                f"{', '.join(names)}. Give the network, images and options that it was begun with, "
                "or name another folder."
            )

    def load(
        self, number: int, name: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> Solution | None:
        """What was changed in a layer; None if it is not finished.

        Args:
            number: Of the layer's step.
            name: Its name.
            shapes: The shapes of what a solution may hold.

        Raises:
            ValueError: The file is damaged.
        """
        path = self._path(number)
        if not path.exists():
            return None
        try:
            arrays = read_arrays(path)
            notes = json.loads(str(arrays.pop("notes")))
            if notes["name"] != name:
                raise ValueError(f"it is of the layer {notes['name']!r}, not {name!r}")
            if arrays.keys() != set(notes["holds"]) or not arrays.keys() <= shapes.keys():
                raise ValueError(f"it holds the arrays {', '.join(arrays) or 'none'}")
            wrong = [k for k, v in arrays.items() if (v.shape, v.dtype) != (shapes[k], np.float32)]
            if wrong:
                raise ValueError(f"its array {wrong[0]!r} has another shape or type")
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"The journal file {path} is damaged: {error}. Delete it; its layer is computed "
                "again."
            ) from error
        return Solution(arrays.get("kernel"), arrays.get("constant"), notes["skipped"])

    def save(self, number: int, name: str, solution: Solution) -> None:
        """Notes that a layer is finished.

        Raises:
            ValueError: The file cannot be written.
        """
        parts = {"kernel": solution.kernel, "constant": solution.constant}
        arrays = {key: value for key, value in parts.items() if value is not None}
        notes = json.dumps({"name": name, "holds": list(arrays), "skipped": solution.skipped})

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, notes=np.array(notes), **arrays)

        self._write(self._path(number), write)

    def _path(self, number: int) -> Path:
        return self.folder / f"layer_{number:04d}.npz"

    def _write(self, path: Path, write: Any) -> None:
        def whole() -> None:
            with atomic_write(path, within=self.folder) as partial:
                write(partial)

        _written(self.folder, whole)


def _written(folder: Path, write: Any) -> None:
    try:
        write()
    except OSError as error:
        raise ValueError(
            f"The journal cannot be written to {folder}: {error.strerror or error}. Free some "
            "space there, or name another folder with workdir=."
        ) from error


def _read_key(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The journal file {path} is damaged: {error}. Delete its folder, and everything is "
            "computed again."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"The journal file {path} is damaged: it is no JSON object. Delete it.")
    return found


def hash_of(arrays: Sequence[npt.NDArray[Any]]) -> str:
    """SHA-256 of arrays: their shapes, types and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
