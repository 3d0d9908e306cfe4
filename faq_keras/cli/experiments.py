"""From a configuration (`configs.base`) to what `faq train` and `faq eval` work with.

pipeline = pipeline_of(config)
experiment = experiment_of(config, pipeline)
plain(config)                         # as JSON types, for config.json
trained(config, "runs/first")         # all of it: what `faq train` does
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from ml_collections.config_dict import ConfigDict

from faq_keras import recipe
from faq_keras.cli import common, networks
from faq_keras.cli.config_values import check_values
from faq_keras.data.pipeline import Pipeline
from faq_keras.data.preparation import CorruptImages
from faq_keras.data.records import Shard, Source, indexed
from faq_keras.data.sources import load_source
from faq_keras.data.transforms import transform
from faq_keras.diagnostics import GradientNoise
from faq_keras.policy import Policy, check_bits
from faq_keras.report.runs import NOISE
from faq_keras.training.experiment import Experiment, run
from faq_keras.training.recipes import Recipe
from faq_keras.training.schedules import Exponential
from faq_keras.workers import team


def plain(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON types."""
    data: dict[str, Any] = json.loads(config.to_json_best_effort())
    return data


def recipe_of(config: ConfigDict) -> Recipe:
    """The recipe with what the configuration changes of it.

    Raises:
        ValueError: No such recipe, or only a final learning rate.
    """
    names = ("batch_size", "weight_decay", "virtual_batches", "frozen_statistics")
    overrides = {name: config[name] for name in names if config.get(name) is not None}
    rate, final = config.learning_rate, config.final_learning_rate
    base = recipe(config.recipe, config.epochs)
    if final is not None:
        if rate is None:
            raise ValueError("config.final_learning_rate needs config.learning_rate beside it.")
        overrides["learning_rate"] = Exponential.between(rate, final, base.epochs)
    elif rate is not None:
        overrides["learning_rate"] = rate
    return recipe(config.recipe, config.epochs, **overrides)


def pipeline_of(
    config: ConfigDict, source: Source | None = None, shard: Shard = (0, 1)
) -> Pipeline:
    """The data of a configuration.

    Args:
        config: The configuration.
        source: Take this source instead of the configuration's.
        shard: `(worker, workers)`: which worker's part of each batch.

    Raises:
        ValueError: The data are missing or not what the configuration says.
    """
    data = config.data
    part = None
    if source is None:
        source = load_source(data.source, data.data_dir, **dict(data.options))
        if shard[1] > 1:
            part = load_source(data.source, data.data_dir, shard=shard, **dict(data.options))
    shape, options = (data.size, data.channels), dict(data.transform_options)
    return Pipeline(
        source,
        augment=transform(data.transform, True, *shape, **options),
        prepare=transform(data.transform, False, *shape, **options),
        batch_size=recipe_of(config).batch_size,
        seed=config.seed,
        one_hot=config.label_smoothing > 0,
        corrupt=CorruptImages(data.corrupt),
        part=part,
        workers=shard[1],
    )


def synthetic_source(config: ConfigDict) -> Source:
    """Noise with the size, the classes and the number of images that the configuration expects."""
    data = config.data
    totals = dict(zip(("train", "validation"), data.images, strict=True))

    def lookup(split: str) -> Any:
        def record(number: tf.Tensor) -> dict[str, tf.Tensor]:
            seed = tf.stack([tf.cast(number, tf.int32), len(split)])
            shape = (data.size, data.size, data.channels)
            pixels = tf.random.stateless_uniform(shape, seed, 0, 256, tf.int32)
            name = tf.strings.join([split, "/", tf.strings.as_string(number)])
            return {
                "image": tf.cast(pixels, tf.uint8),
                "label": number % data.classes,
                "name": name,
            }

        return record

    records = indexed(totals, lookup, (0, 1))
    return Source("synthetic", "memory", data.classes, totals, records)


