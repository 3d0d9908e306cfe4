"""How fast a .tflite file runs on this machine, in the terms of TFLite's `benchmark_model`.

    result = benchmark("model.tflite", num_threads=1, num_runs=50)
    print(result)            # Inference timings in us: Init: 5401, First inference: 812, ...
    result.median_us, result.percentiles_us["p90"]
    devices.measure("model.tflite", "tflm").arena_bytes     # elsewhere: faq_keras.tflite.devices

Packed files are unpacked at load, as `load` does, and that time counts as initialisation.
"""

from __future__ import annotations

import os

from faq_keras.tflite.devices import BenchmarkResult, Options, local
from faq_keras.tflite.devices.measurement import TimedResult

__all__ = ["BenchmarkResult", "TimedResult", "benchmark"]


def benchmark(
    path: str | os.PathLike[str],
    runtime: str = "xnnpack",
    num_threads: int = 1,
    num_runs: int = 50,
    warmup_runs: int = 5,
    batch: int = 1,
    memory: bool = False,
    profile: bool = False,
) -> TimedResult:
    """Measures a file on this machine.

    Args:
        path: The file, packed or not, ours or not.
        runtime: Name of the runtime.
        num_threads: Threads that it may use.
        num_runs: Runs to measure.
        warmup_runs: Runs before that, at least one.
        batch: Images per run.
        memory: Whether to measure the peak memory, in a process of its own.
        profile: Whether to measure each operator, alone.

    Raises:
        ValueError: If the file is missing or invalid, a count is not positive, or the runtime
            refuses the file.
    """
    options = Options(
        runtime=runtime,
        num_threads=num_threads,
        num_runs=num_runs,
        warmup_runs=warmup_runs,
        batch=batch,
        memory=memory,
        profile=profile,
    )
    return local.measure(os.fspath(path), options)
