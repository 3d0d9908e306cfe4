"""Does a mixed policy beat uniform bits at equal size, right after quantization or reconstruction?

    python benchmarks/mixed_policy.py --data_dir=cifar-10-batches-py --weights=resnet20.pth
    python benchmarks/mixed_policy.py --data_dir=fashion-mnist --weights=78k.h5 --after=reconstruct

A checkpoint .pth is ResNet-20 on CIFAR-10-JPEG (`configs/cifar10_jpeg_resnet20_w4a4.py`), a .h5 a
network for Fashion-MNIST; neither is fine-tuned. Kernels of the mixed network take no more bytes,
packed at their own widths, than those of the uniform one; activations have the same bits in both.

Right after quantization, the sensitivity is measured on the first test images (`--measured`) with
their labels, and the networks are compared on others (`--compared`). With `--after=reconstruct`
everything but the comparison sees training images without labels: the calibration, the sensitivity,
and the reconstruction of the networks with 256 of them. Policies for accuracy floors follow:
what they promise is compared with the agreement with the float network on the test images.
"""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measure
import numpy as np
from absl import app, flags

import faq_keras
from faq_keras.cli import experiments
from faq_keras.configs import cifar10_jpeg_resnet20_w4a4
from faq_keras.data import datasets
from faq_keras.diagnostics import Sensitivity, sensitivity, suggest_policy
from faq_keras.diagnostics.layer_sensitivity import kernel_bytes

_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of the data", required=True)
_WEIGHTS = flags.DEFINE_string(
    "weights", None, "ResNet-20 as a .pth, or a .h5 for Fashion-MNIST", required=True
)
_AFTER = flags.DEFINE_enum("after", "apply", ["apply", "reconstruct"], "when to compare")
_MEASURED = flags.DEFINE_integer("measured", 1000, "images to measure the sensitivity on")
_COMPARED = flags.DEFINE_integer("compared", 3000, "test images to compare the networks on")
_UNIFORM = flags.DEFINE_multi_integer("uniform", [4, 3], "bits of the uniform networks")
_WIDTHS = (2, 3, 4, 5, 6)
_ACTIVATIONS = (4, 8)
_RECONSTRUCTED = 256  # images
_CALIBRATED = 1280
_FLOORS = (0.005, 0.01, 0.02)  # below the accuracy at 8 bits


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A float network, test images and their classes, and training images."""

    model: keras.Model
    images: np.ndarray
    labels: np.ndarray
    training: np.ndarray

    def correct(self, network: keras.Model, start: int) -> np.ndarray:
        """Whether each of the test images to compare on, from `start`, is classified rightly."""
        chosen = slice(start, start + _COMPARED.value)
        scores = network.predict(self.images[chosen], batch_size=250, verbose=0)
        return scores.argmax(-1) == self.labels[chosen]


def resnet20() -> Task:
    """ResNet-20 on CIFAR-10-JPEG."""
    config = cifar10_jpeg_resnet20_w4a4.get_config()
    config.data.data_dir, config.weights = _DATA_DIR.value, _WEIGHTS.value
    data = experiments.pipeline_of(config)
    model = experiments.network_of(config, data)
    batches = list(data.validation().unbatch().batch(1000).take(10).as_numpy_iterator())
    images, labels = (np.concatenate(column) for column in zip(*batches, strict=True))
    training = np.concatenate([np.asarray(batch) for batch in data.calibration(10)])
    return Task(model, images, labels, training[:_CALIBRATED])


def fashion_mnist() -> Task:
    """A network for Fashion-MNIST."""
    data = datasets.load("fashion_mnist", _DATA_DIR.value)
    model = keras.models.load_model(_WEIGHTS.value, compile=False)
    return Task(model, data.x_test, data.y_test, data.x_train[:_CALIBRATED])


def timed(title: str, model: keras.Model, data: object, **options: object) -> Sensitivity:
    """A measurement, printed with its time."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = sensitivity(model, data, **options)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"\n{title}: {wall:.0f} s ({cpu:.0f} s of processor time)\n{found}", flush=True)
    return found


