"""64-bit ARM, emulated: that a file runs there and with which kernels, before there is a board.

    result = measure("model.tflite", Options(num_runs=3))
    result.undelegated      # what XNNPACK on ARM left to the built-in kernels

The line of times has the usual form, and says nothing of a processor: an emulator translates every
instruction, some far better than others. Needs `faq setup aarch64`.
"""

from __future__ import annotations

import time

import numpy as np

from faq_keras.tflite import loader, model_file
from faq_keras.tflite.devices.local import repeated
from faq_keras.tflite.devices.measurement import Options, TimedResult, statistics
from faq_keras.tflite.runtimes import runtime

_RUNTIME = "aarch64"


def measure(path: str, options: Options) -> TimedResult:
    """Runs a file in the emulator.

    Raises:
        ValueError: If the emulation is not installed or breaks down, or the file is invalid.
    """
    size = model_file.read(path).size
    start = time.perf_counter_ns()
    runner = loader.load(path, _RUNTIME, options.num_threads)
    init = (time.perf_counter_ns() - start) / 1000
    run = runner.prepare(runner.random_inputs(batch=1))
    warmup = repeated(run, options.warmup_runs)
    runs = repeated(run, options.num_runs)
    versions = runtime(_RUNTIME).versions
    emulator = ", ".join(f"{name} {version}" for name, version in versions.items())
    return TimedResult(
        path=path,
        file_bytes=size,
        device="aarch64",
        runtime=f"LiteRT {versions['ai-edge-litert']} on an emulated {versions['cpu']}",
        num_threads=options.num_threads,
        init_us=init,
        first_us=warmup[0],
        warmup_us=float(np.mean(warmup)),
        undelegated=runner.undelegated,
        notes=(
            f"Emulated ({emulator}): these times are the emulator's on this machine and "
            "cannot rank files or processors.",
        ),
        **statistics(runs),
    )
