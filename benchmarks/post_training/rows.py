"""A network, a width and a seed, from the owner's file to the figures: what `accuracy.py` prints.

The tests of real models run the same rows:

    order = Order("resnet20", (4, 8), ("fitted", "reconstruct"), seed=0, files=files)
    for found in measure.alone(rows_of, order):
        found["method"], found["top1"], found["difference"], found["mismatches"]
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from post_training import figures, methods, networks


@dataclasses.dataclass(frozen=True)
class Order:
    """The rows to measure in one process.

    Attributes:
        network: Its name in `networks.NETWORKS`.
        bits: Of weights and activations.
        methods: Some of `methods.METHODS`.
        seed: Of the split.
        files: Where the material is.
        images: Calibration images, at most.
        distill_images: Images to distill on, at most.
        tests: Test images, at most; 0: all.
        runtimes: Runtimes to compare the file on; none: no comparison.
        verify_images: Images to compare on.
    """

    network: str
    bits: tuple[int, int]
    methods: tuple[str, ...]
    seed: int
    files: networks.Files
    images: int = 256
    distill_images: int = 1024
    tests: int = 0
    runtimes: tuple[str, ...] = ()
    verify_images: int = 16


def rows_of(order: Order) -> list[dict[str, Any]]:
    """Measures one row for each method, in this process."""
    material = networks.load(order.network, order.files, order.seed)
    split = networks.shortened(material.split, order.tests)
    floats = figures.float_answers(material.model, split.images, order.network, order.files.cache)
    pool = material.split.calibration
    some = (methods.top_of(pool, order.images), methods.top_of(pool, order.distill_images))
    rows = []
    for result in methods.quantized(
        material.model, order.bits, order.methods, *some, augment=material.entry.mirrored
    ):
        answers = figures.answers(result.model, split.images)
        score = figures.score(floats, answers, split.labels, material.entry.embeds)
        found = {
            "network": order.network,
            "title": material.entry.title,
            "bits": methods.title(order.bits),
            "method": result.method,
            "seed": order.seed,
            "calibration_images": result.images,
            "seconds": result.seconds,
            "peak_mb": result.peak_mb,
            "ids": split.ids.tolist(),
            "change": score.change.tolist(),
        }
        rows.append(found | score.figures() | deployed(result.model, order, split.images))
    return rows


def deployed(model: Any, order: Order, images: np.ndarray) -> dict[str, Any]:
    """Bytes of the exported file, and the comparison with Keras if it is asked for."""
    import faq_keras

    weights = "int4" if order.bits[0] <= 4 else "int8"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        faq_keras.export_tflite(model, path, weights, verify=None)
        found: dict[str, Any] = {"weights": weights, "bytes": path.stat().st_size}
        if order.runtimes:
            some = images[: order.verify_images]
            runs = faq_keras.verify(model, path, some, order.runtimes).runs
            found["values"] = {run.runtime: run.values for run in runs}
            found["mismatches"] = {run.runtime: run.mismatches for run in runs}
    return found


def summed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of several seeds: means over all their images, the error image by image.

    An image that several seeds tested counts once there, with the mean of its changes.
    """
    changes: dict[int, list[int]] = {}
    for found in rows:
        for number, change in zip(found["ids"], found["change"], strict=False):
            changes.setdefault(number, []).append(change)
    means = np.array([np.mean(values) for values in changes.values()])
    weights = [found["test_images"] for found in rows]
    labelled = rows[0]["top1"] is not None
    keys = ("agreement", "sqnr_db")
    if labelled:
        keys += ("float_top1", "top1", "difference")
    total: dict[str, Any] = {
        key: float(np.average([found[key] for found in rows], weights=weights)) for key in keys
    }
    total["error"] = figures.paired_error(means) if labelled else None
    total["seed"] = ",".join(str(found["seed"]) for found in rows)
    total["test_images"] = len(set().union(*(found["ids"] for found in rows)))
    total["seconds"] = _of_steps(rows, "seconds", np.mean)
    total["peak_mb"] = _of_steps(rows, "peak_mb", max)
    total["bytes"] = max(found["bytes"] for found in rows)
    return rows[0] | total


def _of_steps(
    rows: Sequence[dict[str, Any]], key: str, reduce: Callable[[list[float]], Any]
) -> dict[str, float]:
    """One figure per step from those of several seeds."""
    return {step: float(reduce([found[key][step] for found in rows])) for step in rows[0][key]}
