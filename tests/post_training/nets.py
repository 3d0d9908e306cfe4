"""Small float networks of every shape that a reconstruction walks through."""

import keras

from tests import networks
from tests.networks import conv_bn_relu

layers = keras.layers


def residual():
    return networks.tiny_resnet()


def depthwise(multiplier=2):
    inputs = keras.Input((8, 8, 3), name="image")
    x = conv_bn_relu(inputs, 8)
    x = layers.DepthwiseConv2D(
        3, strides=2, padding="same", use_bias=False, depth_multiplier=multiplier
    )(x)
    x = layers.ReLU(max_value=6.0)(layers.BatchNormalization()(x))
    x = conv_bn_relu(x, 12, 1)
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    return networks.randomize(keras.Model(inputs, x, name="depthwise"))


def grouped():
    inputs = keras.Input((9, 8, 4), name="image")
    x = conv_bn_relu(inputs, 8)
    x = conv_bn_relu(x, 12, groups=4, dilation_rate=2)
    x = layers.MaxPooling2D()(x)
    x = conv_bn_relu(x, 8, (1, 3), groups=2)
    x = layers.Dense(5)(layers.Flatten()(x))
    return networks.randomize(keras.Model(inputs, x, name="grouped"))


def concatenated():
    """Branches on one grid, a requantized one, an average pool; padding and "valid" windows."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = conv_bn_relu(inputs, 8)
    left = conv_bn_relu(x, 6, 1)
    right = conv_bn_relu(layers.AveragePooling2D(3, 1, "same")(x), 6, relu=False)
    x = layers.Concatenate()([left, right, x])
    x = layers.Conv2D(10, 3, strides=2, use_bias=False)(layers.ZeroPadding2D()(x))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Softmax()(layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))
    return networks.randomize(keras.Model(inputs, x, name="concatenated"))


def two_by_two():
    """Two inputs, and two outputs of which one is a map."""
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((8, 8, 1), name="b")
    x = layers.ReLU()(layers.Add()([conv_bn_relu(a, 8), conv_bn_relu(b, 8, relu=False)]))
    x = conv_bn_relu(x, 8)
    classes = layers.Dense(4, name="classes")(layers.GlobalAveragePooling2D()(x))
    heat = layers.Conv2D(1, 1, name="heat")(conv_bn_relu(x, 6))
    return networks.randomize(keras.Model([a, b], [classes, heat], name="two_by_two"))


def no_batch_norm():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(8, 3, strides=2, activation="relu6", use_bias=False)(x)
    x = layers.Dense(16, activation="relu")(layers.Flatten()(x))
    return networks.randomize(keras.Model(inputs, layers.Dense(5)(x), name="no_batch_norm"))


def affine():
    """As in DenseNet: normalization and ReLU before the convolution."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    for _ in range(2):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same", use_bias=False)(y)])
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    return networks.randomize(keras.Model(inputs, x, name="affine"))


ALL = (residual, depthwise, grouped, concatenated, two_by_two, no_batch_norm, affine)


def images(model, count=128, seed=0):
    """Smooth random inputs by name, or a single array: neighbouring pixels are alike."""
    arrays = {}
    for number, tensor in enumerate(model.inputs):
        x = networks.images(count, tuple(tensor.shape[1:]), seed + number)
        x = (x + x[:, ::-1] + x[:, :, ::-1] + x.mean(axis=(1, 2), keepdims=True)) / 2
        arrays[tensor._keras_history[0].name] = x + 0.3
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))
