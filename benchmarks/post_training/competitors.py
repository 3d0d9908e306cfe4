"""What a user would take instead, on the same images: TensorFlow's converter, LiteRT's quantizer.

    pip install ai-edge-quantizer        # here, or elsewhere and --quantizer_python=PYTHON
    python benchmarks/post_training/competitors.py --data_dir=../shared/data --cache=CACHE \
        --networks=efficientnet_lite0,resnet20,fashion --methods=fitted,reconstruct

All start from the same float network and calibrate on the same images. `TFLiteConverter`: full
integer post-training quantization. `ai-edge-quantizer`: static 8-bit activations, 8- or 4-bit
weights (all layers) with a float scale per channel, its default algorithm and OCTAV. Then every
*file* is run on all test images by LiteRT (XNNPACK), ours through `faq_keras.tflite.load`, which
unpacks 4-bit weights; accuracies are the files'. The last column says how many of the file's output
codes differ from those that the tool's own Keras model of the quantized network predicts.
Post-training tools have no such model: what their file answers is known after it has run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import measure
import numpy as np
from absl import app, flags
from post_training import figures, methods, networks

NO_MODEL = "no Keras model of the quantized network"
TOOLS = {
    "TFLiteConverter W8A8": ("converter", 8, ""),
    "LiteRT quantizer W8A8": ("quantizer", 8, "MIN_MAX_UNIFORM_QUANT"),
    "LiteRT quantizer W8A8 OCTAV": ("quantizer", 8, "OCTAV"),
    "LiteRT quantizer W4A8": ("quantizer", 4, "MIN_MAX_UNIFORM_QUANT"),
    "LiteRT quantizer W4A8 OCTAV": ("quantizer", 4, "OCTAV"),
}


@dataclasses.dataclass(frozen=True)
class Order:
    """One file to make and run.

    Attributes:
        network: Its name in `networks.NETWORKS`.
        title: A key of `TOOLS`, or of a method of ours such as "ours W4A8, fitted".
        bits: Of weights and activations, for ours.
        method: One of `methods.METHODS`, for ours; empty for a tool.
        seed: Of the split.
        images: Calibration images, at most.
        files: Where the material is.
        quantizer_python: The Python that has ai-edge-quantizer.
    """

    network: str
    title: str
    bits: tuple[int, int]
    method: str
    seed: int
    images: int
    files: networks.Files
    quantizer_python: str


def row(order: Order) -> dict[str, Any]:
    """Makes and runs one file in this process; a tool's own error is part of the figures."""
    material = networks.load(order.network, order.files, order.seed)
    split = material.split
    floats = figures.float_answers(material.model, split.images, order.network, order.files.cache)
    some = methods.top_of(split.calibration, order.images)
    found = {"network": order.network, "title": material.entry.title, "by": order.title}
    found |= {"seed": order.seed, "calibration_images": len(some)}
    predicted = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        start = time.perf_counter()
        try:
            if order.method:
                predicted = ours(order, material.model, some, split.images, path)
            else:
                theirs(order, material.model, some, path)
        except (RuntimeError, ValueError) as error:
            return found | {"failed": str(error).strip().splitlines()[-1]}
        seconds, size = time.perf_counter() - start, path.stat().st_size
        answers = (run_ours if order.method else run)(path, split.images)
    score = figures.score(floats, answers, split.labels, material.entry.embeds)
    return (
        found
        | score.figures()
        | {
            "bytes": size,
            "seconds": seconds,
            "codes": int(answers.size),
            "differing": None if predicted is None else int(np.sum(answers != predicted)),
        }
    )


def ours(
    order: Order, model: Any, images: np.ndarray, tests: np.ndarray, path: Path
) -> figures.Answers:
    """Writes our file; what its Keras model predicts for the test images."""
    import faq_keras

    q = next(methods.quantized(model, order.bits, (order.method,), images)).model
    weights = "int4" if order.bits[0] <= 4 else "int8"
    faq_keras.export_tflite(q, path, weights, verify=None)
    return figures.answers(q, tests)


def theirs(order: Order, model: Any, images: np.ndarray, path: Path) -> None:
    """Writes the file of one of `TOOLS`.

    Raises:
        RuntimeError: With the tool's last words, if it fails.
    """
    kind, weight_bits, algorithm = TOOLS[order.title]
    with figures.logits_of(model):
        if kind == "converter":
            path.write_bytes(converted(model, images))
            return
        float_file = path.with_name("float.tflite")
        float_file.write_bytes(converted(model, None))
    np.save(path.with_name("images.npy"), images)
    child = {"float_file": str(float_file), "images": str(path.with_name("images.npy"))}
    child |= {"file": str(path), "weight_bits": weight_bits, "algorithm": algorithm}
    script = str(Path(__file__).with_name("quantizer_child.py"))
    command = [order.quantizer_python, script, json.dumps(child)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} exited with {done.returncode}.")


