"""How fast a .tflite file runs on this machine, in the terms of TFLite's `benchmark_model`.

    result = benchmark("model.tflite", num_threads=1, num_runs=50)
    print(result)            # Inference timings in us: Init: 5401, First inference: 812, ...
    result.median_us, result.percentiles_us["p90"]

Packed files are unpacked at load, as `load` does, and that time counts as initialisation. Inputs
are random codes: integer kernels take the same time for all values.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from faq_keras.tflite import loader

_PERCENTILES = (5, 50, 90, 95, 99)


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """Times of one file, in microseconds.

    Attributes:
        path: The file.
        file_bytes: Its size.
        runtime: Which runtime ran it.
        num_threads: With how many threads.
        batch: Images per run.
        init_us: Reading, checking, unpacking and preparing.
        first_us: The first run.
        warmup_us: Mean of the warm-up runs, the first included.
        runs_us: Each measured run.
        undelegated: Tensors whose ops the runtime's delegate left to slower kernels.
    """

    path: str
    file_bytes: int
    runtime: str
    num_threads: int
    batch: int
    init_us: float
    first_us: float
    warmup_us: float
    runs_us: tuple[float, ...]
    undelegated: tuple[str, ...] = ()

    @property
    def mean_us(self) -> float:
        """Mean time of a run."""
        return float(np.mean(self.runs_us))

    @property
    def median_us(self) -> float:
        """Median time of a run, the figure to compare files by."""
        return float(np.median(self.runs_us))

    @property
    def percentiles_us(self) -> dict[str, float]:
        """Percentiles of the runs' times."""
        return {f"p{p}": float(np.percentile(self.runs_us, p)) for p in _PERCENTILES}

    def __str__(self) -> str:
        """The line that `benchmark_model` prints, for the parsers that know it."""
        return (
            f"Inference timings in us: Init: {self.init_us:.0f}, "
            f"First inference: {self.first_us:.0f}, Warmup (avg): {self.warmup_us:.6g}, "
            f"Inference (avg): {self.mean_us:.6g}"
        )

    def to_json(self) -> str:
        """The result as JSON text."""
        facts = dataclasses.asdict(self)
        del facts["runs_us"]
        facts |= {
            "num_runs": len(self.runs_us),
            "mean_us": self.mean_us,
            "median_us": self.median_us,
            "min_us": min(self.runs_us),
            "max_us": max(self.runs_us),
            "percentiles_us": self.percentiles_us,
        }
        return json.dumps(facts, indent=1)


def benchmark(
    path: str | os.PathLike[str],
    runtime: str = "xnnpack",
    num_threads: int = 1,
    num_runs: int = 50,
    warmup_runs: int = 5,
    batch: int = 1,
) -> BenchmarkResult:
    """Measures a file.

    Args:
        path: The file, packed or not, ours or not.
        runtime: Name of the runtime.
        num_threads: Threads that it may use.
        num_runs: Runs to measure.
        warmup_runs: Runs before that, at least one.
        batch: Images per run.

    Raises:
        ValueError: If the file is missing or invalid, or a count is not positive.
    """
    for name, count in (("num_runs", num_runs), ("warmup_runs", warmup_runs), ("batch", batch)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}.")
    start = time.perf_counter_ns()
    runner = loader.load(path, runtime, num_threads)
    init = (time.perf_counter_ns() - start) / 1000
    run = runner.prepare(runner.random_inputs(batch))
    warmup = [_microseconds(run) for _ in range(warmup_runs)]
    runs = tuple(_microseconds(run) for _ in range(num_runs))
    return BenchmarkResult(
        path=os.fspath(path),
        file_bytes=Path(path).stat().st_size,
        runtime=runtime,
        num_threads=num_threads,
        batch=batch,
        init_us=init,
        first_us=warmup[0],
        warmup_us=float(np.mean(warmup)),
        runs_us=runs,
        undelegated=runner.undelegated,
    )


def _microseconds(run: Callable[[], None]) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1000
