"""CIFAR-10 as its authors publish it: the "python" and the "binary" version.

    arrays = read("/data")             # /data/cifar-10-batches-py or /data/cifar-10-batches-bin
    arrays.x_train.shape               # (50000, 32, 32, 3)

The python version is a set of pickles, and a pickle may run any program when it is loaded.
`load_pickle` makes arrays of numbers, built-in containers and nothing else: a file that asks for
more is refused before anything of it runs. Formats:
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faq_keras.data.arrays import Arrays

CLASSES = 10
PYTHON, BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_PIXELS = 3 * 32 * 32

# All that an array needs. The first module is NumPy 2's name for the second.
_ALLOWED = frozenset(
    {
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
    }
)

Part = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def read(data_dir: str | Path) -> Arrays:
    """Reads CIFAR-10.

    Args:
        data_dir: A folder that is, or contains, `cifar-10-batches-py` or `cifar-10-batches-bin`.
            The python version is taken where both are there.

    Raises:
        ValueError: If neither is there, a file is missing, damaged or not one of CIFAR-10, or a
            pickle wants to run something.
    """
    folder, binary = _find(Path(data_dir))
    suffix, load = (".bin", _binary_batch) if binary else ("", _python_batch)
    missing = [n + suffix for n in (*_TRAIN, _TEST) if not (folder / (n + suffix)).is_file()]
    if missing:
        raise ValueError(
            f"The folder {folder} lacks {', '.join(missing)} of CIFAR-10. Unpack the archive again."
        )
    parts = [load(folder / (name + suffix)) for name in _TRAIN]
    x_test, y_test = load(folder / (_TEST + suffix))
    return Arrays(
        "cifar10",
        str(folder),
        CLASSES,
        x_train=np.concatenate([x for x, _ in parts]),
        y_train=np.concatenate([y for _, y in parts]),
        x_test=x_test,
        y_test=y_test,
        class_names=_class_names(folder, binary),
    )


def load_pickle(path: Path) -> dict[bytes, Any]:
    """A pickled dictionary of containers, numbers, bytes and arrays of numbers.

    Raises:
        ValueError: If the file is damaged, holds something else or asks for more.
    """
    try:
        loaded = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        if not isinstance(loaded, dict):
            raise ValueError(f"it holds a {type(loaded).__name__}, not a dictionary")
        pairs = loaded.items()
        return {k: v.value if isinstance(v, _PickledArray) else v for k, v in pairs}
    except _ForbiddenError as error:
        raise ValueError(
            f"The pickle {path} wants to load {error}, which no CIFAR-10 file needs: it was not "
            "loaded, and nothing of it has run. Do not trust it; download CIFAR-10 again."
        ) from None
    except Exception as error:  # damaged pickles raise nearly everything there is
        raise ValueError(
            f"Cannot read {path}: it is not a pickle, or a damaged one "
            f"({type(error).__name__}: {error}). Copy or download it again."
        ) from error


class _ForbiddenError(Exception):
    """Holds the name that a pickle asked for."""


class _Unpickler(pickle.Unpickler):
    """Loads containers; arrays become `_PickledArray`, so that not even NumPy's code runs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _ForbiddenError(f"{module}.{name}")
        return {"_reconstruct": _PickledArray, "dtype": _PickledType, "ndarray": "ndarray"}[name]

    def persistent_load(self, identifier: Any) -> Any:
        raise _ForbiddenError(f"the persistent object {identifier!r}")


class _PickledType:
    """A dtype of numbers, by the two steps in which pickles make it."""

    def __init__(self, code: bytes | str, *_: Any):
        self.code = code.decode("ascii") if isinstance(code, bytes) else code
        if np.dtype(self.code).kind not in "biuf":
            raise _ForbiddenError(f"an array of {self.code!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.code = order.replace("|", "") + self.code


class _PickledArray:
    """An array of numbers, by the two steps in which pickles make it."""

    def __init__(self, *_: Any):
        self.value = np.empty((0,), np.int8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        flat = np.frombuffer(content, np.dtype(dtype.code))
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def _find(folder: Path) -> tuple[Path, bool]:
    """The folder with the batches, and whether it is the binary version."""
    for name, suffix in ((PYTHON, ""), (BINARY, ".bin")):
        for candidate in (folder / name, folder):
            first = candidate / (_TRAIN[0] + suffix)
            if first.is_file() or (candidate.is_dir() and candidate.name == name):
                return candidate, bool(suffix)
    raise ValueError(
        f"The folder {folder} {'contains' if folder.is_dir() else 'does not exist, so it has'} "
        f"neither {PYTHON} nor {BINARY}. Unpack CIFAR-10 there, or name its folder."
    )


def _python_batch(path: Path) -> Part:
    batch = load_pickle(path)
    if not {b"data", b"labels"} <= set(batch):
        hint = " (this looks like CIFAR-100)" if b"fine_labels" in batch else ""
        raise ValueError(f"{path} is no batch of CIFAR-10: it has no data and labels{hint}.")
    data, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    if data.dtype != np.uint8 or data.shape != (len(labels), _PIXELS):
        raise ValueError(
            f"{path} is no batch of CIFAR-10: its data are {data.dtype} of shape {data.shape} for "
            f"{len(labels)} labels, not uint8 of shape ({len(labels)}, {_PIXELS})."
        )
    return _part(path, data, labels)


def _binary_batch(path: Path) -> Part:
    content = np.fromfile(path, np.uint8)
    if not content.size or content.size % (1 + _PIXELS):
        raise ValueError(
            f"{path} is truncated or no batch of CIFAR-10: {content.size} bytes are no whole "
            f"number of records of {1 + _PIXELS}. Unpack the archive again."
        )
    rows = content.reshape(-1, 1 + _PIXELS)
    return _part(path, rows[:, 1:], rows[:, 0])


def _part(path: Path, planar: npt.NDArray[np.uint8], labels: npt.NDArray[Any]) -> Part:
    """Channels-last images and checked labels."""
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0 or labels.max(initial=0) > 9:
        raise ValueError(f"{path} is no batch of CIFAR-10: its labels are not all in 0..9.")
    images = planar.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels.astype(np.int64)


def _class_names(folder: Path, binary: bool) -> tuple[str, ...]:
    path = folder / ("batches.meta.txt" if binary else "batches.meta")
    if not path.is_file():
        return ()
    if binary:
        names = path.read_text().split()
    else:
        meta = load_pickle(path)
        names = [name.decode() for name in meta.get(b"label_names", ())]
    return tuple(names) if len(names) == CLASSES else ()
