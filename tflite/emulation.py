"""LiteRT for aarch64 on another machine: the real ARM kernels, inside the emulator QEMU.

What a phone or a Raspberry Pi computes, before there is one: the same file, the same LiteRT wheel
as there, every instruction of its kernels emulated. `faq setup aarch64` installs it, without root,
in a folder (`emulation_setup`); then it is a runtime like the others, only slower:

    session = RUNTIMES["aarch64"].open(content)          # starts an emulated process, about 2 s
    outputs = session.run({"image": codes})              # in that process, as often as you like

The emulator is told to be a processor that exists: as QEMU's `max`, with every extension, XNNPACK's
convolutions come out wrong. LiteRT looks extensions up in `/proc/cpuinfo`, so the folder has one
for each processor; without it LiteRT ends with a segmentation fault.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import subprocess
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faq_keras.tflite import litert_session

Codes = npt.NDArray[np.generic]

FOLDER_VARIABLE = "FAQ_AARCH64"
# Present in a complete installation, and what is in it: written by `emulation_setup`.
FACTS = "setup.json"
EMULATOR = "bin/qemu-aarch64-static"
ROOT = "root"
PROCESSOR_ROOTS = "processors"
PACKAGES = "packages"

# Processors by the name that QEMU gives them: the number of their design, and the extensions that
# LiteRT asks for. XNNPACK has other kernels for each; Cortex-A53 has no dot product instruction.
PROCESSORS: Mapping[str, tuple[str, str]] = {
    "cortex-a76": (
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc "
        "dcpop asimddp ssbs",
    ),
    "cortex-a53": ("0xd03", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"),
}

_INSTALL = "Run `faq setup aarch64`, or set FAQ_AARCH64 to the folder that it was installed in."


def folder() -> Path:
    """Where the emulation is, or would be: FAQ_AARCH64, else in the user's cache folder."""
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE]).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "faq_keras" / "aarch64"


