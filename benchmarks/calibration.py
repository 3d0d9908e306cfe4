"""What does calibration cost over the forward passes it needs?

    python benchmarks/calibration.py
    python benchmarks/calibration.py --networks=resnet20 --rounds=5

Compared are `faq_keras.calibration.calibrate` on some batches of images and what a user would run
to push the same batches through the float network: `tf.function(model)`, called once per batch.
Both are traced anew in every round, as in life. Aims: at most 1.3 times the time, and at most 1.5
times the memory: how far the peak of a fresh process that calibrates rises above what it held when
model and images were made, over how far it rises with the forward passes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measure
import networks
import numpy as np
import tensorflow as tf
from absl import app, flags

from faq_keras.calibration import calibrate
from faq_keras.graph_reader import read_graph

_NETWORKS = flags.DEFINE_list("networks", list(networks.CASES), "which networks")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds that count", lower_bound=1)
_MEMORY_ROUNDS = flags.DEFINE_integer("memory_rounds", 3, "processes of each kind", lower_bound=0)

_PERCENTILE = 99.9
_AIM_TIME, _AIM_MEMORY = 1.3, 1.5


def jobs(name: str) -> dict[str, Callable[[], object]]:
    """The two candidates on a new model."""
    case = networks.CASES[name]
    model = case.build(keras)
    count, size = case.calibration
    batches = np.split(networks.images(model, count * size), count)
    graph = read_graph(model)
    percentile = {node.name: _PERCENTILE for node in graph.quantized_nodes}

    def forward() -> list[Any]:
        run = tf.function(model, jit_compile=False)
        return [run(tf.constant(batch)).numpy() for batch in batches]

    def calibration() -> object:
        return calibrate(graph, batches, count, percentile)

    return {"calibration": calibration, "forward": forward}


def peak(name: str, job: str) -> float:
    """MB that a job takes in this process, above what the process has before."""
    return measure.peak_memory_above_now(jobs(name)[job])


def measure_network(name: str) -> None:
    """Prints the figures of one network."""
    times = measure.take_turns(jobs(name), _ROUNDS.value)
    count, size = networks.CASES[name].calibration
    print(f"\n{name}, {count} batches of {size} images")
    for job, job_times in times.items():
        print(f"  {job}: {job_times}")
    ours, theirs = times["calibration"], times["forward"]
    print(measure.ratio_line("  time, calibration / forward", ours, theirs, _AIM_TIME), flush=True)
    peaks: dict[str, list[float]] = {job: [] for job in times}
    for _ in range(_MEMORY_ROUNDS.value):
        for job, values in peaks.items():
            values.append(measure.alone(peak, name, job))
    if _MEMORY_ROUNDS.value:
        ours, theirs = (float(np.median(values)) for values in peaks.values())
        ratio = measure.verdict(ours / theirs, _AIM_MEMORY)
        line = f"  memory, calibration / forward: {ours:.0f} MB / {theirs:.0f} MB = {ratio}"
        print(line, flush=True)


def main(_: list[str]) -> None:
    """Measures one network after the other."""
    print(measure.environment(), flush=True)
    for name in _NETWORKS.value:
        measure_network(name)


if __name__ == "__main__":
    app.run(main)
