"""What several commands share: positional arguments, models and arrays from files, tables."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from faq_keras.archives import read_arrays
from faq_keras.data.unlabelled_images import shuffled, unlabelled_images
from faq_keras.files import atomic_write
from faq_keras.saved_models import load_keras
from faq_keras.texts import one_line, printable


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
    if Path(path).is_file() and Path(path).suffix != ".keras":
        raise ValueError(f"{path} is not a .keras file.")
    return load_keras(path)


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
    """Prints a table; nothing is cut off when the output is no terminal, nothing is markup."""
    table = Table(title=Text(one_line(title)) if title else None, title_justify="left")
    for index, name in enumerate(columns):
        side: JustifyMethod = "left" if index == 0 else "right"
        table.add_column(Text(one_line(name)), justify=side, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(one_line(str(cell))) for cell in row))
    width = None if sys.stdout.isatty() else 400
    Console(width=width).print(table)


def say(text: object) -> None:
    """Prints text that may have come from a file: nothing in it reaches the terminal as a command.

    All that commands print goes through here, `print_table` or `log_to_stderr`.
    """
    print(printable(str(text)), flush=True)


def log_to_stderr() -> None:
    """Sends what the library logs to stderr, one plain line each."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("faq_keras").setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.setFormatter(_Printable("%(message)s"))


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """As the base class, made printable."""
        return printable(super().format(record))


def write_text(path: str, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
