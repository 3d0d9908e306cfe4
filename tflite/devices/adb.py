"""An Android phone, through adb and TFLite's `benchmark_model`, both the user's own.

    result = measure("model.tflite", Options(target="R58M", benchmark_model="benchmark_model"))

The file (packed kernels unpacked: the tool runs them with the stock interpreter, three times slower
and with another rounding) and the binary go into a folder of their own under /data/local/tmp, which
is removed afterwards. The phone's clocks rise and fall with its temperature: compare files in one
call, and repeat it.
"""

from __future__ import annotations

import re
import secrets
import shlex
import subprocess
import tempfile
from pathlib import Path

from faq_keras.tflite import loader, model_file
from faq_keras.tflite.devices import benchmark_model, tools
from faq_keras.tflite.devices.measurement import BenchmarkResult, Options

_ADB = (
    "Install the Android SDK platform tools (Debian: apt install adb), enable USB debugging on the "
    "phone, and check `adb devices`."
)
_BINARY = (
    "Name TFLite's benchmark_model for the phone's processor with --benchmark_model=PATH: download "
    "android_aarch64_benchmark_model as TensorFlow's page 'Performance measurement' says, or build "
    "it: bazel build -c opt --config=android_arm64 //tensorflow/lite/tools/benchmark:"
    "benchmark_model."
)
_HOME = "/data/local/tmp"
_TIMEOUT = 580
_SHORT_TIMEOUT = 60
# What adb says when there is nobody to talk to.
_GONE = re.compile(
    r"(device (?:'[^']*' )?not found|device (?:still )?(?:offline|unauthorized)|"
    r"no devices/emulators found|more than one device\S*|error: closed|protocol fault.*|"
    r"failed to get feature set.*|connect failed.*|device unauthorized.*)"
)


def measure(path: str, options: Options) -> BenchmarkResult:
    """Runs a file on the phone.

    Raises:
        ValueError: If adb or the binary is missing, the file is invalid, the phone is not there or
            vanishes, or the tool fails.
    """
    stored = model_file.read(path)
    adb = tools.require("adb", _ADB)
    if options.benchmark_model is None or not Path(options.benchmark_model).is_file():
        missing = options.benchmark_model
        lead = "needs a binary" if missing is None else f"cannot use {missing!r}: no such file"
        raise ValueError(f"The device 'adb' {lead}. {_BINARY}")
    phone = _Phone(adb, options.target)
    phone.call("shell", "true")
    folder = f"{_HOME}/faq_keras-{secrets.token_hex(6)}"
    file = loader.unpacked(stored)
    try:
        output = _run(phone, folder, file.content, options)
    except BaseException:
        phone.try_call("shell", f"rm -rf {folder}")
        raise
    left = not phone.try_call("shell", f"rm -rf {folder}")
    figures = benchmark_model.parse(output)
    if not figures:
        raise ValueError(
            f"benchmark_model measured nothing of '{path}' on {phone.name}: "
            f"{tools.last_line(output)}. Check that the binary fits the phone's processor."
        )
    return BenchmarkResult(
        path=path,
        file_bytes=stored.size,
        device=phone.name,
        runtime="benchmark_model",
        num_threads=options.num_threads,
        notes=_notes(file is not stored, folder if left else ""),
        **figures,
    )


class _Phone:
    """One phone: its adb command and how to name it in messages."""

    def __init__(self, adb: str, serial: str) -> None:
        self._command = [adb, *(("-s", serial) if serial else ())]
        self.name = f"adb:{serial}" if serial else "adb"

    def call(
        self, *arguments: str, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs an adb command; one that fails because the phone is away is an error."""
        limit = _SHORT_TIMEOUT if timeout is None else timeout
        done = tools.run([*self._command, *arguments], limit, self.name)
        if done.returncode == 0:
            return done
        gone = _GONE.search(done.stderr) or _GONE.search(done.stdout)
        if gone is None:  # a cable that is pulled ends a shell without a word
            state = tools.run([*self._command, "get-state"], _SHORT_TIMEOUT, self.name)
            if state.returncode == 0:
                return done
            gone = _GONE.search(state.stderr)
        reason = gone[1] if gone else "it does not answer"
        raise ValueError(
            f"The phone '{self.name}' cannot be reached (adb: {reason}). Check its cable and "
            "`adb devices`; with several phones write --device=adb:SERIAL."
        )

    def must(self, *arguments: str, timeout: float | None = None) -> str:
        """Runs an adb command that has to succeed; what it printed."""
        done = self.call(*arguments, timeout=timeout)
        if done.returncode:
            reason = tools.last_line(done.stderr, done.stdout).rstrip(".")
            raise ValueError(f"`adb {arguments[0]}` failed on '{self.name}': {reason}.")
        return done.stdout + done.stderr

    def try_call(self, *arguments: str) -> bool:
        """Runs an adb command whose failure is not the user's problem; whether it succeeded."""
        try:
            return self.call(*arguments).returncode == 0
        except ValueError:
            return False


def _run(phone: _Phone, folder: str, content: bytes, options: Options) -> str:
    """Pushes everything, runs the tool, gives back what it printed."""
    phone.must("shell", f"mkdir {folder}")
    with tempfile.TemporaryDirectory(prefix="faq_keras-") as name:
        model = Path(name) / "model.tflite"
        model.write_bytes(content)
        phone.must("push", str(model), f"{folder}/model.tflite", timeout=_TIMEOUT)
    binary = f"{folder}/benchmark_model"
    phone.must("push", str(options.benchmark_model), binary, timeout=_TIMEOUT)
    phone.must("shell", f"chmod 755 {binary}")
    flags = {
        "graph": f"{folder}/model.tflite",
        "num_threads": options.num_threads,
        "num_runs": options.num_runs,
        "min_secs": 0,  # or it goes on until a second is over
        "warmup_runs": options.warmup_runs,
        "warmup_min_secs": 0,
        "enable_op_profiling": str(options.profile).lower(),
    }
    line = " ".join([binary, *(f"--{name}={value}" for name, value in flags.items())])
    done = phone.call("shell", line, timeout=_TIMEOUT)
    if done.returncode:
        reason = tools.last_line(done.stderr, done.stdout).rstrip(".")
        raise ValueError(
            f"benchmark_model {tools.ending(done.returncode)} on '{phone.name}': {reason}. "
            f"It was called as {shlex.quote(line)}."
        )
    return done.stdout + done.stderr


def _notes(unpacked: bool, left: str) -> tuple[str, ...]:
    notes = ["Peak memory is benchmark_model's own reading: its growth from start to end."]
    if unpacked:
        notes.append("The packed int4 file was unpacked to int8 before it travelled.")
    if left:
        notes.append(f"The folder {left} could not be removed from the phone.")
    return tuple(notes)