def experiment_of(config: ConfigDict, data: Pipeline) -> Experiment:
    """The experiment of a configuration.

    Raises:
        ValueError: Fields that contradict each other, or have values that do not exist.
    """
    pretraining = _pretraining(config)
    trained = networks.has_weights(config.model, config.weights)
    if not (trained or config.from_scratch or pretraining or not config.bits):
        raise ValueError(
            f"The model {config.model} has random weights, and nothing good comes of quantizing "
            "those: set config.weights to its checkpoint, config.pretraining.epochs to train it "
            "first, or config.from_scratch=True."
        )
    if config.learning_rate_per not in ("epoch", "step"):
        raise ValueError(
            f"config.learning_rate_per is 'epoch' or 'step', not {config.learning_rate_per!r}."
        )
    return Experiment(
        network=lambda: network_of(config, data),
        data=data,
        recipe=recipe_of(config),
        bits=_bits(config),
        policy=_policy(config),
        percentile=config.percentile,
        calibration_batches=0 if config.from_scratch else config.calibration_batches,
        logits_bits=config.logits_bits,
        pretraining=pretraining,
        label_smoothing=config.label_smoothing,
        rate_per=config.learning_rate_per,
        checkpoint_steps=config.checkpoint_steps,
        expected_float_accuracy=config.expected_float_accuracy,
        callbacks=lambda folder: _diagnostics(config, folder),
    )


def trained(
    config: ConfigDict, workdir: str | os.PathLike[str], resume: bool = False
) -> dict[str, Any]:
    """Runs a configuration in a folder, as `faq_keras.training.experiment.run` does.

    In the scope of a `tf.distribute` strategy it runs on its devices. Deterministic ops are the
    caller's business: they have to be switched on before a strategy exists.

    Returns:
        What it reports.

    Raises:
        ValueError: Configuration, data, network or folder cannot be used; the training diverged.
        Interrupted: A signal asked to stop; the run can be resumed.
    """
    check_values(config)
    keras.utils.set_random_seed(config.seed)
    crew = team()
    data = pipeline_of(config, shard=(crew.worker, crew.workers))
    experiment = experiment_of(config, data)
    common.say(
        f"Data: {data.source.name} from {data.source.place}: {data.train_images:,} training and "
        f"{data.validation_images:,} validation images, {data.classes} classes."
    )
    if crew.replicas > 1:
        common.say(
            f"Worker {crew.worker} of {crew.workers}; each of the "
            f"{crew.replicas} devices gets {data.batch_size // crew.replicas} of a batch's "
            f"{data.batch_size} images."
        )
    return run(experiment, os.fspath(workdir), plain(config), resume)


def network_of(config: ConfigDict, data: Pipeline, checked: bool = True) -> keras.Model:
    """The float network behind its normalization; takes pixels 0..255."""
    network = networks.build(config.model, config.weights, data.classes, data.input_shape, checked)
    return networks.normalized(network, config.data.mean, config.data.std)


def _diagnostics(config: ConfigDict, folder: Path) -> list[keras.callbacks.Callback]:
    every = config.gradient_noise_steps
    return [GradientNoise(folder / NOISE, every)] if every else []


def _bits(config: ConfigDict) -> int | tuple[int, int] | None:
    if not config.bits:
        return None
    weight_bits = check_bits(config.bits, "config.bits")
    if config.activation_bits is None:
        return weight_bits
    return weight_bits, check_bits(config.activation_bits, "config.activation_bits")


def _policy(config: ConfigDict) -> Policy:
    policy = config.policy
    try:
        overrides = {str(name): bits for name, bits in policy.overrides}
    except (TypeError, ValueError) as error:
        raise ValueError(
            "config.policy.overrides has to be pairs ((name or regex, bits), ...). Received: "
            f"{policy.overrides!r}."
        ) from error
    return Policy(
        scales=policy.scales,
        first_last_bits=policy.first_last_bits,
        overrides=overrides,
        bn_exponent=policy.bn_exponent,
        clip_reading=policy.clip_reading,
    )


def _pretraining(config: ConfigDict) -> Recipe | None:
    first = config.pretraining
    if not first.epochs:
        return None
    return recipe_of(
        ConfigDict(
            {
                "recipe": first.recipe,
                "epochs": first.epochs,
                "learning_rate": first.learning_rate,
                "final_learning_rate": first.final_learning_rate,
                "batch_size": recipe_of(config).batch_size,
            }
        )
    )
