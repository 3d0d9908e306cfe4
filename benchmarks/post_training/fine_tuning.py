"""The same fine-tuning from several starts: does a better start end better?

    python benchmarks/post_training/fine_tuning.py --data_dir=../shared/data --seeds=1,2

Fashion-MNIST W4A4, the 78k-parameter ResNet: four epochs of the recipe "w4a4" (batches of 128, rate
from 0.003) from the paper's scales, from fitted ones and from the reconstructed network. Everything
but the start is equal: calibration images, order of the training images, rates. "float" takes the
same steps without quantization. Accuracies are those of the 10,000 test images.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import measure
import numpy as np
from absl import app, flags
from post_training import figures, methods, networks


@dataclasses.dataclass(frozen=True)
class Order:
    """One training.

    Attributes:
        start: One of `methods.METHODS`, or "float".
        bits: Of weights and activations.
        seed: Of the training.
        epochs: How many.
        learning_rate: The first.
        batch_size: Images per step.
        images: Calibration images.
        files: Where the material is.
    """

    start: str
    bits: tuple[int, int]
    seed: int
    epochs: int
    learning_rate: float
    batch_size: int
    images: int
    files: networks.Files


def row(order: Order) -> dict[str, Any]:
    """Trains from one start in this process."""
    import keras

    import faq_keras
    from faq_keras.data import datasets

    material = networks.load("fashion", order.files, seed=0)
    split, q = material.split, material.model
    floats = figures.float_answers(q, split.images, material.name, order.files.cache)
    if order.start != "float":
        some = methods.top_of(split.calibration, order.images)
        q = next(methods.quantized(material.model, order.bits, (order.start,), some)).model
    before = figures.score(floats, figures.answers(q, split.images), split.labels)
    data = datasets.load("fashion_mnist", str(order.files.data_dir / "fashion-mnist"))
    keras.utils.set_random_seed(order.seed)
    recipe = faq_keras.recipe(
        "w4a4",
        epochs=order.epochs,
        learning_rate=order.learning_rate,
        batch_size=order.batch_size,
    )
    faq_keras.fine_tune(q, (data.x_train, data.y_train), recipe, verbose=0)
    after = figures.score(floats, figures.answers(q, split.images), split.labels)
    found = {"start": order.start, "seed": order.seed, "before": before.top1, "after": after.top1}
    return found | {"difference": after.difference, "error": after.error}


_STARTS = flags.DEFINE_list("starts", ["float", "paper", "fitted", "reconstruct"], "starts")
_BITS = flags.DEFINE_string("bits", "4", "8 is W8A8, 4x8 is W4A8")
_SEEDS = flags.DEFINE_list("seeds", ["1", "2"], "seeds of the training")
_EPOCHS = flags.DEFINE_integer("epochs", 4, "epochs", lower_bound=1)
_RATE = flags.DEFINE_float("learning_rate", 0.003, "first learning rate")
_BATCH = flags.DEFINE_integer("batch_size", 128, "images per step", lower_bound=1)
_IMAGES = flags.DEFINE_integer("images", 256, "calibration images", lower_bound=1)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of data and networks", required=True)
_CACHE = flags.DEFINE_string("cache", None, "folder for float logits")
_JSON = flags.DEFINE_string("json", None, "a file for the figures")


def main(_: list[str]) -> None:
    """One training after the other."""
    methods.check([start for start in _STARTS.value if start != "float"])
    print(measure.environment())
    titles = ("start", "seed", "before", "after", "to the float network at the start")
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", flush=True)
    rows = []
    bits = methods.parse_bits(_BITS.value)
    numbers = (_EPOCHS.value, _RATE.value, _BATCH.value, _IMAGES.value)
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(_CACHE.value or temporary)
        cache.mkdir(parents=True, exist_ok=True)
        files = networks.Files(Path(_DATA_DIR.value), cache)
        for start in _STARTS.value:
            for seed in map(int, _SEEDS.value):
                found = measure.alone(row, Order(start, bits, seed, *numbers, files))
                rows.append(found)
                cells = [start, str(seed), f"{found['before']:.2f}", f"{found['after']:.2f}"]
                cells += [f"{found['difference']:+.2f} ± {found['error']:.2f}"]
                print(f"| {' | '.join(cells)} |", flush=True)
                if _JSON.value:
                    Path(_JSON.value).write_text(json.dumps(rows))
            mean = np.mean([found["after"] for found in rows if found["start"] == start])
            print(f"| {start} | mean | | {mean:.2f} | |", flush=True)


if __name__ == "__main__":
    app.run(main)
