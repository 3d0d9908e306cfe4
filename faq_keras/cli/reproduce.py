"""faq reproduce table1|table2|figure1|figure2|cifar10 --workdir=DIR [--scale=smoke|small|full].

Runs an experiment of the paper again and shows what was measured beside what was published:
DIR/NAME_SCALE.html, .md, .json and, for figures, .svg and .png.

smoke: embedded images, about a minute; tells whether everything works, no more.
small: the same experiments on small tasks, at most an hour on two cores: Fashion-MNIST; for
    cifar10 and figure1 ResNet-20 on CIFAR-10 (--data_dir=cifar-10-batches-py --weights=FILE.pth).
full: the paper's own (--data_dir=IMAGENET --weights=FOLDER with resnet18.pth and the others).

Each row is a training in a folder of its own below DIR/SCALE. Rows that are finished are not run
again, those that were interrupted go on; the same command resumes all. --rows runs a part of them.

Example: faq reproduce table2 --scale=smoke --workdir=runs/paper
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import tensorflow as tf
from absl import flags
from ml_collections.config_dict import ConfigDict

from faq_keras.cli import common, experiments
from faq_keras.files import make_folder, refuse_links
from faq_keras.report.pages import write
from faq_keras.reproduction.experiments import FULL, PLANS, Row
from faq_keras.reproduction.results import results
from faq_keras.reproduction.runs import Runs
from faq_keras.reproduction.scales import SCALES
from faq_keras.training.interruption import Interrupted

FLAGS = flags.FlagValues()
_WITH_FOLDER = ("image_folder", "tfrecord", "cifar10", "idx")  # data sources that need a folder
_SCALE = flags.DEFINE_enum("scale", "smoke", [*SCALES, FULL], "how large", flag_values=FLAGS)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of runs and results", flag_values=FLAGS)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of the images", flag_values=FLAGS)
_WEIGHTS = flags.DEFINE_string(
    "weights", None, "pretrained weights: a file, or a folder with NETWORK.pth", flag_values=FLAGS
)
_SEEDS = flags.DEFINE_list("seeds", None, "seeds of every row, such as 1,2", flag_values=FLAGS)
_ROWS = flags.DEFINE_list("rows", None, "run these rows only", flag_values=FLAGS)


def main(arguments: list[str]) -> int:
    """Reproduces one table or figure."""
    (name,) = common.positional(arguments, "NAME")
    if name not in PLANS:
        raise ValueError(f"There is no {name!r} to reproduce; there are {', '.join(PLANS)}.")
    if not _WORKDIR.value:
        raise ValueError("--workdir is missing: name the folder of runs and results.")
    refuse_links(_WORKDIR.value)
    common.log_to_stderr()
    rows = PLANS[name](_SCALE.value)
    _check_data(name, rows)
    folder = Path(_WORKDIR.value) / _SCALE.value
    runs = Runs(rows, folder, _seeds(), _train, _chosen(rows))
    status = 0
    try:
        runs.run()
    except Interrupted as stop:
        print(f"faq reproduce: {stop}", file=sys.stderr)
        status = 128 + stop.signal
    _write(name, runs)
    return status or int(runs.failed)


def _check_data(name: str, rows: list[Row]) -> None:
    """Says once what is missing, before every row says it."""
    chosen = _chosen(rows)
    run = [row for row in rows if chosen is None or row.name in chosen]
    folders = sorted({row.config.data.source for row in run} & set(_WITH_FOLDER))
    if folders and not _DATA_DIR.value:
        raise ValueError(
            f"{name} at --scale={_SCALE.value} needs images of your own ({', '.join(folders)}): "
            "give --data_dir=FOLDER, and --weights (a file or a folder) where its networks are "
            "pretrained. --scale=smoke needs neither."
        )


def _write(name: str, runs: Runs) -> None:
    scale = _SCALE.value
    given = {"data_dir": _DATA_DIR.value, "weights": _WEIGHTS.value}
    words = [f"--{flag}={Path(value).name}" for flag, value in given.items() if value]
    seeds = _seeds()
    command = " ".join(
        ["faq reproduce", name, f"--scale={scale}", *words, f"--seeds={','.join(map(str, seeds))}"]
    )
    document = results(name, scale, runs, seeds, command)
    for table in document.sections[0].tables:
        common.print_table(table.columns, table.rows, table.caption)
    for text in (*document.sections[0].text, *document.sections[0].notices):
        common.say(text)
    make_folder(runs.folder.parent)
    files = write(document, runs.folder.parent / f"{name}_{scale}", picture_files=True)
    common.say(f"Written: {', '.join(map(str, files))}.")


def _train(config: ConfigDict, folder: Path) -> None:
    config.data.data_dir = _DATA_DIR.value if config.data.source != "mnist5k" else None
    if config.weights and _WEIGHTS.value and not Path(config.weights).exists():
        given = Path(_WEIGHTS.value)
        config.weights = str(given / config.weights if given.is_dir() else given)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.clear_session(free_memory=False)  # layers are named alike in every run
    experiments.trained(config, folder, resume=True)


def _seeds() -> tuple[int, ...]:
    if _SEEDS.value is None:
        return SCALES[_SCALE.value].seeds if _SCALE.value in SCALES else (1,)
    try:
        seeds = tuple(dict.fromkeys(int(word) for word in _SEEDS.value))
    except ValueError as error:
        raise ValueError(f"--seeds takes whole numbers: {','.join(_SEEDS.value)}.") from error
    if not seeds:
        raise ValueError("--seeds names no seed.")
    return seeds


def _chosen(rows: list[Row]) -> list[str] | None:
    unknown = sorted(set(_ROWS.value or ()) - {row.name for row in rows})
    if unknown:
        raise ValueError(
            f"No row is called {', '.join(unknown)}; there are "
            f"{', '.join(row.name for row in rows)}."
        )
    return _ROWS.value
