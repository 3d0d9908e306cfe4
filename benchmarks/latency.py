"""Is our int8 file as fast as TensorFlow's own, and the packed one as fast as ours?

    python benchmarks/latency.py
    python benchmarks/latency.py --networks=resnet20 --rounds=100 --num_threads=2

From one network come four kinds of files, and all run through `faq_keras.tflite.load` on XNNPACK,
taking turns in one process. Where a load happens to put weights and tensors in memory moves a
time by a few percent, also of equal files, so all are loaded anew several times, in other orders:

- ours, W4A4 in int8 containers, and the same packed (16-bit logits, the default);
- ours with 8-bit logits, as the other two have;
- TFLiteConverter's post-training quantization of the Keras network, all integer, int8 in and out;
- the same converter behind tfmot's quantization-aware `quantize_model`, of the tf_keras twin.

Aims: int8 takes at most 1.02 of the converter's time, packed at most 1.03 of int8's, and the packed
file has at most 1.02 of the bytes that remain when the codes of the 4-bit layers are halved.
Time does not depend on the weights, which are random.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measure
import networks
import tensorflow as tf
import tf_keras
from absl import app, flags, logging

import faq_keras
from faq_keras.compat import tfmot
from faq_keras.tflite import flatbuffer, load, model_file

_NETWORKS = flags.DEFINE_list("networks", list(networks.CASES), "which networks")
_ROUNDS = flags.DEFINE_integer("rounds", 60, "rounds that count, of all loads", lower_bound=1)
_LOADS = flags.DEFINE_integer("loads", 6, "how often the files are loaded anew", lower_bound=1)
_NUM_THREADS = flags.DEFINE_integer("num_threads", 1, "threads of the interpreter", lower_bound=1)

_INT8_AIM, _PACKED_AIM, _SIZE_AIM = 1.02, 1.03, 1.02
# A turn repeats a fast network until it has taken this long: a tick of the clock must not matter.
_TURN_SECONDS = 0.02
_OURS, _PACKED, _OURS_8 = "ours int8", "ours packed", "ours int8, 8-bit logits"
_CONVERTER, _TFMOT = "converter int8", "tfmot int8"


def write_files(name: str, folder: Path) -> dict[str, Path]:
    """The candidates' files by title."""
    model = networks.CASES[name].build(keras)
    x = networks.images(model, 16)
    wide = faq_keras.apply(model, 4, calibration_data=x, calibration_batches=1)
    narrow = faq_keras.apply(model, 4, calibration_data=x, calibration_batches=1, logits_bits=8)
    files = {
        title: folder / f"{name}_{number}.tflite"
        for number, title in enumerate((_OURS, _PACKED, _OURS_8, _CONVERTER, _TFMOT))
    }
    faq_keras.export_tflite(wide, files[_OURS], "int8", verify=None)
    faq_keras.export_tflite(wide, files[_PACKED], "int4", verify=None)
    faq_keras.export_tflite(narrow, files[_OURS_8], "int8", verify=None)
    files[_CONVERTER].write_bytes(converted(model, x))
    twin = networks.CASES[name].build(tf_keras)
    try:
        files[_TFMOT].write_bytes(converted(tfmot.quantization.keras.quantize_model(twin), x))
    except (ValueError, RuntimeError) as error:
        print(f"  tfmot does not take {name}: {str(error).splitlines()[0]}")
        del files[_TFMOT]
    return files


def converted(model: Any, x: Any) -> bytes:
    """TensorFlow's integer file of a Keras model, calibrated on images `x`."""

    def representative() -> Iterator[list[Any]]:
        for image in x:
            yield [image[None]]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    # It announces its steps on stdout.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return bytes(converter.convert())


def turns(files: dict[str, Path]) -> dict[str, measure.Times]:
    """Times per image of all candidates, over all loads."""
    order = random.Random(0)
    times = {title: measure.Times([], []) for title in files}
    for _ in range(_LOADS.value):
        titles = order.sample(list(files), len(files))
        for title, taken in turns_of_one_load({title: files[title] for title in titles}).items():
            times[title].wall.extend(taken.wall)
            times[title].cpu.extend(taken.cpu)
    return times


def turns_of_one_load(files: dict[str, Path]) -> dict[str, measure.Times]:
    """Loads all candidates, in this order, and gives their times per image."""
    jobs: dict[str, Callable[[], object]] = {}
    repeats: dict[str, int] = {}
    for title, path in files.items():
        runner = load(path, num_threads=_NUM_THREADS.value)
        run = runner.prepare(runner.random_inputs(1))
        start = time.perf_counter()
        run()
        repeats[title] = max(1, round(_TURN_SECONDS / (time.perf_counter() - start)))
        jobs[title] = repeated(run, repeats[title])
    times = measure.take_turns(jobs, -(-_ROUNDS.value // _LOADS.value), warmup=5)
    return {
        title: measure.Times(
            [seconds / repeats[title] for seconds in taken.wall],
            [seconds / repeats[title] for seconds in taken.cpu],
        )
        for title, taken in times.items()
    }


def repeated(run: Callable[[], None], count: int) -> Callable[[], object]:
    """A function that calls another one `count` times."""

    def repeat() -> None:
        for _ in range(count):
            run()

    return repeat


def packed_codes(path: Path) -> int:
    """How many codes a file stores in 4 bits."""
    file = model_file.read(path)
    return sum(
        flatbuffer.element_count(tensor)
        for tensor in file.graph.tensors
        if flatbuffer.type_name(tensor) == "int4"
    )


def print_sizes(files: dict[str, Path]) -> None:
    """Prints bytes, and the packed file's against what halving the 4-bit codes leaves."""
    sizes = {title: path.stat().st_size for title, path in files.items()}
    for title, size in sizes.items():
        print(f"  {title}: {size:,} bytes")
    narrow = packed_codes(files[_PACKED])
    expected = sizes[_OURS] - narrow + (narrow + 1) // 2
    ratio = measure.verdict(sizes[_PACKED] / expected, _SIZE_AIM)
    print(
        f"  bytes, packed / ({narrow:,} weights / 2 + overhead {expected - narrow // 2:,}): {ratio}"
    )


def measure_network(name: str) -> None:
    """Prints the figures of one network."""
    print(f"\n{name}, {_NUM_THREADS.value} thread(s)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(name, Path(folder))
        print_sizes(files)
        times = turns(files)
    for title, taken in times.items():
        print(f"  one image, {title}: {taken}")
    pairs = [
        (_OURS, _CONVERTER, _INT8_AIM),
        (_OURS_8, _CONVERTER, _INT8_AIM),
        (_OURS, _TFMOT, _INT8_AIM),
        (_OURS_8, _TFMOT, _INT8_AIM),
        (_PACKED, _OURS, _PACKED_AIM),
    ]
    for ours, theirs, aim in pairs:
        if theirs in times:
            line = measure.ratio_line(f"  {ours} / {theirs}", times[ours], times[theirs], aim)
            print(line, flush=True)


def main(_: list[str]) -> None:
    """Measures one network after the other."""
    logging.set_verbosity(logging.ERROR)  # the converter reports its steps there too
    print(measure.environment(), flush=True)
    for name in _NETWORKS.value:
        measure_network(name)
    print(f"\nload of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    app.run(main)
