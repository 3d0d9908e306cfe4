"""The same small networks in both Kerases, with the same weights and names."""

import keras
import tensorflow as tf
import tf_keras

import faq_keras
from faq_keras.plan import QuantPlan
from tests import networks

LIBRARIES = {"keras3": keras, "tf_keras": tf_keras}


def small_net(library, softmax=False, **head):
    """Conv + BatchNormalization + ReLU, pooling, Dense: a third of a second to quantize."""
    layers = library.layers
    image = library.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(image)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(3, activation="softmax" if softmax else None, name="head", **head)(x)
    return networks.randomize(library.Model(image, x, name="small"))


def patchwork(library):
    """One of every supported layer, two inputs, two outputs, nested models of both kinds."""
    layers = library.layers
    image = library.Input((16, 16, 3), dtype="uint8", name="image")
    mask = library.Input((16, 16, 1), name="mask")
    x = layers.Rescaling(1 / 64, offset=-2.0, name="rescale")(image)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="pad")(x)
    x = layers.Conv2D(6, 3, 2, use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(scale=False, name="stem_bn")(x)
    x = layers.ReLU(6.0, name="stem_relu")(x)
    y = layers.Conv2D(6, 3, 2, "same", activation="relu", name="mask_conv")(mask)
    x = layers.Add(name="sum")([x, y])
    x = library.Sequential(
        [
            library.Input((8, 8, 6)),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise"),
            layers.BatchNormalization(name="depthwise_bn"),
            layers.Activation("relu", name="depthwise_relu"),
        ],
        name="sequential",
    )(x)
    inside = library.Input((8, 8, 12), name="inside")
    left = layers.Conv2D(4, 1, activation="relu", name="left")(inside)
    right = layers.MaxPooling2D(3, 1, "same", name="max_pool")(inside)
    joined = layers.Concatenate(name="concat")([left, right])
    x = library.Model(inside, joined, name="nested")(x)
    x = layers.BatchNormalization(name="alone_bn")(x)
    x = layers.ReLU(name="alone_relu")(x)
    x = layers.AveragePooling2D(2, name="average_pool")(x)
    x = layers.SpatialDropout2D(0.1, name="spatial_dropout")(x)
    flat = layers.Dropout(0.1, name="dropout")(layers.Flatten(name="flatten")(x))
    a = layers.Dense(4, activation="softmax", name="a")(flat)
    b = layers.Dense(2, name="b")(layers.GlobalAveragePooling2D(name="pool")(x))
    return networks.randomize(library.Model([image, mask], {"a": a, "b": b}, name="patchwork"))


def functions(library):
    """`x + y` and `relu(x)` in a functional model: operations in Keras 3, lambdas in tf_keras."""
    layers = library.layers
    relu = keras.ops.relu if library is keras else tf.nn.relu
    image = library.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="first")(image)
    y = layers.Conv2D(4, 3, padding="same", activation=relu, name="second")(relu(x))
    x = relu(x) + y
    return library.Model(image, layers.Dense(2, name="head")(layers.Flatten()(x)), name="functions")


def copy_weights(source, target):
    """Gives a model the weights of one of the other Kerases, layer by layer name."""
    for layer in source.layers:
        twin = target.get_layer(layer.name) if layer.weights else None
        if hasattr(layer, "layers"):
            copy_weights(layer, twin)
        elif twin is not None:
            twin.set_weights(layer.get_weights())
    return target


def quantized(library, plan: QuantPlan | None = None, **arguments):
    """The small network, quantized; always with the same weights."""
    model = copy_weights(_template(), small_net(library, **arguments))
    return faq_keras.apply(model, 4, calibration_data=networks.images(32), plan=plan)


def _template():
    keras.utils.set_random_seed(1)
    return small_net(keras)
