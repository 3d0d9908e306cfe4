"""Small experiments for the tests of resumable training, in this process and in others."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np

from faq_keras.data.arrays import Arrays, source_of
from faq_keras.data.pipeline import Pipeline
from faq_keras.data.transforms import transform
from faq_keras.training.experiment import Experiment
from faq_keras.training.recipes import recipe
from faq_keras.training.schedules import Steps

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 6


def striped_images(count=100, seed=0):
    """uint8 images `[count, 8, 8, 1]` whose class is the place and direction of a stripe."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, size=count)
    x = random.integers(0, 90, size=(count, 8, 8, 1))
    for image, label in zip(x, labels, strict=True):
        place = 2 * (label % 3) + 1
        image[(place, ...) if label < 3 else (slice(None), place)] += 160
    return x.astype(np.uint8), labels.astype(np.int64)


def striped_source(train=100, validation=30, shard=(0, 1)):
    """A source of striped images."""
    arrays = Arrays(
        "stripes", "memory", CLASSES, *striped_images(train), *striped_images(validation, seed=1)
    )
    return source_of(arrays, shard)


def pipeline(batch_size=10, source=None, **fields):
    """Ten batches of ten augmented images."""
    shape = (8, 1)
    return Pipeline(
        source or striped_source(),
        transform("cifar", True, *shape, padding=1, flip=False),
        transform("none", False, *shape),
        batch_size=batch_size,
        **({"seed": 3} | fields),
    )


def network():
    """A float network with batch normalization and a dropout; takes pixels 0..255."""
    keras.utils.clear_session(free_memory=False)
    return layers_of_network(dropout=0.2)


def layers_of_network(dropout=0.0):
    """The same for inside of a strategy's scope, which `clear_session` would break."""
    layers = keras.layers
    pixels = keras.Input((8, 8, 1), name="pixels")
    x = layers.Rescaling(1 / 255, name="scale")(pixels)
    x = layers.Conv2D(8, 3, use_bias=False, name="conv1")(x)
    x = layers.ReLU(name="relu1")(layers.BatchNormalization(name="bn1", momentum=0.9)(x))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv2")(x)
    x = layers.ReLU(name="relu2")(layers.BatchNormalization(name="bn2", momentum=0.9)(x))
    x = layers.Flatten(name="flatten")(layers.Dropout(dropout, name="dropout")(x))
    return keras.Model(pixels, layers.Dense(CLASSES, name="head")(x), name="stripes_net")


def course(name="w4a4", epochs=2, **fields):
    """A recipe in which two batches make an update from the second epoch on."""
    doubling = Steps((1, 2), (1,))
    return recipe(
        name,
        epochs=epochs,
        **({"learning_rate": 0.02, "batch_size": 10, "virtual_batches": doubling} | fields),
    )


def experiment(data=None, **fields):
    """Four float epochs, then two at 4 bits; a checkpoint after every third batch."""
    defaults = Experiment(
        network=network,
        data=data or pipeline(),
        recipe=course(),
        bits=4,
        pretraining=course("from_scratch", 2, learning_rate=0.1),
        checkpoint_steps=3,
    )
    return dataclasses.replace(defaults, **fields)


def python(code, *arguments, cwd=ROOT, **options):
    """Starts a Python process that can import the tests; its output is text."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, **(pipes | options))
