"""Small float networks with lived-in weights for the tests of the core, in either Keras."""

import functools

import keras
import numpy as np
import tf_keras

layers = keras.layers


def randomize(model, seed: int = 0):
    """Gives batch normalizations the statistics and signs of multipliers that training leaves."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if type(layer).__name__ == "BatchNormalization":
            channels = layer.moving_mean.shape[0]
            layer.moving_mean.assign(rng.normal(0, 0.3, channels))
            layer.moving_variance.assign(rng.uniform(0.2, 2.0, channels))
            if layer.scale:
                layer.gamma.assign(rng.normal(1, 0.4, channels) * rng.choice([1, 1, -1], channels))
            if layer.center:
                layer.beta.assign(rng.normal(0.2, 0.3, channels))
        elif getattr(layer, "use_bias", False):
            layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
    return model


def images(count: int, shape: tuple[int, ...] = (8, 8, 3), seed: int = 0) -> np.ndarray:
    """Random float images, mostly inside [-1, 1]."""
    return np.random.default_rng(seed).normal(0, 0.5, (count, *shape)).astype(np.float32)


def conv_bn_relu(x, filters, size=3, strides=1, relu=True, layers=layers, **kwargs):
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False, **kwargs)(x)
    x = layers.BatchNormalization()(x)
    return layers.ReLU()(x) if relu else x


def tiny_resnet(shape=(8, 8, 3), classes=5, library=keras):
    """Two residual blocks, one with a projection shortcut; the layers are always named alike."""
    keras.utils.clear_session(free_memory=False)
    tf_keras.backend.clear_session()
    layers, block = library.layers, functools.partial(conv_bn_relu, layers=library.layers)
    inputs = library.Input(shape, name="image")
    x = block(inputs, 8)
    x = layers.ReLU()(layers.Add()([block(block(x, 8), 8, relu=False), x]))
    shortcut = block(x, 12, 1, 2, relu=False)
    y = block(block(x, 12, strides=2), 12, relu=False)
    x = layers.ReLU()(layers.Add()([y, shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    return randomize(library.Model(inputs, layers.Dense(classes)(x), name="tiny_resnet"))
