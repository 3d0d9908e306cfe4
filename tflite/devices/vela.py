"""Arm's Ethos-U NPUs: what their compiler, Vela, estimates for a file.

    result = measure("model.tflite", Options(vela_config="ethos-u85-256", profile=True))
    result.cycles, result.inferences_per_second, result.sram_bytes, result.flash_bytes
    result.cpu_ops          # operators that Vela leaves to the CPU; their time is in no figure

Vela runs nothing: it compiles the file and adds up a model of the NPU and of its memories, with the
system configuration and memory mode that it takes by default for the NPU. It crashes on packed
int4, so it gets the unpacked twin; its own weight compression finds the 4-bit codes again.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from faq_keras.tflite import flatbuffer, loader, model_file
from faq_keras.tflite.devices import tools
from faq_keras.tflite.devices.measurement import BenchmarkResult, OpTime, Options
from faq_keras.tflite.model_file import ModelFile

CONFIGS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
_TIMEOUT = 580
_NETWORK = "network"  # the name under which Vela sees the file, and names its tables


def measure(path: str, options: Options) -> BenchmarkResult:
    """Compiles a file for an Ethos-U.

    Raises:
        ValueError: If Vela is missing, does not know the configuration, or fails.
    """
    if importlib.util.find_spec("ethosu") is None:
        raise ValueError(
            "The device 'vela' needs the package ethos-u-vela: pip install 'faq_keras[edge]'."
        )
    if options.vela_config not in CONFIGS:
        raise ValueError(
            f"Vela has no configuration {options.vela_config!r}; expected one of "
            f"{', '.join(CONFIGS)}."
        )
    stored = model_file.read(path)
    file = loader.unpacked(stored)
    with tempfile.TemporaryDirectory(prefix="faq_keras-") as name:
        folder = Path(name)
        network = folder / f"{_NETWORK}.tflite"
        network.write_bytes(file.content)
        done = tools.run(_command(network, folder, options.vela_config), _TIMEOUT, "vela")
        summaries = list(folder.glob(f"{_NETWORK}_summary_*.csv"))
        if done.returncode or not summaries:
            raise ValueError(_failure(path, file, options.vela_config, done))
        summary = _table(summaries[0])[0]
        layers = _table(folder / f"{_NETWORK}_per-layer.csv")
        compiled = (folder / f"{_NETWORK}_vela.tflite").stat().st_size
    return _result(path, stored, file, summary, layers, compiled, options)


def _command(network: Path, folder: Path, config: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "ethosu.vela",
        str(network),
        f"--output-dir={folder}",
        f"--accelerator-config={config}",
        "--verbose-performance",  # writes the table of layers
    ]


def _result(
    path: str,
    stored: ModelFile,
    file: ModelFile,
    summary: dict[str, str],
    layers: list[dict[str, str]],
    compiled: int,
    options: Options,
) -> BenchmarkResult:
    on_npu = [layer for layer in layers if layer["Target"] == "NPU"]
    rate = float(summary["inferences_per_second"])
    ops = tuple(
        OpTime(layer["NNG Operator"], layer["Name"], cycles=int(float(layer["Op Cycles"])))
        for layer in on_npu
        if float(layer["Op Cycles"]) > 0  # activations that are fused into their operator have none
    )
    flash = _bytes(summary, "on_chip_flash") + _bytes(summary, "off_chip_flash")
    return BenchmarkResult(
        path=path,
        file_bytes=stored.size,
        device="vela",
        runtime=f"{options.vela_config}, Vela {importlib.metadata.version('ethos-u-vela')}",
        cycles=int(float(summary["cycles_total"])) if on_npu else None,
        inferences_per_second=rate if on_npu and math.isfinite(rate) else None,
        sram_bytes=_bytes(summary, "sram"),
        dram_bytes=_bytes(summary, "dram"),
        flash_bytes=flash,
        compiled_bytes=compiled,
        accelerator_ops=len(ops),
        cpu_ops=tuple(
            f"{layer['Original Operator']} '{layer['Name']}'"
            for layer in layers
            if layer["Target"] == "CPU"
        ),
        ops=ops if options.profile else None,
        notes=_notes(stored, file, summary, bool(on_npu)),
    )


def _notes(
    stored: ModelFile, file: ModelFile, summary: dict[str, str], on_npu: bool
) -> tuple[str, ...]:
    clock = float(summary["core_clock"]) / 1e6
    notes = [
        f"Vela's estimate for {summary['system_config']}, {summary['memory_mode']}, at "
        f"{clock:.0f} MHz; nothing was run, and operators on the CPU are in no figure."
    ]
    if file is not stored:
        notes.append("The packed int4 file was unpacked to int8 first: Vela crashes on int4.")
    if not on_npu:
        notes.append("No operator of this file runs on the NPU: it has to be an integer network.")
    return tuple(notes)


def _failure(
    path: str, file: ModelFile, config: str, done: subprocess.CompletedProcess[str]
) -> str:
    wide = any(flatbuffer.type_name(tensor) == "int16" for tensor in file.graph.tensors)
    hint = (
        "Vela 5.2 is known to crash for Ethos-U85 on 16-bit logits: export the model with "
        "logits_bits=8, or measure an ethos-u55 or ethos-u65."
        if wide and config.startswith("ethos-u85")
        else "Try another configuration with --vela_config, or report it to Vela's authors."
    )
    printed = "" if done.returncode < 0 else f" ({tools.last_line(done.stderr, done.stdout)})"
    return (
        f"Vela {tools.ending(done.returncode)} on '{path}' for {config}{printed} and wrote no "
        f"result. {hint}"
    )


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _bytes(summary: dict[str, str], memory: str) -> int:
    """A memory of Vela's summary, which counts in KiB."""
    return round(1024 * float(summary[f"{memory}_memory_used"]))
