"""This machine: times in this process, peak memory in a fresh one, each operator alone.

    result = measure("model.tflite", Options(num_threads=2, memory=True, profile=True))
    result.median_us, result.peak_memory_bytes, result.ops

Several files take turns (`measure_together`). Packed files are unpacked at load, as
`faq_keras.tflite.load` does, and that counts as initialisation. Inputs are random codes: integer
kernels take the same time for all values.

LiteRT's Python interpreter has no profiler. So `profile` measures each operator as a model of its
own (`single_ops`), with the file's own constants: times that can be compared with each other. Their
sum is not the time of the network: every model pays for its own call (some microseconds), finds its
constants in the cache and has its input laid out for it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from faq_keras.tflite import loader
from faq_keras.tflite.devices import memory, single_ops, tools
from faq_keras.tflite.devices.measurement import OpTime, Options, TimedResult, statistics

# How often files that are compared take turns.
_TURNS = 10
# Seconds that the process which measures memory may take.
_MEMORY_TIMEOUT = 600


def measure(path: str, options: Options) -> TimedResult:
    """Measures a file here.

    Raises:
        ValueError: If the file is missing or invalid, or the runtime refuses it.
    """
    return measure_together([path], options)[0]


def measure_together(paths: Sequence[str], options: Options) -> list[TimedResult]:
    """Measures files here that are to be compared: they take turns.

    The speed of a machine drifts, so files measured one after the other differ even if they are
    equal. Each turn starts with a run that does not count, which finds the other file's data in the
    processor's caches.

    Raises:
        ValueError: If a file is missing or invalid, or the runtime refuses it.
    """
    loaded = [_Loaded(path, options) for path in paths]
    turns = 1 if len(paths) == 1 else min(_TURNS, options.num_runs)
    runs: list[list[float]] = [[] for _ in loaded]
    for turn in range(turns):
        count = len(range(turn, options.num_runs, turns))  # the runs that fall to this turn
        for times, one in zip(runs, loaded, strict=True):
            if turns > 1:
                one.run()
            times += repeated(one.run, count)
    return [one.result(times, options) for one, times in zip(loaded, runs, strict=True)]


class _Loaded:
    """A file that is loaded and warm.

    Attributes:
        run: Runs it once.
    """

    def __init__(self, path: str, options: Options) -> None:
        self._path = path
        start = time.perf_counter_ns()
        self._runner = loader.load(path, options.runtime, options.num_threads)
        self._init = (time.perf_counter_ns() - start) / 1000
        self.run = self._runner.prepare(self._runner.random_inputs(options.batch))
        self._warmup = repeated(self.run, options.warmup_runs)

    def result(self, runs: list[float], options: Options) -> TimedResult:
        """The figures, with what else was asked for."""
        peak = peak_memory(self._path, options) if options.memory else None
        return TimedResult(
            path=self._path,
            file_bytes=Path(self._path).stat().st_size,
            device="local",
            runtime=options.runtime,
            num_threads=options.num_threads,
            batch=options.batch,
            init_us=self._init,
            first_us=self._warmup[0],
            warmup_us=float(np.mean(self._warmup)),
            undelegated=self._runner.undelegated,
            peak_memory_bytes=peak,
            ops=profile(self._runner, options) if options.profile else None,
            notes=_notes(options, peak),
            **statistics(runs),
        )


def repeated(run: Callable[[], object], count: int) -> list[float]:
    """Microseconds of each of `count` runs."""
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        run()
        times.append((time.perf_counter_ns() - start) / 1000)
    return times


def peak_memory(path: str, options: Options) -> int | None:
    """Bytes by which loading and running a file raises a fresh process above its baseline.

    The baseline is the process with Python, numpy and the runtime imported but no model; the peak
    includes what the loader needs to check and unpack the file.

    Returns:
        None where the system does not tell (only Linux's /proc does).

    Raises:
        ValueError: If the process fails.
    """
    order = {
        "package": _package_path(),
        "path": path,
        "runtime": options.runtime,
        "num_threads": options.num_threads,
        "batch": options.batch,
    }
    # -P: the script's folder is no place to import from.
    command = [sys.executable, "-P", str(memory.__file__), json.dumps(order)]
    done = tools.run(command, _MEMORY_TIMEOUT, "local")
    if done.returncode:
        raise ValueError(
            f"The process that measures the memory of '{path}' {tools.ending(done.returncode)}: "
            f"{tools.last_line(done.stderr)}."
        )
    peak = json.loads(done.stdout)
    return None if peak is None else int(peak)


def profile(runner: loader.Runner, options: Options) -> tuple[OpTime, ...]:
    """The median time of each operator, run as a model of its own, in execution order."""
    result = []
    for single in single_ops.cut(runner.file):
        alone = loader.Runner(single.file, options.runtime, options.num_threads)
        run = alone.prepare(alone.random_inputs(options.batch))
        repeated(run, options.warmup_runs)
        runs = repeated(run, options.num_runs)
        result.append(OpTime(single.op, single.name, us=float(np.median(runs))))
    return tuple(result)


def _package_path() -> list[str]:
    """Where this package is, without importing all of it."""
    spec = importlib.util.find_spec("faq_keras")
    return list(spec.submodule_search_locations or ()) if spec else []


def _notes(options: Options, peak: int | None) -> tuple[str, ...]:
    notes = []
    if options.memory and peak is None:
        notes.append("Peak memory is unknown: this system has no /proc/self/clear_refs.")
    if options.profile:
        notes.append("Per operator: each one timed alone; their sum is not the network's time.")
    return tuple(notes)