def converted(model: Any, images: np.ndarray | None) -> bytes:
    """TensorFlow's file of a Keras model: all integer if there are images to calibrate on."""
    import tensorflow as tf

    def representative() -> Iterator[list[Any]]:
        for image in images if images is not None else ():
            yield [image[None]]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if images is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    # It announces its steps on stdout.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return bytes(converter.convert())


def run(path: Path, images: np.ndarray) -> figures.Answers:
    """Logits `[images, classes]` of a file with one input and one output, by LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    batch, parts = figures.batch_of(images), []
    for start in range(0, len(images), batch):
        x = images[start : start + batch]
        interpreter.resize_tensor_input(source["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], encoded(x, source))
        interpreter.invoke()
        parts.append(decoded(interpreter.get_tensor(target["index"]), target))
    return np.concatenate(parts)


def run_ours(path: Path, images: np.ndarray) -> figures.Answers:
    """The same of one of our files, through the loader that packed weights need."""
    from faq_keras.tflite import load

    runner, batch = load(path), figures.batch_of(images)
    parts = [runner(images[start : start + batch]) for start in range(0, len(images), batch)]
    return np.concatenate(parts)


def encoded(x: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Inputs in the file's own dtype."""
    if details["dtype"] == np.float32:
        return x
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    codes = np.rint(x.astype(np.float64) / scale) + zero
    return np.clip(codes, limits.min, limits.max).astype(details["dtype"])


def decoded(codes: np.ndarray, details: dict[str, Any]) -> figures.Answers:
    """Outputs as numbers."""
    if details["dtype"] == np.float32:
        return codes
    scale, zero = details["quantization"]
    return ((codes.astype(np.float64) - zero) * scale).astype(np.float32)


TITLES = (
    *("network", "by", "bytes", "float", "top-1", "difference", "agreement"),
    "output codes that differ from the tool's Keras model",
)


def line(found: dict[str, Any]) -> str:
    """A row of a Markdown table."""
    cells = [found["title"], found["by"]]
    if "failed" in found:
        return f"| {' | '.join(cells)} | failed: {found['failed']} |"
    cells += [f"{found['bytes']:,}"]
    if found["top1"] is None:
        cells += ["", "", ""]
    else:
        cells += [f"{found['float_top1']:.2f}", f"{found['top1']:.2f}"]
        cells += [f"{found['difference']:+.2f} ± {found['error']:.2f}"]
    cells += [f"{found['agreement']:.1f}"]
    known = found["differing"] is not None
    cells += [f"{found['differing']:,} of {found['codes']:,}" if known else NO_MODEL]
    return f"| {' | '.join(cells)} |"


_NETWORKS = flags.DEFINE_list("networks", ["efficientnet_lite0", "resnet20", "fashion"], "names")
_BITS = flags.DEFINE_list("bits", ["8", "4x8"], "ours: 8 is W8A8, 4x8 is W4A8")
_METHODS = flags.DEFINE_list("methods", ["fitted", "reconstruct"], "ours: methods")
_TOOLS = flags.DEFINE_list("tools", list(TOOLS), "names of the others")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "seeds of the splits")
_IMAGES = flags.DEFINE_integer("images", 256, "calibration images, at most", lower_bound=1)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of data and networks", required=True)
_CACHE = flags.DEFINE_string("cache", None, "folder for converted networks and float logits")
_PYTHON = flags.DEFINE_string("quantizer_python", sys.executable, "Python with ai-edge-quantizer")
_JSON = flags.DEFINE_string("json", None, "a file for the figures")


def orders(files: networks.Files) -> Iterator[Order]:
    """What the flags ask for: for every network the tools, then ours."""
    whose = [(tool, (8, 8), "") for tool in _TOOLS.value]
    for text in _BITS.value:
        bits = methods.parse_bits(text)
        whose += [(f"ours {methods.title(bits)}, {how}", bits, how) for how in _METHODS.value]
    for network in _NETWORKS.value:
        for title, bits, method in whose:
            for seed in map(int, _SEEDS.value):
                rest = (seed, _IMAGES.value, files, _PYTHON.value)
                yield Order(network, title, bits, method, *rest)


def main(_: list[str]) -> None:
    """One row after the other."""
    methods.check(_METHODS.value)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(_CACHE.value or temporary)
        cache.mkdir(parents=True, exist_ok=True)
        print(measure.environment())
        print(f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}", flush=True)
        for order in orders(networks.Files(Path(_DATA_DIR.value), cache)):
            rows.append(measure.alone(row, order))
            print(line(rows[-1]), flush=True)
            if _JSON.value:
                Path(_JSON.value).write_text(json.dumps(rows))


if __name__ == "__main__":
    app.run(main)
