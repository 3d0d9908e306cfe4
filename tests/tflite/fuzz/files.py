"""The valid files that `test_fuzz` damages: every op, every container, ours and foreign.

write_all(folder)       # resnet_int8.tflite, ..., keras_int4.tflite and their model keras.keras
"""

from __future__ import annotations

import dataclasses
import pathlib

import keras
import numpy as np
import tensorflow as tf

import faq_keras
from faq_keras.integer.program import Op, Tensor
from faq_keras.tflite import writer
from tests import networks
from tests.integer.programs import RELU8, Builder, Format, signed, small_resnet, unsigned

# The files whose Keras model is known, which `verify` compares them with.
WITH_MODEL = ("keras_int8", "keras_int4")


def write_all(folder: pathlib.Path) -> tuple[str, ...]:
    """Writes all files and the Keras model of some; returns the files' names without suffix."""
    _, resnet = small_resnet(seed=1, size=(8, 8), channels=4, blocks=1)
    programs = {"resnet": resnet, "joined": joined(), "floats": float_input()}
    for name, program in programs.items():
        for weights in ("int8", "int4"):
            writer.write(program, folder / f"{name}_{weights}.tflite", weights)
    q = quantized()
    q.save(folder / "keras.keras")
    for weights in ("int8", "int4"):
        path = folder / f"keras_{weights}.tflite"
        faq_keras.export_tflite(q, path, weights=weights, verify=None)
    (folder / "foreign.tflite").write_bytes(converted(foreign_model()))
    return tuple(sorted(path.stem for path in folder.glob("*.tflite")))


def joined():
    """Two inputs, one of them uint8; a grouped convolution, concatenation, int8 logits, softmax."""
    b = Builder(2)
    act = unsigned(4, -1)
    left, right = b.input((6, 6, 4), signed(-5)), b.input((6, 6, 4), dtype="uint8")
    x = b.conv(left, 8, bits=4, groups=2, out=act)
    y = b.conv(b.quantize(right, unsigned(8, -7)), 4, (1, 1), bits=2, out=act)
    x = b.concat(x, y)
    x = b.conv(x, 0, bits=4, depthwise=True, depth_multiplier=2, dilations=(2, 2), out=RELU8)
    x = b.global_pool(x, unsigned(8, -6))
    return with_softmax(b, b.dense(x, 5, bits=4, out=signed(-3)))


def with_softmax(b, x):
    """The built program with an integer softmax behind `x`."""
    probabilities = Tensor("softmax", b.tensors[x].shape, "int8", (2.0**-8,), -128)
    b.tensors["softmax"] = probabilities
    b.ops.append(Op("softmax", "softmax", (x,), ("softmax",)))
    return b.build(x, "softmax")


def float_input():
    """A float32 input that the file itself quantizes; two outputs, one of them 16 bits wide."""
    b = Builder(3)
    x = b.quantize(b.input((6, 6, 3), dtype="float32"), Format(2.0**-6, 0))
    x = b.conv(b.pad(x, 0, 1, 1, 0), 6, (2, 2), bits=4, strides=(2, 1), padding="valid")
    y = b.conv(x, 6, (1, 1), bits=4, activation=None, out=signed(-4))
    x = b.pool(b.add(x, y, RELU8), "max_pool_2d")
    z = b.reshape(x, (int(np.prod(b.tensors[x].shape[1:])),))
    program = b.build(b.dense(z, 4), x)
    steps = [{"op": "rescale", "scale": 1 / 255, "offset": -0.5}]
    return dataclasses.replace(program, metadata={"format": "faq_keras/1", "preprocessing": steps})


def quantized() -> keras.Model:
    """A W4A4 network small enough to be lowered hundreds of times."""
    inputs = keras.Input((6, 6, 3), name="image")
    x = networks.conv_bn_relu(inputs, 4)
    y = networks.conv_bn_relu(x, 4, relu=False)
    x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = networks.randomize(keras.Model(inputs, keras.layers.Dense(3)(x)))
    return faq_keras.apply(model, bits=4, calibration_data=networks.images(32, (6, 6, 3)))


def foreign_model() -> keras.Model:
    """Ops that faq_keras never writes, beside those that it does."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu6")(inputs)
    x = layers.UpSampling2D(2)(x)
    x = layers.DepthwiseConv2D(3, strides=2)(x)
    gate = layers.Conv2D(4, 1, activation="sigmoid")(
        layers.GlobalAveragePooling2D(keepdims=True)(x)
    )
    x = layers.Multiply()([x, gate])
    x = layers.Conv2DTranspose(4, 2, strides=2)(x)
    x = layers.Concatenate()([x, layers.LeakyReLU()(x[:, ::-1])])
    x = layers.ZeroPadding2D(1)(layers.AveragePooling2D(2)(x))
    x = layers.Permute((2, 1, 3))(layers.Subtract()([x, layers.Activation("tanh")(x)]))
    x = layers.Dense(5)(layers.Flatten()(layers.MaxPooling2D(2)(x)))
    return networks.randomize(keras.Model(inputs, layers.Softmax()(x)))


def converted(
    model: keras.Model, integer: bool = True, shape: tuple[int, ...] | None = None
) -> bytes:
    """What TensorFlow's own converter makes of a model, int8 with float inputs, or float."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    shape = shape or model.input_shape[1:]
    if integer:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [networks.images(1, shape, seed)] for seed in range(8)
        )
    return converter.convert()
