"""TensorFlow Lite for Microcontrollers: how much memory a file takes there, and that it runs.

    result = measure("model.tflite", Options())
    result.arena_bytes      # what a firmware has to reserve (less on 32-bit chips: pointers shrink)

The file is run as it is stored: TFLM's kernels read packed 4-bit weights themselves. In every run
they unpack one kernel after the other into the arena, so a packed file is smaller in flash and may
need a larger arena than its int8 twin. The times are those of the reference kernels on this
machine; they say nothing about a microcontroller.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np

from faq_keras.tflite import flatbuffer, model_file
from faq_keras.tflite.devices import tools
from faq_keras.tflite.devices.measurement import Options, TimedResult, statistics
from faq_keras.tflite.model_file import ModelFile
from faq_keras.tflite.runtimes import arena_bytes

# TFLM's own account of the smallest arena with which this model can be allocated.
_ARENA = re.compile(r"Arena allocation total (\d+) bytes")
_TIMEOUT = 580


def measure(path: str, options: Options) -> TimedResult:
    """Runs a file in TFLM on this machine.

    Raises:
        ValueError: If the package is missing, the file is invalid, or TFLM refuses it.
    """
    if importlib.util.find_spec("tflite_micro") is None:
        raise ValueError(
            "The device 'tflm' needs the package tflite-micro: pip install 'faq_keras[edge]'."
        )
    file = model_file.read(path)
    with tempfile.TemporaryDirectory(prefix="faq_keras-") as folder:
        checked = Path(folder) / "model.tflite"
        checked.write_bytes(file.content)
        done = tools.run(_command(checked, file, options), _TIMEOUT, "tflm")
    arena = _ARENA.search(done.stderr)
    if done.returncode or arena is None:
        raise ValueError(
            f"TensorFlow Lite Micro refuses '{path}': {_reason(done.stderr)}. Its kernels may lack "
            "an operator or a type that the file uses; `faq inspect` lists them."
        )
    times = json.loads(done.stdout)
    return TimedResult(
        path=path,
        file_bytes=file.size,
        device="tflm",
        runtime=f"tflite-micro {importlib.metadata.version('tflite-micro')}",
        num_threads=1,
        init_us=times["init_us"],
        first_us=times["warmup_us"][0],
        warmup_us=float(np.mean(times["warmup_us"])),
        arena_bytes=int(arena[1]),
        notes=_notes(file),
        **statistics(times["runs_us"]),
    )


def _command(checked: Path, file: ModelFile, options: Options) -> list[str]:
    order = {
        "path": str(checked),
        "arena": arena_bytes(file.graph),
        "inputs": len(file.input_types),
        "warmup_runs": options.warmup_runs,
        "num_runs": options.num_runs,
    }
    runner = Path(__file__).with_name("tflm_runner.py")
    # -P: the script's folder is no place to import from.
    return [sys.executable, "-P", str(runner), json.dumps(order)]


def _notes(file: ModelFile) -> tuple[str, ...]:
    notes = [
        "Times are those of TFLM's reference kernels on this host, not of a microcontroller.",
        "The arena holds the structures of this 64-bit host; a 32-bit chip needs a little less.",
    ]
    if any(flatbuffer.type_name(tensor) == "int4" for tensor in file.graph.tensors):
        notes.append("The file's packed int4 kernels were run packed: TFLM unpacks them itself.")
    return tuple(notes)


def _reason(stderr: str) -> str:
    """TFLM's first complaint: what follows it are consequences and a Python traceback."""
    before = stderr.split("Traceback (most recent call last)")[0]
    lines = [line.strip() for line in before.splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else tools.last_line(stderr).rstrip(".")
