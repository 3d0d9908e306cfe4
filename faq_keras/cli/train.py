"""faq train --config=CONFIG.py --workdir=DIR [--config.key=value ...] [--resume] [--dry_run].

Runs the experiment of a configuration: evaluates the float network, quantizes it with calibration,
fine-tunes it by the recipe. DIR gets config.json, plan.json, metrics.jsonl, tensorboard/,
checkpoints/ (last.npz, best.keras), model.keras and result.json.

A run that was stopped or killed goes on with --resume, bit for bit as if it had not been; with
--resume and nothing to go on with, it begins. --dry_run builds everything, prints plan, schedule
and estimates of time and memory, and writes nothing but the picture of --plot.

--distribution shares each batch among the GPUs of this machine (mirrored) or among the workers that
TF_CONFIG names (multi_worker: the same command on each, and a DIR that all of them see).

Example: faq train --config=configs/smoke.py --workdir=runs/smoke --config.epochs=2
"""

from __future__ import annotations

import sys
from typing import Any

import tensorflow as tf
from absl import flags

from faq_keras.cli import common, experiments
from faq_keras.cli.config_flag import ConfigFlags
from faq_keras.training import distribution
from faq_keras.training.interruption import Interrupted

FLAGS = ConfigFlags(__name__)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", flag_values=FLAGS)
_RESUME = flags.DEFINE_bool(
    "resume", False, "go on with the run in --workdir, or begin it", flag_values=FLAGS
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "build and estimate everything, train nothing", flag_values=FLAGS
)
_PLOT = flags.DEFINE_string(
    "plot", None, "with --dry_run: a .png of the schedules", flag_values=FLAGS
)
_DISTRIBUTION = flags.DEFINE_enum(
    "distribution",
    "none",
    distribution.NAMES,
    "devices that share each batch",
    flag_values=FLAGS,
)


def main(arguments: list[str]) -> int:
    """Trains."""
    common.positional(arguments)
    config = FLAGS.chosen
    if _DRY_RUN.value:
        from faq_keras.cli.dry_run import show

        show(config, _PLOT.value, _DISTRIBUTION.value)
        return 0
    if not _WORKDIR.value:
        raise ValueError("--workdir is missing: name the folder of the run.")
    if _PLOT.value:
        raise ValueError("--plot goes with --dry_run.")
    common.log_to_stderr()
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    with distribution.strategy_named(_DISTRIBUTION.value).scope():
        try:
            _show(experiments.trained(config, _WORKDIR.value, _RESUME.value))
        except Interrupted as stop:
            print(f"faq train: {stop}", file=sys.stderr)
            return 128 + stop.signal
    return 0


def _show(report: dict[str, Any]) -> None:
    names = {
        "float": "float",
        "quantized": "quantized, not yet trained",
        "trained": f"after {report['epochs']} epoch(s) of {report['recipe']}",
    }
    rows = [
        (title, *(_percent(report[key].get(metric)) for metric in ("accuracy", "top5")))
        for key, title in names.items()
        if key in report
    ]
    common.print_table(("network", "top-1", "top-5"), rows, f"{report['model']}, validation")
    best = report["best"]
    common.say(
        f"Best epoch: {best['epoch'] + 1} ({_percent(best['accuracy'])}). Training took "
        f"{report['seconds']:.0f} s. Everything is in {_WORKDIR.value}."
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"
