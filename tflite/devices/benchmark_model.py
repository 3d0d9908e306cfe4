"""Reads what TFLite's `benchmark_model` prints.

    figures = parse(output)
    figures["mean_us"], figures["init_us"], figures["peak_memory_bytes"], figures["ops"]

The lines that count, wherever they stand (newer versions put `INFO: ` before them):

    count=50 first=8325 curr=10016 min=7863 max=10688 avg=8680.33 std=591 p5=7900 median=8600 p95=..
    Inference timings in us: Init: 1451, First inference: 11147, Warmup (avg): 8779.68, Inference ..
    Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859

and with --enable_op_profiling a table per graph and, if a delegate can tell, one of its insides.
Source of the format: tensorflow/lite/tools/benchmark/benchmark_model.cc and
tensorflow/core/util/stats_calculator.cc.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from faq_keras.tflite.devices.measurement import OpTime

_NUMBER = r"[-+.\deE]+"
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: ({_NUMBER}), First inference: ({_NUMBER}), "
    rf"Warmup \(avg\): ({_NUMBER}), Inference \(avg\): ({_NUMBER})"
)
_COUNT = re.compile(r"\bcount=\d+ .*")
_STATISTIC = re.compile(rf"(\w+)=({_NUMBER})")
# Its own reading of the largest resident size, minus that at its start.
_MEMORY = re.compile(
    rf"(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\): "
    rf"init={_NUMBER} overall=({_NUMBER})"
)
_PROFILE = "Operator-wise Profiling Info for Regular Benchmark Runs:"
_DELEGATE_PROFILE = "Delegate internal:"
_RUN_ORDER_HEADING = "[node type]"


def parse(output: str) -> dict[str, Any]:
    """The figures in the tool's output, as fields of a `BenchmarkResult`.

    Args:
        output: All that the tool printed.

    Returns:
        The times; `peak_memory_bytes`, `min_us`, `percentiles_us` and so on only where printed;
        `ops` if there is a profile. Empty without the line of timings: the tool did not get there.
    """
    timings = _TIMINGS.search(output)
    if timings is None:
        return {}
    init, first, warmup, mean = map(float, timings.groups())
    figures: dict[str, Any] = {
        "init_us": init,
        "first_us": first,
        "warmup_us": warmup,
        "mean_us": mean,
    }
    figures |= _statistics(output[: timings.start()])
    memory = _MEMORY.search(output)
    if memory:
        figures["peak_memory_bytes"] = round(float(memory[1]) * 2**20)
    if _PROFILE in output:
        figures["ops"] = tuple(_ops(output.split(_PROFILE, 1)[1]))
    return figures


def _statistics(output: str) -> dict[str, Any]:
    """What the last line of counts says: the warm-up has the one before it.

    A single run prints `count=1 curr=...` only; older versions print no percentiles.
    """
    lines = _COUNT.findall(output)
    if not lines:
        return {}
    values = {name: float(value) for name, value in _STATISTIC.findall(lines[-1])}
    figures: dict[str, Any] = {"num_runs": int(values["count"])}
    single = values.get("curr") if values["count"] == 1 else None
    for field, name in (("min_us", "min"), ("max_us", "max"), ("median_us", "median")):
        value = values.get(name, single)
        if value is not None:
            figures[field] = value
    percentiles = {name: values[name] for name in ("p5", "p95") if name in values}
    if percentiles:
        figures["percentiles_us"] = percentiles
    return figures


def _ops(profile: str) -> Iterator[OpTime]:
    """The operators in run order: those of the delegate instead of its one line in the graph."""
    graph, _, inside = profile.partition(_DELEGATE_PROFILE)
    inner = list(_run_order(inside))
    for op in _run_order(graph):
        if inner and op.op.lower().endswith("delegate"):
            yield from inner
            inner = []
        else:
            yield op
    yield from inner


def _run_order(section: str) -> Iterator[OpTime]:
    """The rows of a section's first table; its columns differ between versions."""
    columns: list[str] = []
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.split("\t")][1:]
        if not columns:
            columns = cells if _RUN_ORDER_HEADING in cells else []
        elif len(cells) == len(columns):
            row = dict(zip(columns, cells, strict=True))
            name = row["[Name]"].rsplit(":", 1)[0].strip("[]")
            yield OpTime(row["[node type]"], name, us=1000 * float(row["[avg ms]"]))
        else:
            return
