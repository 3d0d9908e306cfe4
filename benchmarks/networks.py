"""The networks that the benchmarks run: ResNet-20 for 32x32 images and ResNet-18 for 224x224.

Conv-BN-ReLU-Add as in the paper's networks, with random weights: time does not depend on them. The
Keras to build with is an argument, so that the very same code gives a Keras 3 and a tf_keras model.

    import keras, tf_keras
    model, twin = resnet20(keras), resnet20(tf_keras)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def resnet20(keras: Any) -> Any:
    """ResNet-20 for CIFAR-10 (He et al. 2016, section 4.2), 0.27 M parameters, logits.

    Shortcuts that change the shape are 1x1 convolutions.

    Args:
        keras: The module `keras` or `tf_keras`.
    """
    inputs = keras.Input((32, 32, 3))
    x = _relu(keras, _conv_bn(keras, inputs, 16, 3))
    return _residual(keras, inputs, x, ((16, 1), (32, 2), (64, 2)), blocks=3, classes=10)


def resnet18(keras: Any) -> Any:
    """ResNet-18 for ImageNet (He et al. 2016, table 1), 11.7 M parameters, logits.

    Args:
        keras: The module `keras` or `tf_keras`.
    """
    inputs = keras.Input((224, 224, 3))
    x = _relu(keras, _conv_bn(keras, inputs, 64, 7, strides=2))
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same")(x)
    stages = ((64, 1), (128, 2), (256, 2), (512, 2))
    return _residual(keras, inputs, x, stages, blocks=2, classes=1000)


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with the sizes it is measured at.

    Attributes:
        build: Builder of the float network, from a Keras module.
        batch: Images per training step.
        calibration: Batches and images per batch for calibration.
    """

    build: Callable[[Any], Any]
    batch: int
    calibration: tuple[int, int]


CASES = {
    "resnet20": Case(resnet20, batch=128, calibration=(5, 256)),
    "resnet18": Case(resnet18, batch=16, calibration=(5, 64)),
}


def images(model: Any, count: int) -> np.ndarray:
    """Random images for a model: `[count, height, width, channels]` float32 in [0, 1)."""
    return np.random.default_rng(0).random((count, *model.input_shape[1:]), np.float32)


def labels(model: Any, count: int) -> np.ndarray:
    """Random classes for a model: `[count]` int64."""
    return np.random.default_rng(1).integers(model.output_shape[-1], size=count)


def _residual(
    keras: Any,
    inputs: Any,
    x: Any,
    stages: Sequence[tuple[int, int]],
    blocks: int,
    classes: int,
) -> Any:
    """The stages of basic blocks (filters, strides of the first) and the head."""
    for filters, first in stages:
        for block in range(blocks):
            strides = first if block == 0 else 1
            shortcut = x
            if strides != 1:
                shortcut = _conv_bn(keras, x, filters, 1, strides)
            x = _relu(keras, _conv_bn(keras, x, filters, 3, strides))
            x = keras.layers.Add()([_conv_bn(keras, x, filters, 3), shortcut])
            x = _relu(keras, x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def _conv_bn(keras: Any, x: Any, filters: int, size: int, strides: int = 1) -> Any:
    conv = keras.layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)
    return keras.layers.BatchNormalization()(conv(x))


def _relu(keras: Any, x: Any) -> Any:
    return keras.layers.ReLU()(x)
