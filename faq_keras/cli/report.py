"""faq report WORKDIR [--data_dir=DIR] [--images=64] [--nomeasure] [--pictures].

Writes WORKDIR/report.html, a page that needs nothing but a browser, and the same as report.md and
report.json: accuracy, training curves, gradient noise, distance of the weights from the start,
ranges of the activations, bits, bytes and time of each layer, parity of the exported file on each
runtime, configuration, versions and hashes.

What the training did not leave is measured with validation images of its configuration and kept in
WORKDIR/measured: an int8 file with its model card, and figures as .json. WORKDIR may also hold
several runs in folders below it; then they are compared. Whatever is missing, unfinished or
damaged is named in its place.

Example: faq report runs/smoke
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from absl import flags
from ml_collections.config_dict import ConfigDict

from faq_keras.cli import common, experiments
from faq_keras.cli.config_values import check_values
from faq_keras.configs import base
from faq_keras.report.measurements import RUNTIMES, Images
from faq_keras.report.pages import write
from faq_keras.report.run_report import run_report
from faq_keras.report.runs import Run
from faq_keras.texts import reason_of

FLAGS = flags.FlagValues()
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "folder of the images, if they are no longer where they were",
    flag_values=FLAGS,
)
_IMAGES = flags.DEFINE_integer(
    "images", 64, "validation images to measure with", lower_bound=1, flag_values=FLAGS
)
_RUNTIMES = flags.DEFINE_list(
    "runtimes",
    list(RUNTIMES),
    "runtimes to compare the file on: see `faq verify`",
    flag_values=FLAGS,
)
_MEASURE = flags.DEFINE_bool(
    "measure", True, "measure what the training did not leave", flag_values=FLAGS
)
_PICTURES = flags.DEFINE_bool(
    "pictures", False, "also write every picture as .svg and .png", flag_values=FLAGS
)


def main(arguments: list[str]) -> int:
    """Writes the report."""
    (workdir,) = common.positional(arguments, "WORKDIR")
    common.log_to_stderr()
    document = run_report(workdir, _images, _IMAGES.value, tuple(_RUNTIMES.value), _MEASURE.value)
    for section in document.sections:
        for notice in section.notices:
            common.say(f"{section.title}: {notice}")
    files = write(document, Path(workdir) / "report", _PICTURES.value)
    common.say(f"Written: {', '.join(map(str, files))}.")
    return 0


def _images(run: Run, count: int) -> Images:
    """The first validation images of a run and their classes."""
    if not run.config:
        raise ValueError("The run's configuration is not known, so neither are its images.")
    try:
        config = _config(run)
    except Exception as error:  # it is a file that may hold anything
        raise ValueError(
            f"The run's configuration cannot be used: {reason_of(error).rstrip('.')}."
        ) from error
    config.batch_size, config.label_smoothing = count, 0.0
    try:
        x, y = next(iter(experiments.pipeline_of(config).validation()))
    except Exception as error:  # options of any type, and whatever the folder holds
        raise ValueError(
            f"{reason_of(error)} If the images have moved, name their folder: --data_dir."
        ) from error
    return np.asarray(x), np.asarray(y)


def _config(run: Run) -> ConfigDict:
    """The configuration of a run, with values that can be used."""
    config = base.config()
    with config.unlocked(), config.ignore_type():
        config.update(run.config)
    if _DATA_DIR.value:
        config.data.data_dir = _DATA_DIR.value
    check_values(config)
    return config
