"""How long does an export take, compared with TensorFlow's own float conversion?

    python benchmarks/export.py
    python benchmarks/export.py --networks=resnet20 --rounds=5

`faq_keras.export_tflite` takes turns with `tf.lite.TFLiteConverter.from_keras_model(...).convert()`
of the same float network; both end with the bytes on the disk. Aim: at most 1.0 for writing and
auditing the file (`verify=None`). The default, which then runs the file beside the model and
compares every tensor, is shown beside it and has no aim.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measure
import networks
import tensorflow as tf
from absl import app, flags, logging

import faq_keras

_NETWORKS = flags.DEFINE_list("networks", ["resnet18"], "which networks")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds that count", lower_bound=1)
_BITS = flags.DEFINE_integer("bits", 4, "bits of weights and activations")
_WEIGHTS = flags.DEFINE_enum("weights", "int8", ["int8", "int4"], "container of the weights")

_AIM = 1.0


def jobs(name: str, folder: Path) -> dict[str, Callable[[], object]]:
    """The candidates."""
    model = networks.CASES[name].build(keras)
    x = networks.images(model, 16)
    quantized = faq_keras.apply(model, _BITS.value, calibration_data=x, calibration_batches=1)
    path, weights = folder / "model.tflite", _WEIGHTS.value

    def convert() -> Any:
        # The converter announces its steps on stdout.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            converted = tf.lite.TFLiteConverter.from_keras_model(model).convert()
        return (folder / "float.tflite").write_bytes(converted)

    return {
        "export": lambda: faq_keras.export_tflite(quantized, path, weights, verify=None),
        "export and verify": lambda: faq_keras.export_tflite(quantized, path, weights),
        "converter": convert,
    }


def measure_network(name: str) -> None:
    """Prints the figures of one network."""
    with tempfile.TemporaryDirectory() as folder:
        times = measure.take_turns(jobs(name, Path(folder)), _ROUNDS.value)
    print(f"\n{name}, W{_BITS.value}A{_BITS.value}, weights={_WEIGHTS.value}")
    for job, job_times in times.items():
        print(f"  {job}: {job_times}")
    ours, theirs = times["export"], times["converter"]
    print(measure.ratio_line("  export / converter", ours, theirs, _AIM), flush=True)


def main(_: list[str]) -> None:
    """Measures one network after the other."""
    logging.set_verbosity(logging.ERROR)  # the converter reports its steps there too
    print(measure.environment(), flush=True)
    for name in _NETWORKS.value:
        measure_network(name)


if __name__ == "__main__":
    app.run(main)
