"""What does packing two 4-bit weights in a byte save, and what does it cost?

    python benchmarks/packed.py
    python benchmarks/packed.py --networks=resnet20,resnet18 --num_threads=1 --rounds=50

A W4A4 network is written with its weights in int8 and packed. Counted are the bytes of the
convolution and dense weights; measured in turns is the time per image of both through
`faq_keras.tflite.load` (aim: the packed file runs at 0.95 of the int8 file's speed or more), and
the time to load each.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measure
import networks
from absl import app, flags

import faq_keras
from faq_keras.tflite import flatbuffer, load, model_file

_NETWORKS = flags.DEFINE_list("networks", list(networks.CASES), "which networks")
_ROUNDS = flags.DEFINE_integer("rounds", 50, "rounds that count", lower_bound=1)
_NUM_THREADS = flags.DEFINE_integer("num_threads", 1, "threads of the interpreter", lower_bound=1)

_AIM = 0.95
_KERNEL_OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


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
    model = networks.CASES[name].build(keras)
    x = networks.images(model, 16)
    quantized = faq_keras.apply(model, 4, calibration_data=x, calibration_batches=1)
    paths = {weights: folder / f"{name}_{weights}.tflite" for weights in ("int8", "int4")}
    for weights, path in paths.items():
        faq_keras.export_tflite(quantized, path, weights, verify=None)

    print(f"\n{name}, W4A4, {_NUM_THREADS.value} thread(s)")
    for weights, path in paths.items():
        listed = ", ".join(f"{count:,} as {kind}" for kind, count in kernel_bytes(path).items())
        print(f"  {weights}: file {path.stat().st_size:,} bytes; kernels {listed}")
    loads = measure.take_turns(
        {weights: lambda path=path: load(path) for weights, path in paths.items()}, rounds=5
    )
    for weights, times in loads.items():
        print(f"  load {weights}: {times}")
    runners = {
        weights: load(path, num_threads=_NUM_THREADS.value) for weights, path in paths.items()
    }
    image = runners["int8"].random_inputs(1)
    runs = {weights: runner.prepare(image) for weights, runner in runners.items()}
    runs = measure.take_turns(runs, _ROUNDS.value, warmup=5)
    for weights, times in runs.items():
        print(f"  one image, {weights}: {times}")
    line = measure.ratio_line(
        "  speed, int4 / int8", runs["int8"], runs["int4"], _AIM, at_least=True
    )
    print(line, flush=True)


def main(_: list[str]) -> None:
    """Measures one network after the other."""
    print(measure.environment(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in _NETWORKS.value:
            measure_network(name, Path(folder))


if __name__ == "__main__":
    app.run(main)
