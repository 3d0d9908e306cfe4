"""Is a training step on two devices as fast as on one with the same cores?

    python benchmarks/distribution.py
    python benchmarks/distribution.py --networks=resnet18 --rounds=5

Two logical CPU devices share what one device has alone: TensorFlow's threads on all cores of this
machine. So two devices cannot be faster, and what they lose is the cost of the distribution:
exchanging batch statistics and gradients, and keeping two copies of everything. The steps are those
of `faq train` (`faq_keras.training.distribution`), W4A4 with the recipe's optimizer, on the same
batches from memory. Aim: at least 0.9 of the images per second.
"""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measure
import networks
import numpy as np
import tensorflow as tf
from absl import app, flags

import faq_keras
from faq_keras.training import distribution
from faq_keras.training.interruption import StopRequest

_NETWORKS = flags.DEFINE_list("networks", list(networks.CASES), "which networks")
_ROUNDS = flags.DEFINE_integer("rounds", 20, "steps of each candidate that count", lower_bound=1)
_BITS = flags.DEFINE_integer("bits", 4, "bits of weights and activations")

_AIM = 0.9


def step(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, strategy: tf.distribute.Strategy
) -> Callable[[], object]:
    """One training step of a copy of the model on the devices of a strategy."""
    with strategy.scope():
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        copy.compile(
            faq_keras.recipe("w4a4").optimizer, loss, metrics=["accuracy"], jit_compile=False
        )
        steps = distribution.steps_of(copy)
        steps.build((images, labels))
        data = tf.data.Dataset.from_tensors((images, labels)).repeat()
        iterator = steps.batches(data)

    def run() -> object:
        with strategy.scope():
            return float(steps.step(iterator, StopRequest())["loss"])  # waits for the step's end

    return run


def measure_network(name: str, two: tf.distribute.Strategy) -> None:
    """Prints the figures of one network."""
    case = networks.CASES[name]
    model = case.build(keras)
    images, labels = networks.images(model, case.batch), networks.labels(model, case.batch)
    model = faq_keras.apply(model, _BITS.value, calibration_data=images, calibration_batches=1)
    strategies = {"one device": tf.distribute.get_strategy(), "two devices": two}
    steps = {key: step(model, images, labels, each) for key, each in strategies.items()}
    times = measure.take_turns(steps, _ROUNDS.value, warmup=2)

    print(f"\n{name}, {' x '.join(map(str, model.input_shape[1:]))}, batch {case.batch}")
    for key, candidate_times in times.items():
        print(f"  {key}: {candidate_times}")
    speed = measure.ratio_line(
        "  images per second, two devices / one",
        times["one device"],
        times["two devices"],
        _AIM,
        True,
    )
    print(f"{speed}; load now: {os.getloadavg()[0]:.1f}", flush=True)


def main(_: list[str]) -> None:
    """Measures one network after the other."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    print(measure.environment(), flush=True)
    two = distribution.strategy_named("mirrored")
    for name in _NETWORKS.value:
        measure_network(name, two)


if __name__ == "__main__":
    app.run(main)
