"""What `faq train --dry_run` prints: data, network, plan, schedule, time and memory.

    show(config, plot="schedule.png")

Nothing is trained and nothing is written but the picture. Where data or weights are absent, noise
and random weights take their place, and the text says so.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ml_collections.config_dict import ConfigDict

from faq_keras.cli import common, experiments
from faq_keras.cli.config_values import check_values
from faq_keras.data.pipeline import Pipeline
from faq_keras.rewrite.keras3 import plan_of
from faq_keras.training import distribution
from faq_keras.training.estimates import estimate, plot_schedules, schedule_rows
from faq_keras.training.experiment import check_network, compile_for, quantized
from faq_keras.training.recipes import Recipe

_IMAGES = 16  # to calibrate and to time with


def show(config: ConfigDict, plot: str | None, devices: str = "none") -> None:
    """Builds what the configuration describes, and prints it.

    Args:
        config: The configuration.
        plot: A .png for the schedules, or None.
        devices: The value of `--distribution`; workers are counted, not connected.

    Raises:
        ValueError: As the training itself would, before its first step.
    """
    check_values(config)
    config = config.copy_and_resolve_references().unlock()
    data = _data(config)
    if devices != "none":
        _show_devices(devices, data)
    few = dataclasses.replace(data, batch_size=_IMAGES)
    experiment = dataclasses.replace(experiments.experiment_of(config, data), data=few)
    _leave_out_missing_weights(config)
    network = experiments.network_of(config, data, checked=False)
    check_network(network, data)
    compile_for(network, experiment, experiment.recipe)
    images = next(few.calibration(1))
    if experiment.bits is not None:
        batches = min(experiment.calibration_batches, 1)
        trial = dataclasses.replace(experiment, calibration_batches=batches)
        common.say(f"\nPlan (its ranges, from {_IMAGES} images, are not those of the training):\n")
        common.say(plan_of(quantized(network, trial)))
    if experiment.pretraining is not None:
        _show_course("Pretraining", experiment.pretraining, data)
    _show_course("Training", experiment.recipe, data)
    cost = estimate(network, experiment.recipe, data, images)
    common.say(
        f"\n{cost.steps:,} steps of {data.batch_size} images, {cost.updates:,} updates of "
        f"{cost.parameters:,} parameters.\n"
        f"Estimates: {cost.hours:,.2f} h on this machine (at {cost.images_per_second:,.1f} images "
        f"per second, three times the forward pass), {cost.gigabytes:.1f} GB of memory."
    )
    if plot:
        plot_schedules(experiment.recipe, data.batch_size, plot)
        common.say(f"Wrote {plot}")


def _show_devices(name: str, data: Pipeline) -> None:
    if name == "multi_worker":
        _, count = distribution.cluster_from_environment()
        kind = "workers"
    else:
        count, kind = distribution.strategy_named(name).num_replicas_in_sync, "devices"
    distribution.check_batch_size(data.batch_size, count)
    common.say(f"{count} {kind} with {data.batch_size // count} images of each batch.")


def _data(config: ConfigDict) -> Pipeline:
    """The data, or noise in their place if they are not on this machine."""
    folder = config.data.data_dir
    try:
        data = experiments.pipeline_of(config)
    except ValueError as error:
        if folder is not None and Path(folder).exists():
            raise  # there, but not what they should be
        data = experiments.pipeline_of(config, experiments.synthetic_source(config))
        common.say(f"The data are absent, so this is SYNTHETIC data: noise. ({error})")
    common.say(
        f"Data: {data.source.name} from {data.source.place}: {data.train_images:,} training and "
        f"{data.validation_images:,} validation images of {data.input_shape}, {data.classes} "
        f"classes; {data.steps_per_epoch:,} steps per epoch."
    )
    return data


def _leave_out_missing_weights(config: ConfigDict) -> None:
    if config.weights is not None and not Path(config.weights).is_file():
        common.say(f"The weights {config.weights} are absent, so these are RANDOM weights.")
        config.weights = None


def _show_course(title: str, recipe: Recipe, data: Pipeline) -> None:
    common.say(
        f"\n{title}: recipe {recipe.name}, {recipe.epochs} epochs, momentum {recipe.momentum}, "
        f"weight decay {recipe.weight_decay:g}"
    )
    rows = [
        (epoch, f"{rate:.3g}", batch)
        for epoch, rate, batch in schedule_rows(recipe, data.batch_size)
    ]
    common.print_table(("from epoch", "learning rate", "images per update"), rows)
