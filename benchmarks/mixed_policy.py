"""Does a mixed policy beat uniform bits at equal size, right after quantization?

    python benchmarks/mixed_policy.py --data_dir=cifar-10-batches-py --weights=resnet20.pth

ResNet-20 on CIFAR-10-JPEG (`configs/cifar10_jpeg_resnet20_w4a4.py`), not fine-tuned. The
sensitivity of the weights is measured on the first test images (`--measured`); the networks are
compared on others (`--compared`). Kernels of the mixed network take no more bytes, packed at their
own widths, than those of the uniform one; activations have the same bits in both.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measure
import numpy as np
from absl import app, flags

import faq_keras
from faq_keras.cli import experiments
from faq_keras.configs import cifar10_jpeg_resnet20_w4a4
from faq_keras.diagnostics import Sensitivity, sensitivity, suggest_policy

_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of CIFAR-10", required=True)
_WEIGHTS = flags.DEFINE_string("weights", None, "PyTorch checkpoint of ResNet-20", required=True)
_MEASURED = flags.DEFINE_integer("measured", 1000, "images to measure the sensitivity on")
_COMPARED = flags.DEFINE_integer("compared", 3000, "other images to compare the networks on")
_WIDTHS = (2, 3, 4, 5, 6)
_ACTIVATIONS = (4, 8)


def timed(title: str, model: keras.Model, data: tuple, **options: object) -> Sensitivity:
    """A measurement, printed with its time."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = sensitivity(model, data, **options)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"\n{title}: {wall:.0f} s ({cpu:.0f} s of processor time)\n{found}", flush=True)
    return found


def main(_: list[str]) -> None:
    """Measures, suggests, compares."""
    print(measure.environment(), flush=True)
    config = cifar10_jpeg_resnet20_w4a4.get_config()
    config.data.data_dir, config.weights = _DATA_DIR.value, _WEIGHTS.value
    data = experiments.pipeline_of(config)
    model = experiments.network_of(config, data)
    batches = list(data.validation().unbatch().batch(1000).take(10).as_numpy_iterator())
    images, labels = (np.concatenate(column) for column in zip(*batches, strict=True))
    first = slice(_MEASURED.value)
    rest = slice(_MEASURED.value, _MEASURED.value + _COMPARED.value)
    calibration = list(data.calibration(5))

    def accuracy(network: keras.Model) -> float:
        scores = network.predict(images[rest], batch_size=250, verbose=0)
        return float(np.mean(scores.argmax(-1) == labels[rest]))

    known = (images[first], labels[first])
    timed("Whole layers at 4 bits", model, known, bits=4, calibration_data=calibration)
    found = timed(
        "Weights", model, known, bits=_WIDTHS, calibration_data=calibration, parts="weights"
    )
    print(f"\nfloat: {100 * accuracy(model):.2f} %")
    for bits in (4, 3):
        policy = suggest_policy(found, found.uniform_bytes(bits))
        widths = ", ".join(f"{name} {width}" for name, (width, _) in policy.overrides.items())
        print(f"{found.uniform_bytes(bits):,} bytes: uniform {bits} bits, or {widths}")
        for activations in _ACTIVATIONS:
            pair = [
                accuracy(faq_keras.apply(model, (bits, activations), calibration, policy=rules))
                for rules in (None, policy)
            ]
            print(
                f"  activations {activations} bits: uniform {100 * pair[0]:.2f} %, "
                f"mixed {100 * pair[1]:.2f} %",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
