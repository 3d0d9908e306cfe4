"""Accuracy of FAQ on Fashion-MNIST against an fp32 control with as many extra epochs.

The control starts from the same pretrained network and takes the same steps (recipe, epochs,
batches, seed) without quantization. Aims: W8A8 after 1 epoch and W4A8 after 4 epochs at least
control - 0.1 points; W4A4 wins back at least 80 % of what quantization cost within 4 epochs. One
standard error of an accuracy on 10,000 images is 0.3 points, so several seeds are averaged and
predictions compared in pairs.

    python benchmarks/accuracy.py --data_dir=../shared/data/fashion-mnist --seeds=1,2,3
"""

from __future__ import annotations

import statistics
from pathlib import Path

import keras
import numpy as np
from absl import app, flags

import faq_keras
from faq_keras.cli.common import print_table
from faq_keras.data import datasets

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Fashion-MNIST files and the pretrained .h5")
_SEEDS = flags.DEFINE_list("seeds", ["1"], "seeds to average over")
_RATE = flags.DEFINE_float("learning_rate", 0.003, "first learning rate of the 4-epoch recipes")
_BATCH = flags.DEFINE_integer("batch_size", 128, "batch size of the 4-epoch recipes")
_MODEL = "fm_resnet78k_fp32_9144.h5"


def main(_: list[str]) -> None:
    """Runs every row for every seed and prints the table."""
    folder = Path(_DATA_DIR.value)
    data = datasets.load("fashion_mnist", str(folder))
    model = keras.models.load_model(folder / _MODEL, compile=False)
    short = faq_keras.recipe("w8a8")
    long = {"epochs": 4, "learning_rate": _RATE.value, "batch_size": _BATCH.value}
    runs = [
        ("W8A8, 1 epoch", (8, 8), lambda: faq_keras.recipe(short.name)),
        ("W4A8, 4 epochs", (4, 8), lambda: faq_keras.recipe("w4a4", **long)),
        ("W4A4, 4 epochs", (4, 4), lambda: faq_keras.recipe("w4a4", **long)),
    ]
    controls: dict[tuple[str, str], np.ndarray] = {}
    rows = []
    for name, bits, make in runs:
        before, after, control = [], [], []
        for seed in _SEEDS.value:
            recipe = make()
            key = (recipe.name, seed)
            if key not in controls:
                controls[key] = _correct(_tuned(_copy(model), data, make(), seed), data)
            q = faq_keras.apply(model, bits, calibration_data=data.x_train[:1280])
            before.append(_correct(q, data).mean() * 100)
            after.append(_correct(_tuned(q, data, recipe, seed), data).mean() * 100)
            control.append(controls[key].mean() * 100)
            figures = [f"{values[-1]:.2f}" for values in (before, after, control)]
            print(f"{name}, seed {seed}: before, after, control:", *figures, flush=True)
        mean = statistics.mean
        gap = mean(after) - mean(control)
        lost = mean(control) - mean(before)
        won = f"{100 * (1 + gap / lost):.0f} %" if lost > 0 else "-"
        cells = [f"{mean(values):.2f}" for values in (before, after, control)]
        rows.append((name, *cells, f"{gap:+.2f}", won))
    columns = ("run", "before", "after", "fp32 control", "to control", "loss won back")
    print_table(columns, rows, f"Fashion-MNIST test accuracy (%), seeds {','.join(_SEEDS.value)}")


def _copy(model: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _tuned(
    model: keras.Model, data: datasets.Dataset, recipe: faq_keras.training.Recipe, seed: str
) -> keras.Model:
    keras.utils.set_random_seed(int(seed))
    faq_keras.fine_tune(model, (data.x_train, data.y_train), recipe, verbose=0)
    return model


def _correct(model: keras.Model, data: datasets.Dataset) -> np.ndarray:
    """Whether each test image is classified correctly."""
    return model.predict(data.x_test, batch_size=500, verbose=0).argmax(1) == data.y_test


if __name__ == "__main__":
    flags.mark_flag_as_required("data_dir")
    app.run(main)
