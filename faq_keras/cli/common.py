"""What several commands share: positional arguments, models and arrays from files, tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from faq_keras.archives import check_archive, read_arrays
from faq_keras.data.unlabelled_images import shuffled, unlabelled_images
from faq_keras.files import atomic_write


def positional(arguments: Sequence[str], *names: str) -> list[str]:
    """The command's positional arguments.

    Raises:
        ValueError: If there are more or fewer than `names`.
    """
    if len(arguments) != len(names):
        raise ValueError(
            f"expected the arguments: {' '.join(names) or 'none'}; received: "
            f"{' '.join(arguments) or 'none'}."
        )
    return list(arguments)


def load_model(path: str) -> keras.Model:
    """Loads a `.keras` model; nothing in the file is executed (`docs/security.md`).

    Raises:
        ValueError: If the file is missing, truncated or no Keras model, or wants code to run.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist.")
    if Path(path).suffix != ".keras":
        raise ValueError(f"{path} is not a .keras file.")
    try:
        check_archive(path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged configuration raises nearly everything there is
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path} is not a readable Keras model: {reason[0]}") from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"{path} holds a {type(model).__name__}, not a Keras model.")
    return model


def load_inputs(path: str, model: keras.Model) -> npt.NDArray[np.number]:
    """Model inputs from a `.npz` (its array `x`, or its only one) or `.npy` file.

    Raises:
        ValueError: If the file is missing or holds no such array of numbers that the model takes.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist.")
    try:
        arrays = read_arrays(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not a readable .npz or .npy file: {error}.") from error
    if "x" not in arrays and len(arrays) != 1:
        names = ", ".join(arrays) or "none"
        raise ValueError(f"{path} holds the arrays {names}: name the model inputs 'x'.")
    x = arrays.get("x", next(iter(arrays.values())))
    if x.dtype.kind not in "iuf" or not np.isfinite(x).all():
        raise ValueError(
            f"{path} holds {x.dtype.name} values that are not all finite real numbers."
        )
    wanted = model.input_shape
    fits = x.ndim == len(wanted) and len(x) > 0 and x.shape[1:] == tuple(wanted[1:])
    if not fits:
        raise ValueError(
            f"{path} holds inputs of the shape {x.shape}; the model '{model.name}' takes {wanted}."
        )
    return x


def load_images(folder: Path, model: keras.Model, most: int) -> npt.NDArray[np.float32]:
    """Images of a folder in the size of a model's only input, pixels 0..255.

    Raises:
        ValueError: If the model takes no images or several inputs, or the folder holds none.
    """
    wanted = model.input_shape
    if not isinstance(wanted, tuple):
        raise ValueError(
            f"The model '{model.name}' has {len(wanted)} inputs; a folder of images is for models "
            "with one."
        )
    return unlabelled_images(folder, wanted[1:], most)


def drawn(x: npt.NDArray[np.number], most: int) -> npt.NDArray[np.float32]:
    """Some of the inputs, drawn from all of them, in no order."""
    return x[shuffled(range(len(x)), most)].astype(np.float32)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Prints a table; nothing is cut off when the output is no terminal."""
    table = Table(title=title or None, title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    width = None if sys.stdout.isatty() else 400
    Console(width=width).print(table)


def write_text(path: str, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
