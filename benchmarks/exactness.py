"""Do whole networks compute on the device what Keras computes? Every tensor, at native resolution.

    python benchmarks/exactness.py --networks=resnet50,densenet161 --bits=8,4 --images=4

Each network (a name of the zoo, of torchvision, or `keras:MobileNet` for one of
keras.applications) gets random weights and random BatchNorm statistics, is calibrated on
photographs, exported, and compared on all tensors: Keras = integer reference = XNNPACK, and
reference = runtime for the others. Every row runs in a process of its own; the time is that of
export and proof, the memory that process' peak.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import measure

NETWORKS = (
    *("resnet18", "resnet34", "resnet50", "resnet152", "inception_v3", "densenet161", "vgg16_bn"),
    *("resnet18_cifar10", "resnet20_cifar10", "mobilenet_v2", "efficientnet_lite0"),
    *("keras:MobileNet", "keras:ResNet50V2", "resnext50_32x4d", "googlenet", "squeezenet1_1"),
    *("mnasnet1_0", "regnet_x_400mf"),
)
RUNTIMES = ("xnnpack", "builtin", "reference", "tflm")

_NETWORKS = flags.DEFINE_list("networks", list(NETWORKS), "names")
_BITS = flags.DEFINE_list("bits", ["8", "4"], "widths of weights and activations")
_IMAGES = flags.DEFINE_integer("images", 4, "photographs to compare on")
_SIZE = flags.DEFINE_integer("size", 0, "height and width instead of the network's own")
_RUNTIMES = flags.DEFINE_list("runtimes", list(RUNTIMES), "runtimes to compare on")
_JSON = flags.DEFINE_string("json", None, "a file for the figures")


def float_network(name: str, size: int) -> Any:
    """A Keras model with random weights and random BatchNorm statistics."""
    if name.startswith("keras:"):
        return _application(name.removeprefix("keras:"), size or 224)
    import torch

    from faq_keras.converters import from_onnx
    from faq_keras.converters.torch_networks import randomised
    from faq_keras.converters.torch_to_onnx import load_module, torch_to_onnx
    from faq_keras.converters.zoo import ZOO

    torch.manual_seed(0)
    shape = ZOO[name].input_shape if name in ZOO else (224, 224, 3)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        torch_to_onnx(randomised(load_module(name)), file, (size, size, 3) if size else shape)
        return from_onnx(file)


def _application(name: str, size: int) -> Any:
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            channels = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0, 0.2, channels))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, channels))
    return model


def row(name: str, bits: int, images: int, size: int, runtimes: tuple[str, ...]) -> dict[str, Any]:
    """Quantizes, exports and compares one network."""
    import faq_keras
    from faq_keras.converters.parity import normalised_photographs, peak_memory_mb

    model = float_network(name, size)
    shape = model.input_shape[1:]
    calibration = normalised_photographs(shape, 32)
    start = time.perf_counter()
    q = faq_keras.apply(model, bits, calibration_data=calibration)
    applied = time.perf_counter()
    x = normalised_photographs(shape, images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.tflite"
        export = faq_keras.export_tflite(q, path, "int4" if bits <= 4 else "int8", verify=x)
        exported = time.perf_counter()
        peak = peak_memory_mb()
        others = [name for name in runtimes if name != "xnnpack"]
        runs = list(export.runs)
        if others:
            runs += faq_keras.verify(q, path, x, others).runs
        return {
            "network": name,
            "input": "x".join(map(str, shape)),
            "bits": f"W{bits}A{bits}",
            "bytes": path.stat().st_size,
            "apply_s": applied - start,
            "export_s": exported - applied,
            "peak_mb": peak,
            "tensors": runs[0].tensors,
            "values": {run.runtime: run.values for run in runs},
            "mismatches": {run.runtime: run.mismatches for run in runs},
        }


def line(found: dict[str, Any], runtimes: list[str]) -> str:
    """A row of a Markdown table."""
    cells = [found["network"], found["input"], found["bits"], f"{found['bytes']:,}"]
    cells += [str(found["tensors"]), f"{found['values']['xnnpack']:,}"]
    cells += [str(found["mismatches"].get(name, "")) for name in runtimes]
    cells += [f"{found['apply_s']:.0f}", f"{found['export_s']:.0f}", f"{found['peak_mb']:.0f}"]
    return f"| {' | '.join(cells)} |"


def main(_: list[str]) -> None:
    """One row after the other."""
    runtimes = list(dict.fromkeys(["xnnpack", *_RUNTIMES.value]))
    titles = ["network", "input", "bits", "bytes", "tensors", "values", *runtimes]
    titles += ["apply s", "export + proof s", "peak MB"]
    print(measure.environment())
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", flush=True)
    rows = []
    for name in _NETWORKS.value:
        for bits in _BITS.value:
            arguments = (name, int(bits), _IMAGES.value, _SIZE.value, tuple(runtimes))
            rows.append(measure.alone(row, *arguments))
            print(line(rows[-1], runtimes), flush=True)
            if _JSON.value:
                Path(_JSON.value).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    app.run(main)