def installed(where: Path) -> dict[str, str] | None:
    """Versions of what is installed in a folder; None if it holds no complete installation."""
    try:
        facts = json.loads((where / FACTS).read_text(encoding="utf-8"))
        return {str(name): str(version) for name, version in facts["versions"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def command(where: Path, cpu: str, *arguments: str) -> list[str]:
    """The command line that runs the emulated Python; use it with `environment()`.

    Args:
        where: The folder of the installation.
        cpu: A key of `PROCESSORS`.
        arguments: Python's.
    """
    # The home is named in full: the emulator looks files up under `-L` only if they exist there, so
    # under /usr Python would take, and write, what this machine has there. -S leaves the packages
    # of this machine out; -P the script's folder, which may have modules named like Python's own.
    usr = where / ROOT / "usr"
    variables = (f"PYTHONPATH={where / PACKAGES}", f"PYTHONHOME={usr}")
    settings = [word for variable in variables for word in ("-E", variable)]
    emulator = [str(where / EMULATOR), "-cpu", cpu, "-L", str(where / PROCESSOR_ROOTS / cpu)]
    return [*emulator, *settings, str(python(where)), "-S", "-P", *arguments]


def python(where: Path) -> Path:
    """The emulated Python."""
    (path,) = (where / ROOT / "usr" / "bin").glob("python3.[0-9]*[0-9]")
    return path


def environment() -> dict[str, str]:
    """The emulated process' environment: none of ours, whose settings are for another processor."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


class EmulatedSession:
    """A model inside LiteRT inside an emulated process, which ends with this object.

    Attributes:
        input_details: Names, shapes, types and scales of the inputs, keyed as LiteRT does.
        output_details: The same of the outputs.
        delegated: See `LiteRtSession.delegated`.
    """

    def __init__(
        self, content: bytes, runtime: EmulatedRuntime, where: Path, num_threads: int
    ) -> None:
        self._runtime = runtime
        self._folder = tempfile.TemporaryDirectory(prefix="faq-aarch64-")
        self._files = Path(self._folder.name)
        model = self._files / "model.tflite"
        model.write_bytes(content)
        script = (litert_session.__file__, str(model), runtime.resolver, str(num_threads))
        with open(self._files / "stderr", "wb") as errors:
            self._process = subprocess.Popen(
                command(where, runtime.cpu, *script),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(),
                text=True,
            )
        self._end = weakref.finalize(self, _end, self._process, self._folder)
        facts = self._answer(runtime.start_seconds)
        if "refused" in facts:
            raise ValueError(facts["refused"])
        self.input_details = [_details(entry) for entry in facts["inputs"]]
        self.output_details = [_details(entry) for entry in facts["outputs"]]
        self.delegated = frozenset(facts["delegated"])

    def run(self, inputs: Mapping[str, Codes]) -> dict[str, Codes]:
        """Executes the model (see `LiteRtSession.run`)."""
        source, target = self._files / "inputs.npz", self._files / "outputs.npz"
        np.savez(source, *(inputs[details["name"]] for details in self.input_details))
        self._ask({"run": str(source), "to": str(target)})
        with np.load(target) as arrays:
            outputs = [arrays[name] for name in arrays.files]
        names = [details["name"] for details in self.output_details]
        return dict(zip(names, outputs, strict=True))

    def invoke(self) -> None:
        """Executes the model once more on the inputs it has."""
        self._ask({"run": None})

    def close(self) -> None:
        """Ends the process; garbage collection does it too."""
        self._end()

    def _ask(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        answer = self._answer(self._runtime.run_seconds)
        if "failed" in answer:
            raise RuntimeError(answer["failed"])

    def _answer(self, seconds: float) -> dict[str, Any]:
        """The next line that the process writes.

        Raises:
            ValueError: If it takes too long or the process ended instead; the process is ended.
        """
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                self._end()
                raise ValueError(
                    f"The emulation of the runtime '{self._runtime.name}' took longer than "
                    f"{seconds:g} s and was ended: run fewer images at a time."
                )
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._ended()
        return dict(json.loads(line))

    def _ended(self) -> ValueError:
        status = self._process.wait()
        text = (self._files / "stderr").read_text(encoding="utf-8", errors="replace").strip()
        last = text.splitlines()[-1] if text else "nothing"
        self._end()
        return ValueError(
            f"The emulator of the runtime '{self._runtime.name}' ended with status {status}; the "
            f"last line of its output: {last}. If it does so again, install it again: "
            "faq setup aarch64 --force."
        )


@dataclasses.dataclass(frozen=True)
class EmulatedRuntime:
    """LiteRT for aarch64 with one choice of kernels, on an emulated processor.

    Attributes:
        name: The runtime's name, also of its numerics profile.
        resolver: Name of the `OpResolverType`: which kernels LiteRT uses.
        delegates: Whether a delegate should take over the convolutions.
        cpu: Which processor to be, a key of `PROCESSORS`.
        start_seconds: How long loading a model may take.
        run_seconds: How long one batch may take.
    """

    name: str
    resolver: str
    delegates: bool
    cpu: str = "cortex-a76"
    start_seconds: float = 120.0
    run_seconds: float = 900.0

    def open(self, content: bytes, num_threads: int = 1) -> EmulatedSession:
        """Starts the emulator and loads a model.

        Raises:
            ValueError: If the emulation is not installed, breaks down, or refuses the model.
        """
        where = folder()
        if installed(where) is None:
            raise ValueError(
                f"The runtime '{self.name}' is not installed: '{where}' holds no complete "
                f"installation. {_INSTALL}"
            )
        try:
            return EmulatedSession(content, self, where, num_threads)
        except OSError as error:
            raise ValueError(
                f"The emulator of the runtime '{self.name}' cannot be started: {error}. {_INSTALL}"
            ) from error

    @property
    def versions(self) -> dict[str, str]:
        """The packages that the results depend on, and the processor."""
        return {**(installed(folder()) or {}), "cpu": self.cpu}


def _details(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A tensor's description as LiteRT's own interpreter gives it."""
    return {
        **entry,
        "dtype": np.dtype(entry["dtype"]).type,
        "shape": np.array(entry["shape"], np.int32),
        "shape_signature": np.array(entry["shape_signature"], np.int32),
        "quantization": tuple(entry["quantization"]),
    }


def _end(process: subprocess.Popen[str], files: tempfile.TemporaryDirectory[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):  # nobody reads the last request any more
                stream.close()
    files.cleanup()
