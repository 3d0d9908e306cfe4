"""What does `GradientNoise` add to a training step?

    python benchmarks/diagnostics.py
    python benchmarks/diagnostics.py --network=resnet18 --bits=8 --rounds=40

Steps of the quantized network (recipe optimizer, `train_on_batch`) with and without the callback
take turns. The callback is also timed alone, as a share of the step: differences of two long times
are noisy. Aim: at most 3 % more.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measure
import networks
import numpy as np
import tensorflow as tf
from absl import app, flags

import faq_keras

_NETWORK = flags.DEFINE_enum("network", "resnet20", list(networks.CASES), "which network")
_ROUNDS = flags.DEFINE_integer("rounds", 20, "steps of each kind that count", lower_bound=1)
_BITS = flags.DEFINE_integer("bits", 4, "bits of weights and activations")

_AIM = 1.03


def measure_network(name: str) -> None:
    """Prints the figures of one network."""
    case = networks.CASES[name]
    model = case.build(keras)
    x, y = networks.images(model, case.batch), networks.labels(model, case.batch)
    q = faq_keras.apply(model, _BITS.value, calibration_data=x, calibration_batches=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    q.compile(optimizer=faq_keras.recipe("w4a4").optimizer, loss=loss, jit_compile=False)
    x, y = tf.constant(x), tf.constant(y)
    q.train_on_batch(x, y)
    noise = faq_keras.diagnostics.GradientNoise(every=100)
    noise.set_model(q)
    noise.on_train_begin()

    def with_noise() -> None:
        q.train_on_batch(x, y)
        noise.on_train_batch_end(0)

    steps = {"without": lambda: q.train_on_batch(x, y), "with": with_noise}
    times = measure.take_turns(steps, _ROUNDS.value, warmup=2)
    parts = {
        "step": lambda: q.train_on_batch(x, y),
        "callback": lambda: noise.on_train_batch_end(0),
    }
    alone = measure.take_turns(parts, _ROUNDS.value, warmup=1)

    print(f"\n{name}, batch {case.batch}, {_BITS.value} bits, one record per {noise.every} updates")
    for key, candidate in (times | alone).items():
        print(f"  {key}: {candidate}")
    print(measure.ratio_line("  with / without", times["with"], times["without"], _AIM))
    for clock in ("wall", "cpu"):
        share = np.median(
            np.divide(getattr(alone["callback"], clock), getattr(alone["step"], clock))
        )
        print(f"  callback / step, {clock}: {100 * share:.2f} %", flush=True)


def main(_: list[str]) -> None:
    """Measures."""
    print(measure.environment(), flush=True)
    measure_network(_NETWORK.value)


if __name__ == "__main__":
    app.run(main)
