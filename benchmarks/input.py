"""Does the input pipeline keep up with training?

    python benchmarks/input.py --data_dir=DIR
    python benchmarks/input.py --data_dir=DIR --batch=32 --steps=20

DIR is the folder of the test data (its `imagenet-samples` are used). A tree of JPEGs of ImageNet's
usual size, 500 x 375, is made of them in a temporary folder; ResNet-18 at 224 x 224 (W4A4, recipe
optimizer) trains on it. Measured are

- the stall: how long a step waits for its images, as a share of the step; the aim is 2 %;
- the step with the pipeline beside it over the step on images in memory: on a CPU, both share the
  cores; with a GPU they do not;
- the pipeline alone, in images per second, with training's and validation's transform.
"""

from __future__ import annotations

import io
import itertools
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measure
import networks
import numpy as np
import tensorflow as tf
from absl import app, flags
from PIL import Image

import faq_keras
from faq_keras.data.pipeline import Pipeline
from faq_keras.data.sources import Source, load_source
from faq_keras.data.transforms import transform

_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of the test data", required=True)
_BATCH = flags.DEFINE_integer("batch", 16, "images per step", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 6, "steps that count, of each block", lower_bound=2)
_ALONE = flags.DEFINE_integer("alone", 600, "images of the pipeline alone", lower_bound=1)

_AIM = 0.02
_WARMUP = 2  # steps of each block that do not count
_BLOCKS = 3


def photographs(data_dir: str) -> list[Image.Image]:
    """The ImageNet samples, 500 x 375."""
    packed = np.load(Path(data_dir) / "imagenet-samples" / "imagenet100_256_q90.npz")
    blob = packed["jpeg"].tobytes()
    files = [io.BytesIO(blob[a:b]) for a, b in itertools.pairwise(packed["offset"].tolist())]
    return [Image.open(file).convert("RGB").resize((500, 375)) for file in files]


def write_tree(root: Path, images: list[Image.Image], copies: int) -> float:
    """An ImageFolder tree with ten classes; the mean size of its files in KB."""
    sizes = []
    for split, count in (("train", copies), ("val", 1)):
        for number, copy in itertools.product(range(len(images)), range(count)):
            path = root / split / f"class{number % 10}" / f"{number}_{copy}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            images[number].rotate(copy).save(path, quality=92)
            sizes.append(path.stat().st_size)
    return float(np.mean(sizes)) / 1000


def quantized_model(x: np.ndarray) -> keras.Model:
    """ResNet-18, W4A4, ready to train on pixels 0..255."""
    model = networks.resnet18(keras)
    quantized = faq_keras.apply(model, 4, calibration_data=x, calibration_batches=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    quantized.compile(faq_keras.recipe("w4a4").optimizer, loss, jit_compile=False)
    return quantized


def timed_steps(model: keras.Model, batches: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Seconds that each step waited, and that it took in all."""
    waits, totals = [], []
    iterator = iter(batches)
    for _ in range(_WARMUP + _STEPS.value):
        start = time.perf_counter()
        x, y = next(iterator)
        waits.append(time.perf_counter() - start)
        model.train_on_batch(x, y)
        totals.append(time.perf_counter() - start)
    return np.array(waits[_WARMUP:]), np.array(totals[_WARMUP:])


def throughput(batches: tf.data.Dataset) -> float:
    """Images per second of a pipeline alone, without the first batch."""
    iterator, count = iter(batches), 0
    next(iterator)
    start = time.perf_counter()
    while count < _ALONE.value:
        count += len(next(iterator)[1])
    return count / (time.perf_counter() - start)


def training_figures(data: Pipeline) -> None:
    """Prints the stall, and what the pipeline costs the step."""
    x, y = next(iter(data.train(0)))
    model = quantized_model(x.numpy())
    in_memory = tf.data.Dataset.from_tensors((x, y)).repeat()
    blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for epoch in range(_BLOCKS):  # in turns, because a machine's speed drifts
        _, bare = timed_steps(model, in_memory)
        blocks.append((bare, *timed_steps(model, data.train(epoch))))
    bare, waits, totals = (np.concatenate(part) for part in zip(*blocks, strict=True))
    stall = float(waits.sum() / totals.sum())
    print(f"training step on images in memory: {1000 * np.median(bare):.0f} ms")
    print(
        f"training step with the pipeline: {1000 * np.median(totals):.0f} ms, "
        f"{np.median(totals) / np.median(bare):.3f} of that"
    )
    longest = f"longest wait {1000 * waits.max():.1f} ms"
    print(f"stall / step: {measure.verdict(stall, _AIM)} ({longest})", flush=True)


def pipeline(source: Source) -> Pipeline:
    """Batches with torchvision's recipe for ImageNet."""
    augment, prepare = (transform("imagenet", training, 224) for training in (True, False))
    return Pipeline(source, augment, prepare, _BATCH.value)


def main(_: list[str]) -> None:
    """Measures in a temporary folder."""
    print(measure.environment(), flush=True)
    images = photographs(_DATA_DIR.value)
    needed = max(_ALONE.value + _BATCH.value, (_WARMUP + _STEPS.value) * _BATCH.value)
    with tempfile.TemporaryDirectory() as folder:
        size = write_tree(Path(folder), images, copies=-(-needed // len(images)) + 1)
        data = pipeline(load_source("image_folder", folder))
        print(
            f"{data.train_images} JPEGs of 500 x 375, {size:.0f} KB each; ResNet-18, 224 x 224, "
            f"batch {_BATCH.value}"
        )
        training_figures(data)
        print(f"pipeline alone, training: {throughput(data.train(1)):.0f} images/s")
        validation = data.validation().repeat()
        print(f"pipeline alone, validation: {throughput(validation):.0f} images/s")
        load = os.getloadavg()[0]
        print(f"load of the machine at the end: {load:.1f}")


if __name__ == "__main__":
    app.run(main)
