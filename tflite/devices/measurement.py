r"""What goes into a measurement and what comes out, the same for every device.

options = Options(num_threads=2, num_runs=20)
result = DEVICES["local"].measure("model.tflite", options)
print(result)                        # Inference timings in us: Init: 5401, ...
print("\n".join(result.details()))   # the readable lines below it
result.median_us, result.arena_bytes # None where this device cannot tell
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

_PERCENTILES = (5, 50, 90, 95, 99)
# How many of the slowest operators `details` lists; the JSON has them all.
_SHOWN_OPS = 15


@dataclasses.dataclass(frozen=True)
class Options:
    """How to measure. A device refuses what it cannot honour (`Device.takes`).

    Attributes:
        target: Which one, if there are several: a host name, an adb serial; else empty.
        runtime: Name of the runtime (`faq_keras.tflite.runtimes`).
        num_threads: Threads that it may use.
        num_runs: Runs to measure.
        warmup_runs: Runs before that, at least one.
        batch: Images per run.
        memory: Whether to measure the peak memory, which takes a process of its own.
        profile: Whether to measure each operator.
        benchmark_model: Path of TFLite's `benchmark_model` binary for the device.
        vela_config: Name of the Ethos-U configuration.
    """

    target: str = ""
    runtime: str = "xnnpack"
    num_threads: int = 1
    num_runs: int = 50
    warmup_runs: int = 5
    batch: int = 1
    memory: bool = False
    profile: bool = False
    benchmark_model: str | None = None
    vela_config: str = "ethos-u55-128"

    def __post_init__(self) -> None:
        """Checks the counts.

        Raises:
            ValueError: If one is not positive.
        """
        for name in ("num_threads", "num_runs", "warmup_runs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")


@dataclasses.dataclass(frozen=True)
class OpTime:
    """What one operator costs.

    Attributes:
        op: Operator, such as `CONV_2D`.
        name: Name of the tensor that it computes.
        us: Microseconds per run; None if the device counts cycles.
        cycles: Cycles per run; None if the device takes times.
    """

    op: str
    name: str
    us: float | None = None
    cycles: int | None = None


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """Figures of one file on one device; None is what that device cannot tell.

    Times are in microseconds per run, memory in bytes.

    Attributes:
        path: The file.
        file_bytes: Its size, as stored.
        device: The device as asked for, such as `adb:R58M`.
        runtime: What ran (or compiled) the file there.
        num_threads: With how many threads.
        batch: Images per run.
        init_us: Reading, checking, unpacking and preparing.
        first_us: The first run.
        warmup_us: Mean of the warm-up runs, the first included.
        runs_us: Each measured run, where the device tells them one by one.
        num_runs: How many runs were measured.
        mean_us: Their mean.
        median_us: Their median, the figure to compare files by.
        min_us: The fastest.
        max_us: The slowest.
        percentiles_us: Percentiles by name, such as `p90`.
        undelegated: Tensors whose ops the runtime's delegate left to slower kernels.
        peak_memory_bytes: Peak of a process that loads and runs the file, above its baseline.
        arena_bytes: Smallest tensor arena of TensorFlow Lite Micro.
        cycles: Cycles per inference, estimated by a compiler.
        inferences_per_second: The same as a rate at the configuration's clock.
        sram_bytes: SRAM in use.
        dram_bytes: DRAM in use.
        flash_bytes: Flash in use.
        compiled_bytes: Size of the file that a device's compiler makes of this one.
        accelerator_ops: How many operators the accelerator takes.
        cpu_ops: Operators that it leaves to the CPU, each with its tensor or the reason.
        ops: Each operator, if asked for.
        notes: What one has to know to read the figures, in whole sentences.
    """

    path: str
    file_bytes: int
    device: str = "local"
    runtime: str = "xnnpack"
    num_threads: int | None = None
    batch: int = 1
    init_us: float | None = None
    first_us: float | None = None
    warmup_us: float | None = None
    runs_us: tuple[float, ...] = ()
    num_runs: int | None = None
    mean_us: float | None = None
    median_us: float | None = None
    min_us: float | None = None
    max_us: float | None = None
    percentiles_us: dict[str, float] | None = None
    undelegated: tuple[str, ...] = ()
    peak_memory_bytes: int | None = None
    arena_bytes: int | None = None
    cycles: int | None = None
    inferences_per_second: float | None = None
    sram_bytes: int | None = None
    dram_bytes: int | None = None
    flash_bytes: int | None = None
    compiled_bytes: int | None = None
    accelerator_ops: int | None = None
    cpu_ops: tuple[str, ...] | None = None
    ops: tuple[OpTime, ...] | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The line that `benchmark_model` prints, for the parsers that know it.

        A device that runs nothing (a compiler's estimate) has no such line: no figure is made up.
        """
        times = (self.init_us, self.first_us, self.warmup_us, self.mean_us)
        if None in times:
            return f"{self.path} on {self.device}: nothing was run"
        init, first, warmup, mean = times
        return (
            f"Inference timings in us: Init: {init:.0f}, First inference: {first:.0f}, "
            f"Warmup (avg): {warmup:.6g}, Inference (avg): {mean:.6g}"
        )

    @property
    def representative_us(self) -> float | None:
        """The time to compare by: median, else mean, else the compiler's estimate."""
        if self.median_us is not None or self.mean_us is not None:
            return self.median_us if self.median_us is not None else self.mean_us
        return 1e6 / self.inferences_per_second if self.inferences_per_second else None

    def details(self) -> list[str]:
        """Readable lines with everything that is known, for people."""
        threads = f", {self.num_threads} threads" if (self.num_threads or 1) > 1 else ""
        where = f"On {self.device}: {self.runtime}{threads}"
        known = [*self._time_lines(), *self._memory_lines(), *self._op_lines()]
        return [where, *known, *self.notes]

    def to_json(self) -> str:
        """The result as JSON text."""
        return json.dumps(self.to_dict(), indent=1)

    def to_dict(self) -> dict[str, Any]:
        """The result in JSON's types, without the single runs; unknown figures are null."""
        facts = dataclasses.asdict(self)
        del facts["runs_us"]
        return facts

    def _time_lines(self) -> list[str]:
        if self.median_us is not None:
            named = (self.percentiles_us or {}).items()
            shown = ", ".join(f"{name} {us:.0f}" for name, us in named)
            line = f"Median {self.median_us:.0f} us" + (f" ({shown})" if shown else "")
            return [f"{line}, {self.file_bytes:,} bytes"]
        if self.mean_us is not None:
            return [
                f"Mean {self.mean_us:.0f} us of {self.num_runs} runs, {self.file_bytes:,} bytes"
            ]
        lines = [f"{self.file_bytes:,} bytes"]
        if self.cycles is not None and self.inferences_per_second is not None:
            lines.append(
                f"Estimate: {self.cycles:,} cycles, {self.inferences_per_second:,.1f} inferences/s "
                f"({1e6 / self.inferences_per_second:,.1f} us)"
            )
        return lines

    def _memory_lines(self) -> list[str]:
        named = (
            ("Peak memory", self.peak_memory_bytes),
            ("Tensor arena", self.arena_bytes),
            ("SRAM", self.sram_bytes),
            ("DRAM", self.dram_bytes),
            ("Flash", self.flash_bytes),
            ("Compiled file", self.compiled_bytes),
        )
        return [f"{name}: {count:,} bytes" for name, count in named if count is not None]

    def _op_lines(self) -> list[str]:
        lines = []
        if self.undelegated:
            lines.append(f"Left to the built-in kernels: {', '.join(self.undelegated)}")
        if self.cpu_ops is not None:
            taken = "?" if self.accelerator_ops is None else str(self.accelerator_ops)
            left = ", ".join(self.cpu_ops) or "none"
            lines.append(f"Operators on the accelerator: {taken}; left to the CPU: {left}")
        return lines + (op_lines(self.ops) if self.ops else [])


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimedResult(BenchmarkResult):
    """The result of runs that were timed one by one: these figures are always there.

    Attributes:
        mean_us: Mean time of a run.
        median_us: Median time of a run, the figure to compare files by.
    """

    mean_us: float
    median_us: float


