"""Runs one model in TensorFlow Lite Micro. A script, because TFLM may end a process it dislikes.

    python tflm_runner.py '{"path": "m.tflite", "arena": 65536, "warmup_runs": 5, "num_runs": 50}'

prints JSON with times in microseconds on stdout; TFLM itself writes what it allocated, or why it
refuses the model, to stderr. Imports nothing of faq_keras.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from tflite_micro.python.tflite_micro.runtime import Interpreter


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Loads and runs the model on random codes.

    Args:
        order: `path`, `arena` (bytes to reserve), `inputs` (how many), `warmup_runs`, `num_runs`.

    Returns:
        `init_us`, `warmup_us` and `runs_us`, the latter two one number per run.
    """
    with open(order["path"], "rb") as file:
        content = file.read()
    start = time.perf_counter_ns()
    interpreter = Interpreter.from_bytes(content, arena_size=order["arena"])
    init = (time.perf_counter_ns() - start) / 1000
    rng = np.random.default_rng(0)
    for index in range(order["inputs"]):
        details = interpreter.get_input_details(index)
        interpreter.set_input(_random(rng, details["shape"], np.dtype(details["dtype"])), index)
    times = []
    for _ in range(order["warmup_runs"] + order["num_runs"]):
        start = time.perf_counter_ns()
        interpreter.invoke()
        times.append((time.perf_counter_ns() - start) / 1000)
    interpreter.print_allocations()
    warmup = order["warmup_runs"]
    return {"init_us": init, "warmup_us": times[:warmup], "runs_us": times[warmup:]}


def _random(rng: np.random.Generator, shape: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.kind not in "iu":
        return rng.random(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
