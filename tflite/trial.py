"""Operators that nothing here can check run in a process of their own before they run in ours.

`structure` and `shapes` know the operators that we write and their kin. A stranger's file may use
any of some two hundred others, whose kernels trust it in ways of their own (a SPLIT into 0 parts is
the end of the process in XNNPACK). So a file with such operators is loaded and run on zeros by a
child first; if that dies, the file is refused and this process lives:

    check(model_file.read("stranger.tflite"), runtime("xnnpack"))
    # ValueError: It ends the process of the runtime 'xnnpack' (signal SIGSEGV), as a trial ...

Files of our own have no such operator and no trial. What a child survives may still fail here on
other inputs or another batch size; interpreters report that in good order as far as they look.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from faq_keras.tflite import flatbuffer, litert_session, structure
from faq_keras.tflite.model_file import ModelFile
from faq_keras.tflite.runtimes import LiteRtRuntime, Runtime, TflmRuntime, arena_bytes

_TFLM_SCRIPT = Path(__file__).with_name("devices") / "tflm_runner.py"
# A loop of the file may have no end.
_TIMEOUT = 300.0


def check(
    file: ModelFile, runtime: Runtime, num_threads: int = 1, timeout: float = _TIMEOUT
) -> None:
    """Tries a file that contains operators without a rule; does nothing for others.

    A runtime that refuses the file in good order passes: it will do so again. Emulated runtimes
    have a process of their own anyway.

    Args:
        file: A checked file, as the runtime gets it.
        runtime: The runtime.
        num_threads: Threads that it may use.
        timeout: Seconds that the child may take.

    Raises:
        ValueError: If the child dies or takes longer; the message has no subject.
    """
    strange = structure.operators_without_rule(file.model)
    if not strange or not isinstance(runtime, LiteRtRuntime | TflmRuntime):
        return
    names = ", ".join(strange)
    with tempfile.TemporaryDirectory(prefix="faq_keras-") as folder:
        try:
            status = _run(file, runtime, num_threads, Path(folder), timeout)
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"It was tried in a process of its own, because it has operators that faq_keras "
                f"cannot check ({names}), and did not end within {timeout:g} s."
            ) from error
    if status < 0:
        raise ValueError(
            f"It ends the process of the runtime '{runtime.name}' ({_signal_name(-status)}), as a "
            f"trial in another one showed. It has operators that faq_keras cannot check ({names}): "
            "the file is damaged, or the runtime has a bug. Convert the model again, or use "
            "another runtime."
        )


def _run(file: ModelFile, runtime: Runtime, num_threads: int, folder: Path, timeout: float) -> int:
    """Loads and runs the file in a child; its exit status, negative if a signal ended it."""
    model = folder / "model.tflite"
    model.write_bytes(file.content)
    arguments, requests = [str(litert_session.__file__), str(model)], ""
    if isinstance(runtime, TflmRuntime):
        order = {
            "path": str(model),
            "arena": arena_bytes(file.graph),
            "inputs": len(file.input_types),
            "warmup_runs": 0,
            "num_runs": 1,
        }
        arguments = [str(_TFLM_SCRIPT), json.dumps(order)]
    elif isinstance(runtime, LiteRtRuntime):
        arguments += [runtime.resolver.name, str(num_threads)]
        requests = _request(file, folder)
    # -P: the script's folder is no place to import from.
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        input=requests,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=timeout,
        check=False,
    ).returncode


def _request(file: ModelFile, folder: Path) -> str:
    """What the session's script is asked for: one run on zeros, if all inputs are numbers."""
    tensors = [file.graph.tensors[i] for i in flatbuffer.indices(file.graph.inputs)]
    types = [flatbuffer.NUMPY_TYPES.get(flatbuffer.type_name(tensor)) for tensor in tensors]
    if None in types:
        return ""
    inputs = folder / "inputs.npz"
    np.savez(
        inputs,
        *(
            np.zeros([abs(size) for size in flatbuffer.shape(tensor)], kind)
            for tensor, kind in zip(tensors, types, strict=True)
        ),
    )
    return json.dumps({"run": str(inputs), "to": str(folder / "outputs.npz")}) + "\n"


def _signal_name(number: int) -> str:
    names = {int(one): one.name for one in signal.Signals}
    return f"signal {names.get(number, number)}"
