"""Measures the latency of a .tflite file: faq benchmark m.tflite [--num_threads=1] [--num_runs=50].

Runs the file (packed or not, anybody's) on this machine after a warm-up and prints one line in the
format of TFLite's benchmark_model, then the median and percentiles.

Example: faq benchmark model_int4.tflite --num_threads=2 --json=latency.json
"""

from __future__ import annotations

from absl import flags

from faq_keras.cli import common
from faq_keras.tflite.benchmark import benchmark

FLAGS = flags.FlagValues()
_DEVICE = flags.DEFINE_enum("device", "local", ["local"], "where to run it", flag_values=FLAGS)
_NUM_THREADS = flags.DEFINE_integer("num_threads", 1, "threads", lower_bound=1, flag_values=FLAGS)
_NUM_RUNS = flags.DEFINE_integer(
    "num_runs", 50, "runs to measure", lower_bound=1, flag_values=FLAGS
)
_WARMUP_RUNS = flags.DEFINE_integer(
    "warmup_runs", 5, "runs before that", lower_bound=1, flag_values=FLAGS
)
_JSON = flags.DEFINE_string("json", None, "also write the figures to this file", flag_values=FLAGS)


def main(arguments: list[str]) -> int:
    """Measures one file."""
    (path,) = common.positional(arguments, "m.tflite")
    result = benchmark(
        path,
        num_threads=_NUM_THREADS.value,
        num_runs=_NUM_RUNS.value,
        warmup_runs=_WARMUP_RUNS.value,
    )
    print(result)
    percentiles = ", ".join(f"{name} {us:.0f}" for name, us in result.percentiles_us.items())
    print(f"Median {result.median_us:.0f} us ({percentiles}), {result.file_bytes:,} bytes")
    if result.undelegated:
        print(f"Left to the built-in kernels: {', '.join(result.undelegated)}")
    if _JSON.value:
        common.write_text(_JSON.value, result.to_json())
    return 0
