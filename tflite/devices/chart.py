"""Compares measurements of several files or devices: a table of ratios and a bar chart.

for line in comparison(results):
    print(line)
bar_chart(results, "latency.png")       # or .svg, .pdf: time and size, one bar per result
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from faq_keras.files import atomic_write
from faq_keras.tflite.devices.measurement import BenchmarkResult

SUFFIXES = (".png", ".svg", ".pdf")
HEADINGS = ("file", "device", "median us", "to the first", "file bytes", "memory bytes")


def rows(results: Sequence[BenchmarkResult]) -> list[tuple[str, ...]]:
    """One row of text per result under `HEADINGS`; empty where the device cannot tell."""
    first = results[0].representative_us

    def number(value: float | None, form: str = ",.0f") -> str:
        return "" if value is None else format(value, form)

    table: list[tuple[str, ...]] = []
    for result, label in zip(results, _file_labels(results), strict=True):
        time = result.representative_us
        ratio = None if first is None or time is None else time / first
        memory = next((count for count in _memory(result) if count is not None), None)
        table.append(
            (
                label,
                _device_label(result),
                number(time, ",.1f"),
                number(ratio, ".3f"),
                number(result.file_bytes),
                number(memory),
            )
        )
    return table


def bar_chart(results: Sequence[BenchmarkResult], path: str | os.PathLike[str]) -> None:
    """Draws the times (with the 5th to 95th percentile where known) and sizes of files.

    Args:
        results: At least one that has a time.
        path: Picture to write; its suffix says in which format.

    Raises:
        ValueError: If the suffix is none of `SUFFIXES`, or no result has a time.
        OSError: If the picture cannot be written.
    """
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"{os.fspath(path)} is no picture: write {', '.join(SUFFIXES)}.")
    timed = [result for result in results if result.representative_us is not None]
    if not timed:
        raise ValueError("None of the devices tells a time: there is nothing to draw.")
    from matplotlib.figure import Figure  # half a second that other commands do not need

    labels = [
        f"{file}\n{_device_label(result)}"
        for result, file in zip(timed, _file_labels(timed), strict=True)
    ]
    figure = Figure(figsize=(10, 1.5 + 0.7 * len(timed)), layout="constrained")
    times, sizes = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    milliseconds = [(result.representative_us or 0.0) / 1000 for result in timed]
    whiskers = [_whiskers(result) for result in timed]
    bars = times.barh(labels, milliseconds, xerr=list(zip(*whiskers, strict=True)), capsize=3)
    times.bar_label(bars, [f"{value:.4g}" for value in milliseconds], padding=4)
    times.set_xlabel("ms per inference (median; bars: 5th to 95th percentile)")
    bars = sizes.barh(labels, [result.file_bytes / 1e6 for result in timed], color="tab:gray")
    sizes.bar_label(bars, [f"{result.file_bytes:,}" for result in timed], padding=4)
    sizes.set_xlabel("file, MB")
    times.margins(x=0.2)  # room for the numbers
    sizes.margins(x=0.4)
    times.invert_yaxis()  # the first on top; the axis is shared
    with atomic_write(path) as partial:
        figure.savefig(partial)


def _whiskers(result: BenchmarkResult) -> tuple[float, float]:
    """How far the 5th and 95th percentile lie from the bar's end, in milliseconds."""
    known, time = result.percentiles_us or {}, result.representative_us or 0.0
    return (
        max(time - known.get("p5", time), 0) / 1000,
        max(known.get("p95", time) - time, 0) / 1000,
    )


def _memory(result: BenchmarkResult) -> tuple[int | None, ...]:
    return result.peak_memory_bytes, result.arena_bytes, result.sram_bytes


def _device_label(result: BenchmarkResult) -> str:
    threads = f", {result.num_threads} threads" if (result.num_threads or 1) > 1 else ""
    return f"{result.device} ({result.runtime}{threads})"


def _file_labels(results: Sequence[BenchmarkResult]) -> list[str]:
    """Names of the files, with their folders only if the names alone are ambiguous."""
    paths = dict.fromkeys(result.path for result in results)
    names = {path: Path(path).name for path in paths}
    ambiguous = len(set(names.values())) < len(names)
    return [result.path if ambiguous else names[result.path] for result in results]
