"""The inputs of a network, batch by batch and checked, from whatever Keras users have at hand.

Calibration and verification take an array, a `tf.data.Dataset` or any iterable of `x` or `(x, y)`
batches; a network with several inputs takes each of these with a dictionary by input name, or a
list in the order of `model.inputs`, in the place of the array:

    shapes = {"left": (None, 32, 32, 3), "right": (None, 32, 32, 3)}
    for batch in input_batches({"left": a, "right": b}, batches=5, shapes=shapes):
        batch["left"]                       # float32, finite, of the right shape
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

ARRAY_BATCH = 256  # images per batch when an array is given instead of batches (the paper's batch)

Batch = dict[str, npt.NDArray[np.float32]]


def input_batches(
    data: Any, batches: int | None, shapes: Mapping[str, Sequence[int | None]], role: str
) -> Iterator[Batch]:
    """The inputs of each batch by input name.

    Args:
        data: Array(s) or batches, as above.
        batches: How many batches at most; arrays are cut into as many, of at most 256 images. None
            takes everything.
        shapes: Expected shape of every input, batch first, None where anything goes; in the order
            of `model.inputs`.
        role: What the data are for ("calibration"), for messages.

    Raises:
        ValueError: If there are no data, if they have NaN or infinite values, or another form or
            shape than the network's inputs.
    """
    names = list(shapes)
    raw = _raw_batches(data, batches, names, role)
    count = -1
    for count, batch in enumerate(itertools.islice(raw, batches)):
        yield {n: _checked(batch[n], n, shapes[n], f"{role} batch {count}") for n in names}
    if count < 0:
        raise ValueError(f"The {role} data is empty: give at least one batch of images.")


def _raw_batches(
    data: Any, batches: int | None, names: list[str], role: str
) -> Iterator[dict[str, Any]]:
    if _are_whole(data, names):
        arrays = _by_name(data, names, role)
        total = min(len(array) for array in arrays.values())
        if any(len(array) != total for array in arrays.values()):
            raise ValueError(f"The inputs of the {role} data differ in their number of images.")
        size = max(1, min(ARRAY_BATCH, math.ceil(total / (batches or 1))))
        for start in range(0, total, size):
            yield {name: array[start : start + size] for name, array in arrays.items()}
        return
    if isinstance(data, tuple) and len(data) == 2 and hasattr(data[0], "shape"):
        raise ValueError(
            f"The {role} data is a tuple of arrays. Pass the inputs alone (x), or an iterable of "
            "(x, y) batches."
        )
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
        raise ValueError(
            f"{role.capitalize()} data of type {type(data).__name__} is not supported: pass a "
            "tf.data.Dataset, a numpy array or an iterable of batches."
        )
    for batch in data:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        yield _by_name(inputs, names, role)


def _are_whole(data: Any, names: list[str]) -> bool:
    """Whether these are all images at once, not batches of them."""
    if isinstance(data, (np.ndarray, tf.Tensor, Mapping)):
        return True
    several = isinstance(data, (list, tuple)) and len(data) == len(names) > 1
    return several and all(hasattr(part, "shape") for part in data)


def _by_name(inputs: Any, names: list[str], role: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a dictionary, a list in the inputs' order, or a single array."""
    if isinstance(inputs, Mapping):
        parts = dict(inputs)
    elif isinstance(inputs, (tuple, list)) and len(inputs) == len(names):
        parts = dict(zip(names, inputs, strict=True))
    elif len(names) == 1:
        parts = {names[0]: inputs}
    else:
        raise ValueError(
            f"The {role} data has one array per batch; the model has the inputs "
            f"{', '.join(names)}. Give a dictionary by these names, or ((a, b), y) batches."
        )
    if set(parts) != set(names):
        raise ValueError(
            f"The {role} data has the inputs {', '.join(map(str, parts))}; the model has "
            f"{', '.join(names)}."
        )
    return {name: np.asarray(parts[name]) for name in names}


def _checked(
    batch: npt.NDArray[Any], name: str, expected: Sequence[int | None], which: str
) -> npt.NDArray[np.float32]:
    fits = batch.ndim == len(expected) and all(
        want in (None, got) for want, got in zip(expected[1:], batch.shape[1:], strict=True)
    )
    which = which[0].upper() + which[1:]
    if not fits:
        hint = " Did you forget .batch(...)?" if batch.ndim == len(expected) - 1 else ""
        raise ValueError(
            f"{which} has the shape {batch.shape}; the model's input '{name}' takes "
            f"{tuple(expected)}.{hint}"
        )
    if not batch.size:
        raise ValueError(f"{which} is empty.")
    if batch.dtype.kind not in "biuf":
        raise ValueError(f"{which} holds {batch.dtype.name} values, not real numbers.")
    batch = batch.astype(np.float32)
    if not np.isfinite(batch).all():
        raise ValueError(f"{which} contains NaN or infinite values: check the input pipeline.")
    return batch
