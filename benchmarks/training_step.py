"""How long is a training step of the quantized network, compared with the float network's?

    python benchmarks/training_step.py
    python benchmarks/training_step.py --networks=resnet20 --rounds=10 --bits=8

The network of `faq_keras.apply` (W4A4, recipe optimizer) takes turns with the same float network in
Keras 3 and in tf_keras (SGD with momentum), none compiled by XLA, all by `train_on_batch`. Aims: at
most 0.9 of Keras 3's step (whose batch normalization is not fused) and at most 1.05 of tf_keras'
(whose is).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measure
import networks
import tensorflow as tf
import tf_keras
from absl import app, flags

import faq_keras

_NETWORKS = flags.DEFINE_list("networks", list(networks.CASES), "which networks")
_ROUNDS = flags.DEFINE_integer("rounds", 20, "steps of each candidate that count", lower_bound=1)
_BITS = flags.DEFINE_integer("bits", 4, "bits of weights and activations")
_BATCH = flags.DEFINE_integer("batch", 0, "images per step instead of the network's own")

_AIM_KERAS, _AIM_TF_KERAS = 0.9, 1.05


def compiled(model: Any, module: Any, optimizer: Any) -> Any:
    """The model, ready to train without XLA; `module` is its Keras."""
    loss = module.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, jit_compile=False)
    return model


def step(model: Any, x: tf.Tensor, y: tf.Tensor) -> Callable[[], object]:
    """One training step."""
    return lambda: model.train_on_batch(x, y)


def measure_network(name: str) -> None:
    """Prints the figures of one network."""
    case = networks.CASES[name]
    batch = _BATCH.value or case.batch
    model = case.build(keras)
    x, y = networks.images(model, batch), networks.labels(model, batch)
    quantized = faq_keras.apply(model, _BITS.value, calibration_data=x, calibration_batches=1)
    candidates = {
        "faq": compiled(quantized, keras, faq_keras.recipe("w4a4").optimizer),
        "keras": compiled(model, keras, keras.optimizers.SGD(0.01, momentum=0.9)),
        "tf_keras": compiled(
            case.build(tf_keras), tf_keras, tf_keras.optimizers.SGD(0.01, momentum=0.9)
        ),
    }
    x, y = tf.constant(x), tf.constant(y)
    steps = {key: step(candidate, x, y) for key, candidate in candidates.items()}
    times = measure.take_turns(steps, _ROUNDS.value, warmup=2)

    print(f"\n{name}, {' x '.join(map(str, model.input_shape[1:]))}, batch {batch}")
    for key, candidate_times in times.items():
        print(f"  {key}: {candidate_times}")
    print(measure.ratio_line("  faq / keras", times["faq"], times["keras"], _AIM_KERAS))
    line = measure.ratio_line("  faq / tf_keras", times["faq"], times["tf_keras"], _AIM_TF_KERAS)
    print(line, flush=True)


def main(_: list[str]) -> None:
    """Measures one network after the other."""
    print(measure.environment(), flush=True)
    for name in _NETWORKS.value:
        measure_network(name)


if __name__ == "__main__":
    app.run(main)
