"""What the benchmarks share: measuring side by side, and saying on what.

The speed of a machine drifts, so times of two runs say little. Here the candidates take turns
(A B A B ...), and the ratio is the median of the ratios of neighbours. Beside the elapsed time,
which the aims are about, stands the processor time, which other processes disturb less:

    times = take_turns({"ours": f, "theirs": g}, rounds=10)
    print(ratio_line("ours / theirs", times["ours"], times["theirs"], aim=1.0))
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("faq_keras", "tensorflow", "keras", "tf_keras", "ai-edge-litert", "numpy")


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a candidate in each round.

    Attributes:
        wall: Elapsed.
        cpu: Spent by this process' threads.
    """

    wall: list[float]
    cpu: list[float]

    def __str__(self) -> str:
        """The medians in milliseconds."""
        wall, cpu = (1000 * float(np.median(clock)) for clock in (self.wall, self.cpu))
        return f"{wall:.2f} ms ({cpu:.2f} ms of processor time)"


def take_turns(
    candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1
) -> dict[str, Times]:
    """Times of each candidate in each round, after `warmup` rounds that do not count."""
    times = {name: Times([], []) for name in candidates}
    for turn in range(-warmup, rounds):
        for name, run in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn >= 0:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
    return times


def ratio_line(
    title: str, numerator: Times, denominator: Times, aim: float, at_least: bool = False
) -> str:
    """One line: the median of the rounds' ratios, what surrounds it, and whether the aim is met."""
    low, ratio, high = np.percentile(np.divide(numerator.wall, denominator.wall), (25, 50, 75))
    cpu = np.median(np.divide(numerator.cpu, denominator.cpu))
    fastest = min(numerator.wall) / min(denominator.wall)
    return (
        f"{title}: {verdict(float(ratio), aim, at_least)} (quartiles {low:.3f} to {high:.3f} of "
        f"{len(numerator.wall)} rounds; fastest rounds {fastest:.3f}; processor time {cpu:.3f})"
    )


def verdict(ratio: float, aim: float, at_least: bool = False) -> str:
    """A ratio, its aim, and whether it is met."""
    met = ratio >= aim if at_least else ratio <= aim
    return f"{ratio:.3f}, aim {'>=' if at_least else '<='} {aim:g} {'met' if met else 'NOT MET'}"


def environment() -> str:
    """One line: versions, threads and processor."""
    import tensorflow as tf

    threads = tf.config.threading.get_intra_op_parallelism_threads() or "all"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0]
    return (
        f"{versions}; {_processor()}, {cores} cores, TensorFlow threads: {threads}; "
        f"load of the machine at the start: {load:.1f}"
    )


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a module-level function, run in a fresh process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory_above_now(run: Callable[[], object]) -> float:
    """Runs something; how many MB this process' memory rose above what it was before (Linux)."""
    from faq_keras.tflite.devices import memory

    before = memory.reset_peak()
    if before is None:
        raise RuntimeError("This system does not tell the peak memory of a process.")
    run()
    return (memory.status_bytes("VmHWM") - before) / 2**20


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"
