"""The one door for `.keras` and `.h5` files: checked first, then read by Keras in its safe mode.

    model = load_keras("model.keras")      # ValueError with the reason, whatever is wrong with it

Nothing in a file is executed (`docs/security.md`); what an archive says about its members is looked
at before Keras unpacks any of them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import h5py
import keras

from faq_keras.archives import MOST_JSON, check_archive, size_of_json
from faq_keras.texts import one_line, reason_of


def load_keras(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a model without compiling it.

    Raises:
        ValueError: If the file is missing, truncated or no Keras model, or wants code to run.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise ValueError(f"{name} does not exist.")
    try:
        if Path(path).suffix == ".h5":
            _check_h5(path)
        else:
            check_archive(path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged configuration raises nearly everything there is
        raise ValueError(f"{name} is not a readable Keras model: {_reason(error)}") from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"{name} holds a {type(model).__name__}, not a Keras model.")
    return model


def _reason(error: Exception) -> str:
    """What is wrong with a model: Keras repeats the configuration of every part around it."""
    text, mark = str(error), "Exception encountered: "
    if mark not in text:
        return reason_of(error)
    part = re.findall(r"deserializing class '(\w+)' using config=\{'name': '([^']*)'", text)
    where = f"{part[-1][0]} '{one_line(part[-1][1], 100)}': " if part else ""
    return where + one_line(text.rpartition(mark)[2])


def _check_h5(path: str | os.PathLike[str]) -> None:
    """Refuses a configuration that is larger than any network's."""
    with h5py.File(path, "r") as file:
        size = len(file.attrs.get("model_config", ""))
    if size > MOST_JSON:
        raise ValueError(f"its configuration has {size_of_json(size)}")
