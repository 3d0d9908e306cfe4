"""Measures one .tflite file on the machine it is copied to: needs python3, numpy and LiteRT there.

    python3 ssh_runner.py '{"path": "m.tflite", "num_threads": 1, "warmup_runs": 5, "num_runs": 50}'

prints one line of JSON: times in microseconds, peak memory in bytes, versions; or {"error": ...}.
Imports nothing of faq_keras, and runs on Python 3.7 and later.
"""

import json
import platform
import sys
import time

_INSTALL = "python3 -m pip install ai-edge-litert numpy"


def main(order):
    """Loads the file and runs it on random inputs; returns the facts."""
    try:
        import numpy as np
    except ImportError:
        return {"error": "numpy is not installed there (" + _INSTALL + ")"}
    interpreter_class, package = _interpreter()
    if interpreter_class is None:
        return {"error": "neither ai-edge-litert nor tflite-runtime is there (" + package + ")"}
    before = _reset_peak()
    start = time.perf_counter_ns()
    try:
        interpreter = interpreter_class(order["path"], num_threads=order["num_threads"])
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        return {"error": package + " refuses the file: " + " ".join(str(error).split())}
    init = (time.perf_counter_ns() - start) / 1000
    rng = np.random.RandomState(0)
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], _random(np, rng, details))
    times = []
    for _ in range(order["warmup_runs"] + order["num_runs"]):
        start = time.perf_counter_ns()
        interpreter.invoke()
        times.append((time.perf_counter_ns() - start) / 1000)
    return {
        "init_us": init,
        "warmup_us": times[: order["warmup_runs"]],
        "runs_us": times[order["warmup_runs"] :],
        "peak_memory_bytes": None if before is None else _bytes("VmHWM") - before,
        "runtime": package,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def _interpreter():
    """The interpreter's class and the package that it comes from, with its version."""
    try:
        from ai_edge_litert.interpreter import Interpreter

        name = "ai-edge-litert"
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter

            name = "tflite-runtime"
        except ImportError:
            return None, _INSTALL
    try:
        from importlib.metadata import version
    except ImportError:  # Python 3.7
        return Interpreter, name
    return Interpreter, name + " " + version(name)


def _random(np, rng, details):
    shape, dtype = details["shape"], np.dtype(details["dtype"])
    if dtype.kind not in "iu":
        return rng.random_sample(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.randint(limits.min, limits.max + 1, shape).astype(dtype)


def _reset_peak():
    """Sets the recorded peak to the present size and returns that; None where that is not told."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return _bytes("VmRSS")
    except OSError:
        return None


def _bytes(field):
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(field + ":"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
