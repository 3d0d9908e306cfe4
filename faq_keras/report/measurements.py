"""What a report needs and a training does not leave: measured once, kept beside the run.

Everything is computed from `start.keras` and `model.keras`. The figures lie in
`WORKDIR/measured/NAME.json` with the hashes of what they were made from, so they are made again
only when the network has changed:

    measured = Measurements(run.folder, images=lambda count: (x[:count], y[:count]))
    measured.similarity()             # {"network": 0.994, "layers": {"conv1": 0.99, ...}, ...}
    measured.deployment()             # bytes, latency, parity of an exported int8 file
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from faq_keras import deployment
from faq_keras.archives import read_text
from faq_keras.diagnostics import activation_statistics, weight_similarity
from faq_keras.files import LinkError, atomic_write, refuse_link
from faq_keras.report.schema import (
    Activations,
    Deployment,
    Kept,
    Similarity,
    checked,
    parsed,
    plain,
)
from faq_keras.saved_models import load_keras
from faq_keras.texts import reason_of
from faq_keras.tflite import inspect
from faq_keras.tflite.benchmark import benchmark
from faq_keras.training.experiment import MODEL, START

FOLDER = "measured"
FILE = "model.tflite"
RUNTIMES = ("xnnpack", "builtin")
Images = tuple[npt.NDArray[np.float32], npt.NDArray[np.integer]]


class NotMeasuredError(ValueError):
    """Something cannot be measured; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Measurements:
    """The measurements of one run.

    Attributes:
        folder: The run's folder.
        images: Gives so many validation images `[images, height, width, channels]`, pixels
            0..255, and their classes; raises ValueError if there are none.
        count: How many images to measure with.
        runtimes: Runtimes on which an exported file is compared.
        measure: Whether to measure what is not there; otherwise only read.
    """

    folder: Path
    images: Callable[[int], Images]
    count: int = 64
    runtimes: tuple[str, ...] = RUNTIMES
    measure: bool = True

    def similarity(self) -> dict[str, Any]:
        """Cosines between the weights before and after: network, layers, neurons (Figure 2).

        Raises:
            NotMeasuredError: A network is missing or damaged.
        """
        return self._kept("weight_similarity", (START, MODEL), {}, Similarity, self._similarity)

    def activations(self) -> dict[str, Any]:
        """Histograms, clip, saturation and signal-to-noise ratio of every quantized activation.

        Raises:
            NotMeasuredError: A network or the images are missing.
        """
        settings = {"images": self.count}
        return self._kept("activations", (MODEL,), settings, Activations, self._activations)

    def deployment(self) -> dict[str, Any]:
        """Operators, bytes, times and parity of the file that the model becomes.

        The file (int8) and its model card stay in the folder, too.

        Raises:
            NotMeasuredError: The model is missing or cannot be exported.
        """
        settings = {"images": self.count, "runtimes": list(self.runtimes)}
        return self._kept("deployment", (MODEL,), settings, Deployment, self._deployment)

    def _similarity(self) -> dict[str, Any]:
        before, after = _model(self.folder / START), _model(self.folder / MODEL)
        data: dict[str, Any] = json.loads(weight_similarity(before, after).to_json())
        return data

    def _activations(self) -> dict[str, Any]:
        model = _model(self.folder / MODEL)
        x, _ = self.images(self.count)
        data: dict[str, Any] = json.loads(activation_statistics(model, x).to_json())
        return data

    def _deployment(self) -> dict[str, Any]:
        model = _model(self.folder / MODEL)
        path = self.folder / FOLDER / FILE
        if path.is_symlink():
            path.unlink()
        deployment.export_tflite(model, path, verify=None)
        try:
            x, labels = self.images(self.count)
        except ValueError as error:
            raise NotMeasuredError(f"Parity needs images: {error}") from error
        parity = deployment.verify(model, path, x, self.runtimes, labels=labels)
        timing = benchmark(path, profile=True)
        return {
            "file": path.name,
            "bytes": path.stat().st_size,
            "rows": [dataclasses.asdict(row) for row in inspect.rows(path)],
            "benchmark": timing.to_dict(),
            "parity": json.loads(parity.to_json()),
        }

    def _kept(
        self,
        name: str,
        sources: tuple[str, ...],
        settings: Mapping[str, Any],
        record: type[BaseModel],
        compute: Callable[[], Mapping[str, Any]],
    ) -> dict[str, Any]:
        """The kept figures, if they belong to the networks that are there, else new ones.

        Figures with other settings are as good if nothing is to be measured.
        """
        path = self.folder / FOLDER / f"{name}.json"
        hashes = {source: _hash(self.folder / source) for source in sources}
        damage = ""
        try:
            kept = checked(Kept, parsed(read_text(path)))
            if kept["of"] == hashes and (kept["settings"] == settings or not self.measure):
                return checked(record, kept["data"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:  # made again
            damage = f" (measured/{path.name} is damaged: {reason_of(error)})"
        if not self.measure:
            raise NotMeasuredError(
                f"It was not measured{damage}, and this report was told not to measure."
            )
        logging.getLogger(__name__).info("%s: measuring %s.", self.folder, name.replace("_", " "))
        try:
            refuse_link(path.parent)
        except LinkError as error:
            raise NotMeasuredError(str(error)) from error
        path.parent.mkdir(exist_ok=True)
        data = checked(record, plain(compute()))
        new = {"of": hashes, "settings": dict(settings), "data": data}
        with atomic_write(path, within=self.folder) as partial:
            partial.write_text(json.dumps(new, allow_nan=False) + "\n", encoding="utf-8")
        return data


def _hash(path: Path) -> str:
    if not path.is_file():
        raise NotMeasuredError(
            f"{path.name} is missing: the run has not come so far, or it was deleted."
        )
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _model(path: Path) -> keras.Model:
    keras.utils.clear_session(free_memory=False)
    try:
        return load_keras(path)
    except ValueError as error:
        raise NotMeasuredError(f"{path.name} cannot be read: {error}") from error
