"""Coral's Edge TPU: which operators its compiler maps, and whether it takes the file at all.

    result = measure("model.tflite", Options())
    result.accelerator_ops, result.cpu_ops

Nothing is run: `edgetpu_compiler` (x86-64 Linux) compiles a copy and reports. Its documentation
("TensorFlow models on the Edge TPU", model requirements) asks for fully 8-bit quantized tensors of
constant size, so files with 16-bit logits or packed 4-bit kernels are refused here with the way
out, and the copy has its batch fixed at 1. How the Edge TPU rounds is not documented: the claim of
exactness does not extend to it.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from faq_keras.tflite import flatbuffer, model_file
from faq_keras.tflite.devices import tools
from faq_keras.tflite.devices.measurement import BenchmarkResult, Options
from faq_keras.tflite.model_file import ModelFile

_TOOL = "edgetpu_compiler"
_GET = (
    "Install the package edgetpu-compiler from Coral's Debian repository as its page 'Edge TPU "
    "Compiler' says (64-bit Debian or Ubuntu on x86-64 only)."
)
_TIMEOUT = 300
# Tensors that carry the network's values and weights. (Shapes and biases are wider integers.)
_EIGHT_BITS = ("int8", "uint8")
_BESIDE = ("int32", "int64", "bool")
_FIX = {
    "int16": "export the model with logits_bits=8",
    "int4": "write the int8 twin with `faq unpack`",
    "float32": "export an integer network: faq_keras.apply, then faq_keras.export_tflite",
}
_VERSION = re.compile(r"Edge TPU Compiler version ([\d.]+)")
_ON_TPU = re.compile(r"Number of operations that will run on Edge TPU: (\d+)")
_TOTAL = re.compile(r"Total number of operations: (\d+)")
_ROW = re.compile(r"^([A-Z][A-Z0-9_]*)\s+(\d+)\s+(\S.*?)\s*$", re.MULTILINE)
_MAPPED = "Mapped to Edge TPU"
_SIZE = re.compile(
    r"On-chip memory used for caching model parameters: ([\d.]+)(B|KiB|MiB|GiB)", re.IGNORECASE
)
_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def measure(path: str, options: Options) -> BenchmarkResult:
    """Compiles a file for the Edge TPU.

    Raises:
        ValueError: If the file is invalid or cannot be mapped, the compiler is missing or fails.
    """
    file = model_file.read(path)
    _check(path, file)
    compiler = tools.require(_TOOL, _GET)
    with tempfile.TemporaryDirectory(prefix="faq_keras-") as folder:
        model = Path(folder) / "model.tflite"
        model.write_bytes(_fixed_batch(file).content)
        # -s: the table of operators on stdout
        done = tools.run([compiler, "-s", "-o", folder, str(model)], _TIMEOUT, "coral")
        compiled = Path(folder) / "model_edgetpu.tflite"
        if done.returncode or not compiled.is_file():
            raise ValueError(
                f"{_TOOL} {tools.ending(done.returncode)} on '{path}' and wrote no file: "
                f"{tools.last_line(done.stderr, done.stdout).rstrip('.')}."
            )
        size = compiled.stat().st_size
    return _result(path, file, done.stdout + done.stderr, size)


def _check(path: str, file: ModelFile) -> None:
    """Refuses what the documentation rules out, all of it in one message."""
    found: dict[str, list[str]] = {}
    outside = {int(i) for i in (*file.graph.inputs, *file.graph.outputs)}
    for index, tensor in enumerate(file.graph.tensors):
        kind = flatbuffer.type_name(tensor)
        constant = flatbuffer.raw_data(file.model, tensor) is not None
        # The compiler leaves the conversion of a float input or output to the CPU.
        beside = _BESIDE if constant else ("float32",) if index in outside else ()
        if kind not in (*_EIGHT_BITS, *beside):
            found.setdefault(kind, []).append(flatbuffer.tensor_name(tensor))
    if not found:
        return
    reasons = "; ".join(
        f"{kind} ({names[0]!r}" + (f" and {len(names) - 1} more)" if len(names) > 1 else ")")
        for kind, names in found.items()
    )
    fixes = "; ".join(_FIX[kind] for kind in found if kind in _FIX)
    raise ValueError(
        f"The Edge TPU takes fully 8-bit quantized networks only; '{path}' has tensors of the type "
        f"{reasons}." + (f" What to do: {fixes}." if fixes else "")
    )


def _fixed_batch(file: ModelFile) -> ModelFile:
    """A copy whose tensors all have the sizes that the file has before any resizing (batch 1)."""
    model = flatbuffer.parse(file.content)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.shapeSignature = None
    return ModelFile(file.name, model, file.size)


def _result(path: str, file: ModelFile, output: str, compiled_bytes: int) -> BenchmarkResult:
    rows = [(op, int(count), status) for op, count, status in _ROW.findall(output)]
    on_tpu, total, version = _ON_TPU.search(output), _TOTAL.search(output), _VERSION.search(output)
    mapped = sum(count for _, count, status in rows if status == _MAPPED)
    # The compiler leaves that line out when there is nothing left for the CPU.
    counted = int(on_tpu[1]) if on_tpu else int(total[1]) if total else mapped
    memory = _SIZE.search(output)
    return BenchmarkResult(
        path=path,
        file_bytes=file.size,
        device="coral",
        runtime=f"{_TOOL} {version[1]}" if version else _TOOL,
        sram_bytes=round(float(memory[1]) * _UNITS[memory[2].lower()]) if memory else None,
        compiled_bytes=compiled_bytes,
        accelerator_ops=counted,
        cpu_ops=tuple(
            f"{count} {op} ({status})" for op, count, status in rows if status != _MAPPED
        ),
        notes=(
            "Compiled only, with the batch fixed at 1; nothing was run.",
            "How the Edge TPU rounds is not documented: its integers may differ from the model's.",
        ),
    )