def statistics(runs_us: Sequence[float]) -> dict[str, Any]:
    """The fields of a `TimedResult` that follow from the single runs.

    Args:
        runs_us: Microseconds of each run, at least one.
    """
    return {
        "runs_us": tuple(runs_us),
        "num_runs": len(runs_us),
        "mean_us": float(np.mean(runs_us)),
        "median_us": float(np.median(runs_us)),
        "min_us": min(runs_us),
        "max_us": max(runs_us),
        "percentiles_us": {f"p{p}": float(np.percentile(runs_us, p)) for p in _PERCENTILES},
    }


def op_lines(ops: Sequence[OpTime]) -> list[str]:
    """The costliest operators, one line each, with their share of the sum of all."""
    costs = [op.us if op.us is not None else float(op.cycles or 0) for op in ops]
    total = sum(costs) or 1.0
    ranked = sorted(zip(costs, ops, strict=True), key=lambda pair: -pair[0])
    lines = [f"Per operator ({len(ops)}, sum {_cost(ops[0], sum(costs))}):"]
    for cost, op in ranked[:_SHOWN_OPS]:
        lines.append(f"  {_cost(op, cost):>16}  {cost / total:6.1%}  {op.op}  {op.name}")
    hidden = ranked[_SHOWN_OPS:]
    if hidden:
        rest = sum(cost for cost, _ in hidden)
        lines.append(f"  {_cost(ops[0], rest):>16}  {rest / total:6.1%}  {len(hidden)} others")
    return lines


def _cost(op: OpTime, cost: float) -> str:
    return f"{cost:,.1f} us" if op.us is not None else f"{cost:,.0f} cycles"
