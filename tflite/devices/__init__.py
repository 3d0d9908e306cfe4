"""Where a .tflite file can be measured: here, on a phone or board, by a chip's own tools.

A device is an entry of one table: a name, what it can honour of `Options`, and a function that
measures one file. What a device cannot tell stays None in the result.

    device, target = find("ssh:pi@raspberry")
    result = device.measure("model.tflite", Options(target=target, num_threads=4))
    print(result)

To add a device: write a module with `measure(path, options)` and enter it in `DEVICES`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from faq_keras.tflite.devices import aarch64, adb, coral, local, ssh, tflm, vela
from faq_keras.tflite.devices.measurement import BenchmarkResult, OpTime, Options

__all__ = [
    "DEVICES",
    "BenchmarkResult",
    "Device",
    "OpTime",
    "Options",
    "find",
    "measure",
    "measure_all",
]

# What every device that runs the file itself can be told.
_RUNS = frozenset({"num_threads", "num_runs", "warmup_runs"})


@dataclasses.dataclass(frozen=True)
class Device:
    """A place to measure a file.

    Attributes:
        name: What users call it.
        summary: What it is, for the help.
        measure: Measures one file.
        takes: Names of the `Options` that it honours; others must be left at their defaults.
        target: What follows its name after a colon, such as `HOST`; empty if nothing does.
        target_required: Whether that must be given.
        measure_together: Measures files that are to be compared, if that is more than measuring one
            after the other.
    """

    name: str
    summary: str
    measure: Callable[[str, Options], BenchmarkResult]
    takes: frozenset[str]
    target: str = ""
    target_required: bool = False
    measure_together: Callable[[Sequence[str], Options], Sequence[BenchmarkResult]] | None = None

    @property
    def usage(self) -> str:
        """How it is written: `ssh:HOST`, `adb[:SERIAL]`, `local`."""
        if not self.target:
            return self.name
        return f"{self.name}:{self.target}" if self.target_required else (
            f"{self.name}[:{self.target}]"
        )  # fmt: skip


#: The devices by the names that `--device` takes.
DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device(
            "local",
            "this machine",
            local.measure,
            _RUNS | {"runtime", "batch", "memory", "profile"},
            measure_together=local.measure_together,
        ),
        Device(
            "tflm",
            "TensorFlow Lite Micro on this machine: arena size, host time",
            tflm.measure,
            frozenset({"num_runs", "warmup_runs"}),
        ),
        Device("aarch64", "64-bit ARM, emulated on this machine", aarch64.measure, _RUNS),
        Device(
            "vela",
            "Arm Ethos-U NPUs, estimated by their compiler",
            vela.measure,
            frozenset({"profile", "vela_config"}),
        ),
        Device(
            "adb",
            "an Android phone",
            adb.measure,
            _RUNS | {"profile", "benchmark_model"},
            target="SERIAL",
        ),
        Device(
            "ssh",
            "a board that ssh reaches",
            ssh.measure,
            _RUNS | {"memory"},
            target="HOST",
            target_required=True,
        ),
        Device("coral", "Coral's Edge TPU: what its compiler maps", coral.measure, frozenset()),
    )
}


def find(name: str) -> tuple[Device, str]:
    """The device that a name such as `adb:R58M` means, and what follows the colon.

    Raises:
        ValueError: If there is no such device, or its target is missing or out of place.
    """
    kind, colon, target = name.partition(":")
    if kind not in DEVICES:
        known = ", ".join(device.usage for device in DEVICES.values())
        raise ValueError(f"Unknown device {name!r}; expected one of {known}.")
    device = DEVICES[kind]
    if colon and not (device.target and target):
        raise ValueError(f"The device {name!r} is written {device.usage}.")
    if device.target_required and not target:
        raise ValueError(f"The device {name!r} needs a target: {device.usage}.")
    if target.startswith("-"):
        raise ValueError(f"The target {target!r} of {kind!r} looks like an option: {device.usage}.")
    return device, target


def measure(
    path: str | os.PathLike[str], name: str = "local", options: Options | None = None
) -> BenchmarkResult:
    """Measures a file on the device of that name.

    Args:
        path: The file, packed or not, ours or not.
        name: Such as `local` or `ssh:HOST`.
        options: How; its `target` is taken from the name.

    Raises:
        ValueError: If the file is invalid, the device is unknown, cannot honour an option, lacks a
            tool, refuses the file or vanishes.
    """
    return next(measure_all([path], name, options))


def measure_all(
    paths: Sequence[str | os.PathLike[str]], name: str = "local", options: Options | None = None
) -> Iterator[BenchmarkResult]:
    """Measures files that are to be compared, as `measure` does with one.

    Yields:
        The results in the order of the files.
    """
    device, target = find(name)
    options = dataclasses.replace(options or Options(), target=target)
    _check(device, options)
    files = [os.fspath(path) for path in paths]
    if device.measure_together is not None and len(files) > 1:
        yield from device.measure_together(files, options)
    else:
        yield from (device.measure(file, options) for file in files)


def _check(device: Device, options: Options) -> None:
    """Refuses options that the device cannot honour."""
    for field in dataclasses.fields(Options):
        asked = getattr(options, field.name)
        if field.name not in device.takes | {"target"} and asked != field.default:
            taken = ", ".join(sorted(device.takes)) or "none"
            raise ValueError(
                f"The device {device.name!r} cannot honour {field.name}={asked}; leave it out "
                f"(it takes: {taken})."
            )
