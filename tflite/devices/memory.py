"""Peak memory of loading and running one .tflite file; run as a script, in a fresh process.

    python memory.py '{"package": [...], "path": "m.tflite", "runtime": "xnnpack",
                       "num_threads": 1, "batch": 1}'

prints the bytes by which the process rose above its baseline (null where there is no /proc). The
package's own `__init__` is not executed: it imports TensorFlow, in whose hundreds of megabytes of
freed and cached memory a small model would disappear.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def main(order: dict[str, object]) -> int | None:
    """Loads and runs the file.

    Args:
        order: `package` (the search path of faq_keras), `path`, `runtime`, `num_threads`, `batch`.

    Returns:
        Bytes above the baseline; None where the system does not tell.
    """
    package = types.ModuleType("faq_keras")
    package.__path__ = order["package"]  # type: ignore[assignment]
    sys.modules["faq_keras"] = package
    from faq_keras.tflite import loader

    before = reset_peak()
    runner = loader.load(str(order["path"]), str(order["runtime"]), int(str(order["num_threads"])))
    runner.prepare(runner.random_inputs(int(str(order["batch"]))))()
    return None if before is None else status_bytes("VmHWM") - before


def reset_peak() -> int | None:
    """Sets this process' recorded peak to its present size; the bytes, None if that is unknown."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return None
    return status_bytes("VmRSS")


def status_bytes(field: str) -> int:
    """A figure of /proc/self/status, such as `VmHWM`, the peak since the last reset."""
    lines = _STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
