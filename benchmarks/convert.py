"""How fast, how large and how exact is the conversion of the zoo's networks?

    python benchmarks/convert.py --networks=resnet50,vgg16_bn --images=64 --json=convert.json

Every network gets random weights and random BatchNorm statistics, goes to ONNX and from there to
Keras. Time and memory are those of a fresh process that imports TensorFlow and converts the file,
nothing else. Then the outputs of Keras, torch and onnxruntime are compared on photographs, and the
`.keras` file is loaded again and has to return the same bits.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PAPER = ("resnet18", "resnet34", "resnet50", "resnet152", "inception_v3", "densenet161", "vgg16_bn")

_NETWORKS = flags.DEFINE_list("networks", list(PAPER), "names of the zoo or of torchvision")
_IMAGES = flags.DEFINE_integer("images", 64, "photographs to compare on; 0 for none")
_SIZE = flags.DEFINE_integer("size", 0, "height and width instead of the network's own")
_JSON = flags.DEFINE_string("json", None, "a file for the figures")


def export(name: str, file: str, size: int) -> tuple[int, int, int]:
    """Writes a network with random weights as ONNX; returns its input shape."""
    import torch

    from faq_keras.converters.torch_networks import randomised
    from faq_keras.converters.torch_to_onnx import load_module, torch_to_onnx
    from faq_keras.converters.zoo import ZOO

    torch.manual_seed(0)
    shape = ZOO[name].input_shape if name in ZOO else (224, 224, 3)
    shape = (size, size, 3) if size else shape
    module = randomised(load_module(name))
    torch_to_onnx(module, file, shape)
    torch.save(module.state_dict(), f"{file}.pth")
    return shape


def convert(file: str) -> dict[str, float]:
    """Seconds and memory of one conversion, in a process that has done nothing before."""
    from faq_keras.converters import from_onnx
    from faq_keras.converters.parity import peak_memory_mb

    imported = peak_memory_mb()
    start, start_cpu = time.perf_counter(), time.process_time()
    model = from_onnx(file)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    peak = peak_memory_mb()
    model.save(f"{file}.keras")
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mb": peak,
        "imported_mb": imported,
        "weights_mb": 4 * model.count_params() / 1e6,
        "layers": len(model.layers),
    }


def parity(name: str, file: str, images: int) -> dict[str, Any]:
    """Agreement of the saved Keras model with the original."""
    import keras
    import numpy as np

    from faq_keras.converters import from_onnx
    from faq_keras.converters.parity import (
        agreement,
        in_batches,
        keras_runner,
        onnx_runner,
        photographs,
    )
    from faq_keras.converters.torch_to_keras import torch_runner
    from faq_keras.converters.torch_to_onnx import load_module
    from faq_keras.converters.zoo import ZOO

    model = keras.saving.load_model(f"{file}.keras", compile=False)
    pixels = photographs(model.input_shape[1:], images)
    x = ZOO[name].preprocessing.apply(pixels) if name in ZOO else pixels.astype(np.float32) / 255
    got = in_batches(keras_runner(model), x)
    module = load_module(name, weights=f"{file}.pth")
    result: dict[str, Any] = {}
    for runtime, run in (("torch", torch_runner(module)), ("onnxruntime", onnx_runner(file))):
        found = agreement(in_batches(run, x), got)
        result[runtime] = found.relative_error
        result[f"{runtime}_top1"] = f"{found.same_top1}/{found.images}"
    fresh = keras_runner(from_onnx(file))(x[:8])
    result["reload_mismatches"] = int((fresh[0] != got[0][:8]).sum())
    return result


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(name: str, images: int, size: int) -> dict[str, Any]:
    """All figures of one network."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "network.onnx")
        shape = alone(export, name, file, size)
        row = {"network": name, "input": "x".join(map(str, shape)), **alone(convert, file)}
        return {**row, **(alone(parity, name, file, images) if images else {})}


def line(row: dict[str, Any]) -> str:
    """A row of a Markdown table."""
    cells = [row["network"], row["input"], f"{row['weights_mb']:.0f}"]
    cells += [f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}"]
    cells += [f"{row['peak_mb']:.0f}", f"{row['peak_mb'] - row['imported_mb']:.0f}"]
    if "torch" in row:
        cells += [f"{row['torch']:.1e}", row["torch_top1"]]
        cells += [f"{row['onnxruntime']:.1e}", row["onnxruntime_top1"]]
        cells += [str(row["reload_mismatches"])]
    return f"| {' | '.join(cells)} |"


def main(_: list[str]) -> None:
    """Measures one network after the other."""
    titles = ["network", "input", "weights MB", "seconds", "CPU seconds", "peak MB"]
    titles += ["above imports MB"]
    if _IMAGES.value:
        titles += ["error to torch", "top-1", "error to onnxruntime", "top-1", "reload mismatches"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", flush=True)
    rows = []
    for name in _NETWORKS.value:
        rows.append(measure(name, _IMAGES.value, _SIZE.value))
        print(line(rows[-1]), flush=True)
        if _JSON.value:
            Path(_JSON.value).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    app.run(main)
