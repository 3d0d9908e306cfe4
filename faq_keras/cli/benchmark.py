"""Measures .tflite files: faq benchmark FILE [FILE...] [--device=DEVICE] [--num_runs=50].

Runs each file (packed or not, anybody's) after a warm-up and prints one line in the format of
TFLite's benchmark_model, then median, percentiles and what else the device can tell. Several files
(or devices, separated by commas) are compared at the end; on this machine files take turns.

Devices: local (this machine), aarch64 (ARM, emulated here), tflm (TensorFlow Lite Micro: arena
size), vela (Arm Ethos-U, estimated by its compiler), adb[:SERIAL] (Android phone, with
--benchmark_model=PATH), ssh:HOST (a board), coral (Edge TPU: what its compiler maps).
docs/devices.md says what each needs.

Example: faq benchmark model_int4.tflite --num_threads=2 --profile --json=latency.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from faq_keras.cli import common
from faq_keras.tflite.devices import DEVICES, BenchmarkResult, Options, chart, find, measure_all

FLAGS = flags.FlagValues()
_DEVICE = flags.DEFINE_list(
    "device",
    ["local"],
    f"where to run it: {', '.join(device.usage for device in DEVICES.values())}",
    flag_values=FLAGS,
)
_NUM_THREADS = flags.DEFINE_integer("num_threads", 1, "threads", lower_bound=1, flag_values=FLAGS)
_NUM_RUNS = flags.DEFINE_integer(
    "num_runs", 50, "runs to measure", lower_bound=1, flag_values=FLAGS
)
_WARMUP_RUNS = flags.DEFINE_integer(
    "warmup_runs", 5, "runs before that", lower_bound=1, flag_values=FLAGS
)
_PROFILE = flags.DEFINE_boolean("profile", False, "also measure each operator", flag_values=FLAGS)
_BENCHMARK_MODEL = flags.DEFINE_string(
    "benchmark_model", None, "TFLite's benchmark_model binary for the phone", flag_values=FLAGS
)
_VELA_CONFIG = flags.DEFINE_string(
    "vela_config", Options.vela_config, "Ethos-U configuration", flag_values=FLAGS
)
_CHART = flags.DEFINE_string(
    "chart", None, "also draw a bar chart: a .png, .svg or .pdf file", flag_values=FLAGS
)
_JSON = flags.DEFINE_string(
    "json",
    None,
    "also write the figures to this file: an object, a list if there are several",
    flag_values=FLAGS,
)


def main(arguments: list[str]) -> int:
    """Measures and compares files."""
    if not arguments:
        raise ValueError("expected the arguments: FILE [FILE...]; received: none.")
    _check_outputs()
    results = []
    for name in _DEVICE.value:
        for result in measure_all(arguments, name, _options(name)):
            if len(arguments) * len(_DEVICE.value) > 1:
                common.say(f"\n{result.path} on {name}")
            common.say("\n".join(map(str, [result, *result.details()])))
            results.append(result)
    _finish(results)
    return 0


def _check_outputs() -> None:
    """Refuses what cannot be written before minutes of measuring."""
    for name in _DEVICE.value:
        find(name)
    if not _DEVICE.value:
        raise ValueError("--device names no device; leave it out for this machine.")
    if _CHART.value and Path(_CHART.value).suffix not in chart.SUFFIXES:
        raise ValueError(f"--chart={_CHART.value} is none of {', '.join(chart.SUFFIXES)}.")
    for target in (_CHART.value, _JSON.value):
        if target and not Path(target).resolve().parent.is_dir():
            raise ValueError(f"Cannot write {target}: its folder does not exist. Create it first.")


def _options(name: str) -> Options:
    device, _ = find(name)
    return Options(
        num_threads=_NUM_THREADS.value,
        num_runs=_NUM_RUNS.value,
        warmup_runs=_WARMUP_RUNS.value,
        memory="memory" in device.takes,
        profile=_PROFILE.value,
        benchmark_model=_BENCHMARK_MODEL.value,
        vela_config=_VELA_CONFIG.value,
    )


def _finish(results: Sequence[BenchmarkResult]) -> None:
    """Compares, and writes the files that were asked for."""
    if len(results) > 1:
        common.say("")
        common.print_table(chart.HEADINGS, chart.rows(results))
    if _JSON.value:
        facts = [result.to_dict() for result in results]
        common.write_text(_JSON.value, json.dumps(facts[0] if len(facts) == 1 else facts, indent=1))
        common.say(f"Wrote {_JSON.value}")
    if _CHART.value:
        chart.bar_chart(results, _CHART.value)
        common.say(f"Wrote {_CHART.value}")