def paired(one: np.ndarray, other: np.ndarray) -> str:
    """How many points the other is better, with the standard error of the pairs."""
    gain = other.astype(float) - one
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return f"{100 * gain.mean():+.2f} points (standard error {100 * error:.2f})"


def compare(
    task: Task,
    policies: dict[str, Callable[[int], faq_keras.Policy | None]],
    found: Sensitivity,
    start: int,
) -> None:
    """Prints the accuracy of every policy at each size, against the first of them."""
    reconstructed = _AFTER.value == "reconstruct"
    print(f"\nfloat: {100 * task.correct(task.model, start).mean():.2f} %")
    for bits in _UNIFORM.value:
        print(f"{found.uniform_bytes(bits):,} bytes: uniform {bits} bits")
        chosen = {name: policy(bits) for name, policy in policies.items()}
        for name, policy in chosen.items():
            widths = policy.overrides.items() if policy else ()
            print(f"  {name}: {', '.join(f'{layer} {width}' for layer, (width, _) in widths)}")
        for activations in _ACTIVATIONS:
            first = None
            for name, policy in chosen.items():
                q = faq_keras.apply(task.model, (bits, activations), task.training, policy=policy)
                if reconstructed:
                    faq_keras.reconstruct(q, task.training[:_RECONSTRUCTED])
                right = task.correct(q, start)
                gain = "" if first is None else f", {paired(first, right)}"
                first = right if first is None else first
                line = f"  activations {activations} bits, {name}: {100 * right.mean():.2f} %{gain}"
                print(line, flush=True)


def compare_floors(task: Task, found: Sensitivity) -> None:
    """Prints the size and the agreement with the float network that a floor gives."""
    task = dataclasses.replace(
        task, labels=task.model.predict(task.images, batch_size=250, verbose=0).argmax(-1)
    )
    for below in _FLOORS:
        floor = found.accuracy - below
        policy = suggest_policy(found, least_accuracy=floor, after="reconstruct")
        q = faq_keras.apply(task.model, 8, task.training, policy=policy)
        faq_keras.reconstruct(q, task.training[:_RECONSTRUCTED])
        plan = faq_keras.plan_of(q)
        sizes = [kernel_bytes(n, plan[name].kernel.bits) for name, n in found.weights.items()]
        right = task.correct(q, 0)
        error = right.std(ddof=1) / np.sqrt(len(right))
        print(
            f"floor {100 * floor:.2f} %: kernels of {sum(sizes):,} bytes, agreement "
            f"{100 * right.mean():.2f} % (standard error {100 * error:.2f})",
            flush=True,
        )


def main(_: list[str]) -> None:
    """Measures, suggests, compares."""
    print(measure.environment(), flush=True)
    warnings.filterwarnings("ignore", "The quantized network is far from the float one")
    task = resnet20() if Path(_WEIGHTS.value).suffix == ".pth" else fashion_mnist()
    options = {"calibration_data": task.training, "bits": _WIDTHS, "parts": "weights"}
    policies: dict[str, Callable[[int], faq_keras.Policy | None]] = {"uniform": lambda _: None}
    if _AFTER.value == "apply":
        first = slice(_MEASURED.value)
        known = (task.images[first], task.labels[first])
        timed("Whole layers", task.model, known, bits=4, calibration_data=task.training)
        found = timed("Weights", task.model, known, **options)
        policies["mixed"] = lambda bits: suggest_policy(found, found.uniform_bytes(bits))
        compare(task, policies, found, _MEASURED.value)
        return
    unlabelled = task.training[: _MEASURED.value]
    before = timed("Weights", task.model, unlabelled, **options)
    after = timed("Weights", task.model, unlabelled, **options, after="reconstruct")
    policies["mixed after apply"] = lambda bits: suggest_policy(before, before.uniform_bytes(bits))
    policies["mixed after reconstruct"] = lambda bits: suggest_policy(
        after, after.uniform_bytes(bits), after="reconstruct"
    )
    compare(task, policies, after, 0)
    compare_floors(task, after)


if __name__ == "__main__":
    app.run(main)
