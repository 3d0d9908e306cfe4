"""Layers of your own in an exact integer network: a learned scale per channel, and DropPath.

    python examples/custom_layer.py

ConvNeXt and its kin multiply each residual branch by a learned number per channel (LayerScale,
Touvron et al. 2021) and drop whole branches while they train (DropPath, Huang et al. 2016). Neither
is a Keras layer. On the device the first is one 1x1 depthwise convolution, the second nothing:
two calls of `faq_keras.register` say so. The network is then quantized to 4 bits, trained for a few
steps, exported, and compared with its file integer by integer.
"""

import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

import faq_keras
from faq_keras.fixed_point import code_range, tf_ceil_log2
from faq_keras.integer.constants import LayerConstants
from faq_keras.integer.lowering import channelwise
from faq_keras.quantize_configs import LayerQuantizeConfig

layers = keras.layers


@keras.saving.register_keras_serializable("example")
class LayerScale(layers.Layer):
    """Multiplies every channel by a learned number."""

    def build(self, input_shape):
        """One number per channel."""
        start = keras.initializers.RandomUniform(0.2, 1.0, seed=1)
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer=start, name="scale")

    def call(self, inputs):
        """Any tensor whose last axis is the channels."""
        return inputs * self.scale


@keras.saving.register_keras_serializable("example")
class DropPath(layers.Layer):
    """Drops the whole branch of some images while training."""

    def __init__(self, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, inputs, training=False):
        """The inputs, scaled so that their mean stays what it is."""
        if not training:
            return inputs
        shape = (keras.ops.shape(inputs)[0], *[1] * (len(inputs.shape) - 1))
        keep = keras.ops.cast(keras.random.uniform(shape) >= self.rate, inputs.dtype)
        return inputs * keep / (1.0 - self.rate)

    def get_config(self):
        """What a saved model needs."""
        return super().get_config() | {"rate": self.rate}


class LayerScaleConfig(LayerQuantizeConfig):
    """LayerScale with its scales rounded to the bits of the plan, on one power-of-two step."""

    def exponent(self, scale):
        """The step that reaches the largest scale; the rule for kernels expects a mean of zero."""
        _, highest = code_range(self.plan.kernel.bits, signed=True)
        largest = tf.reduce_max(tf.abs(tf.stop_gradient(scale)))
        return tf_ceil_log2(tf.maximum(largest, 1e-6) / highest)

    def compute(self, layer, inputs):
        """Code times code: float32 holds the products exactly, so they are the device's."""
        return inputs * self.kernel_quantizer(layer.scale, exponent=self.exponent(layer.scale))


def lower_layer_scale(builder, layer, inputs):
    """One 1x1 DEPTHWISE_CONV_2D whose weights are the codes of the scales."""
    scale, config = layer.float_layers[0].scale, layer.quantize_config
    exponent = config.exponent(scale)
    step = 2.0 ** int(exponent)
    codes = np.array(config.kernel_quantizer(scale, exponent=exponent), np.float64) / step
    constants = LayerConstants(
        codes=codes.astype(np.int64).reshape(-1, 1, 1),
        bias=np.zeros(len(codes), np.int64),
        scale=np.full(len(codes), step),
    )
    return channelwise(builder, layer, inputs[0], constants)


faq_keras.register(LayerScale, quantize_config=LayerScaleConfig, lowering=lower_layer_scale)
faq_keras.register(DropPath, lowering=faq_keras.custom_layers.same)


def network() -> keras.Model:
    """Two residual blocks whose branches are scaled and, while training, dropped."""
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2)(inputs)))
    for number in range(2):
        branch = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
        branch = DropPath(name=f"drop_{number}")(LayerScale(name=f"scale_{number}")(branch))
        x = layers.ReLU()(layers.Add()([x, branch]))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def main() -> None:
    """Quantizes, trains, exports, compares."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(128, 16, 16, 3)).astype(np.float32), rng.integers(0, 4, 128)
    # Scales are few and matter: 8 bits for them, 4 for everything else.
    policy = faq_keras.Policy(overrides={"scale_.*": 8})
    q = faq_keras.apply(network(), bits=4, calibration_data=x, policy=policy)
    print(faq_keras.plan_of(q))
    faq_keras.fine_tune(q, (x, y), faq_keras.recipe("w4a4", epochs=2, batch_size=32), verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        q.save(pathlib.Path(folder, "q.keras"))
        q = keras.saving.load_model(pathlib.Path(folder, "q.keras"))
        print(faq_keras.export_tflite(q, pathlib.Path(folder, "q.tflite"), "int4", verify=x))


if __name__ == "__main__":
    main()
