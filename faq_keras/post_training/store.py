"""Activations of all images on the disk: a walk holds no more than one batch of them in memory.

Values are kept as the integers they are, one raw file per tensor, appended and read batch by batch
and deleted when the last reader is done:

    with ActivationStore(folder) as store:
        store.append("conv1", codes)                 # uint8 [batch, height, width, channels]
        store.read("conv1", 0, 32)                   # the first 32 images
        store.drop("conv1")
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

_PREFIX = "activations-"


@dataclasses.dataclass
class _Tensor:
    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # of one image
    images: int = 0

    @property
    def image_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class ActivationStore:
    """Tensors in raw files in a temporary folder, which is deleted at the end.

    Args:
        folder: Where to make the temporary folder; None: where the system has its own. What a
            killed process left in it is removed.
        planned: How many bytes the walk is going to need at most, for the message of a full disk.
    """

    def __init__(self, folder: str | Path | None = None, planned: int = 0) -> None:
        self.planned = planned
        if folder is not None:
            for left in Path(folder).glob(f"{_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        self._tensors: dict[Any, _Tensor] = {}
        self._files = 0

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def __contains__(self, key: Any) -> bool:
        return key in self._tensors

    def append(self, key: Any, values: npt.NDArray[Any]) -> None:
        """Adds the next images of a tensor.

        Args:
            key: Which tensor.
            values: `[images, ...]`, of the type and shape of those before.

        Raises:
            ValueError: If the disk is full or the folder cannot be written, or if images differ in
                their shape.
        """
        if key not in self._tensors:
            self._files += 1
            path = self._folder / f"{self._files}.raw"
            self._tensors[key] = _Tensor(path, values.dtype, values.shape[1:])
        tensor = self._tensors[key]
        if values.shape[1:] != tensor.shape:
            raise ValueError(
                f"The images differ in their shape: {tensor.shape} and {values.shape[1:]}. "
                "Give them all one size."
            )
        try:
            self._write(tensor.path, np.ascontiguousarray(values, tensor.dtype))
        except OSError as error:
            raise ValueError(self._full(error, values.nbytes)) from error
        tensor.images += len(values)

    @staticmethod
    def _write(path: Path, values: npt.NDArray[Any]) -> None:
        with path.open("ab") as file:
            file.write(values.data)

    def read(self, key: Any, start: int, stop: int) -> npt.NDArray[Any]:
        """Images `start` to `stop` (at most the last one) of a tensor."""
        tensor = self._tensors[key]
        count = max(0, min(stop, tensor.images) - start)
        size = count * math.prod(tensor.shape)
        with tensor.path.open("rb") as file:
            file.seek(start * tensor.image_bytes)
            values = np.fromfile(file, tensor.dtype, size)
        return values.reshape(count, *tensor.shape)

    def drop(self, key: Any) -> None:
        """Deletes a tensor."""
        self._tensors.pop(key).path.unlink()

    @property
    def used(self) -> int:
        """Bytes on the disk."""
        return sum(tensor.images * tensor.image_bytes for tensor in self._tensors.values())

    def _full(self, error: OSError, more: int) -> str:
        needed = max(self.planned, self.used + more)
        return (
            f"The activations cannot be written to {self._folder.parent}: {error.strerror}. They "
            f"need {needed:,} bytes there. Free that much, name another folder with workdir= (or "
            "the environment variable TMPDIR), or use fewer images."
        )
