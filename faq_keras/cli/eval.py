"""faq eval --config=CONFIG.py MODEL.keras|MODEL.tflite [--config.key=value ...] [--json=FILE].

Measures how often a network is right on the validation images of a configuration: top-1, and top-5
where there are more than five classes. The pixels are normalized as the configuration says, unless
the network (or the .tflite file's metadata) contains its normalization, as those of `faq train` do.

Example: faq eval --config=configs/smoke.py runs/smoke/model.keras
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from absl import flags
from ml_collections.config_dict import ConfigDict

from faq_keras.cli import common, experiments, networks
from faq_keras.cli.config_flag import ConfigFlags
from faq_keras.cli.config_values import check_values
from faq_keras.converters.zoo import Preprocessing
from faq_keras.data.pipeline import Pipeline
from faq_keras.tflite import loader
from faq_keras.training.experiment import check_network

FLAGS = ConfigFlags(__name__)
_JSON = flags.DEFINE_string("json", None, "also write the figures to this file", flag_values=FLAGS)
_RUNTIME = flags.DEFINE_string(
    "runtime", "xnnpack", "what runs a .tflite file: see `faq verify`", flag_values=FLAGS
)
_THREADS = flags.DEFINE_integer(
    "num_threads", 1, "threads for a .tflite file", lower_bound=1, flag_values=FLAGS
)

Images = npt.NDArray[np.float32]
Predict = Callable[[Images], npt.NDArray[np.float32]]


def main(arguments: list[str]) -> int:
    """Evaluates one file."""
    (path,) = common.positional(arguments, "MODEL")
    config = FLAGS.chosen
    if Path(path).suffix not in (".keras", ".h5", ".tflite"):
        raise ValueError(f"{path} is none of a .keras, a .h5 and a .tflite file.")
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist.")
    check_values(config)
    data = experiments.pipeline_of(config)
    predict = _tflite(path, config) if path.endswith(".tflite") else _keras(path, config, data)
    top1, top5, total = _count(predict, data, path)
    figures = {"top1": top1 / total} | ({"top5": top5 / total} if data.classes > 5 else {})
    error = 100 * np.sqrt(figures["top1"] * (1 - figures["top1"]) / total)
    rows = [(f"{name[:3]}-{name[3:]}", f"{100 * value:.2f} %") for name, value in figures.items()]
    common.print_table(("figure", path), rows, f"{data.source.name}, {total:,} validation images")
    common.say(f"One standard error of top-1 is {error:.2f} points.")
    if _JSON.value:
        common.write_text(_JSON.value, json.dumps({**figures, "images": total, "model": path}))
    return 0


def _keras(path: str, config: ConfigDict, data: Pipeline) -> Predict:
    network = networks.build(path, None, data.classes, data.input_shape)
    network = networks.normalized(network, config.data.mean, config.data.std)
    check_network(network, data)
    return lambda images: np.asarray(network.predict_on_batch(images))


def _tflite(path: str, config: ConfigDict) -> Predict:
    runner = loader.load(path, _RUNTIME.value, _THREADS.value)
    normalization = Preprocessing(config.data.mean, config.data.std)
    if runner.file.metadata.get("preprocessing"):
        return lambda images: np.asarray(runner(images))
    return lambda images: np.asarray(runner(normalization.apply(images)))


def _count(predict: Predict, data: Pipeline, path: str) -> tuple[int, int, int]:
    """How many images are right at first, among the first five, and all of them."""
    top1 = top5 = total = 0
    with data.corrupt.named():
        for images, labels in data.validation():
            scores = predict(images.numpy())
            if scores.ndim != 2 or scores.shape[1] != data.classes:
                raise ValueError(
                    f"{path} gives scores of the shape {scores.shape[1:]}, but {data.source.name} "
                    f"has {data.classes} classes. Evaluate it with the configuration that it was "
                    "trained with."
                )
            truth = labels.numpy()
            truth = truth.argmax(1) if truth.ndim == 2 else truth
            # Ties count as in Keras' top-k: a class is among the first k if fewer than k beat it.
            better = (scores > np.take_along_axis(scores, truth[:, None], 1)).sum(1)
            top1 += int((scores.argmax(1) == truth).sum())
            top5 += int((better < 5).sum())
            total += len(truth)
    return top1, top5, total
