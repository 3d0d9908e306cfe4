"""A tf_keras model gives the plan, the outputs, the training and the files of its Keras 3 twin."""

import dataclasses

import keras
import numpy as np
import pytest
import tf_keras

import faq_keras
from faq_keras.rewrite.bridge import to_keras3
from tests import networks
from tests.compatibility.libraries import copy_weights, functions, patchwork, small_net

BITS = {"tiny_resnet": 4, "patchwork": (4, 8), "functions": 2}


def _tiny_resnet(library):
    return networks.tiny_resnet(library=library)


def _inputs(name):
    if name != "patchwork":
        return networks.images(24)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 16, 16, 3)).astype("uint8")
    return {"image": image, "mask": rng.normal(0, 1, (24, 16, 16, 1)).astype("float32")}


@pytest.fixture(scope="module", params=[_tiny_resnet, patchwork, functions], ids=list(BITS))
def pair(request):
    """A network quantized in both Kerases, and inputs for it."""
    name = request.param.__name__.removeprefix("_")
    keras.utils.set_random_seed(7)
    old, new = request.param(tf_keras), request.param(keras)
    names = {layer.name: layer for layer in new.layers}
    if name == "functions":  # operations have names of their own
        for layer in old.layers:
            if layer.name in names and layer.weights:
                layer.set_weights(names[layer.name].get_weights())
        new = to_keras3(old)
    else:
        copy_weights(new, old)
    x = _inputs(name)
    q3 = faq_keras.apply(new, BITS[name], calibration_data=[x])
    return q3, faq_keras.apply(old, BITS[name], calibration_data=[x]), old, x


def test_both_have_the_same_plan(pair):
    q3, q2, _, _ = pair
    assert faq_keras.plan_of(q3) == faq_keras.plan_of(q2)


def test_both_compute_the_same(pair):
    q3, q2, _, x = pair
    expected, got = q3.predict_on_batch(x), q2.predict_on_batch(x)
    keras.tree.map_structure(np.testing.assert_array_equal, expected, got)


def test_the_model_is_one_of_tf_keras_with_the_same_layers(pair):
    q3, q2, _, _ = pair
    assert isinstance(q2, tf_keras.Model)
    assert [(a.name, type(a).__name__) for a in q2.layers] == [
        (b.name, type(b).__name__) for b in q3.layers
    ]


def test_tflite_and_onnx_files_are_equal_byte_for_byte(pair, tmp_path):
    q3, q2, _, x = pair
    some = [keras.tree.map_structure(lambda images: images[:4], x)]
    written = []
    for q in (q3, q2):
        packed, onnx = tmp_path / "packed.tflite", tmp_path / "m.onnx"
        assert faq_keras.export_tflite(q, packed, weights="int4", verify=some).mismatches == 0
        if q.name == "functions":
            assert faq_keras.export_onnx(q, onnx, verify=some).mismatches == 0
            assert faq_keras.verify(q, packed, some).mismatches == 0
        written.append([path.read_bytes() for path in (packed, onnx) if path.exists()])
    assert written[0] == written[1]


def test_to_float_gives_the_tf_keras_model_back(pair):
    _, q2, old, x = pair
    f = faq_keras.to_float(q2)
    assert isinstance(f, tf_keras.Model)
    keras.tree.map_structure(
        np.testing.assert_array_equal, f.predict_on_batch(x), old.predict_on_batch(x)
    )


def test_the_proof_is_about_the_users_own_model(tmp_path):
    """Not about its twin: a tf_keras layer that computes something else fails the export."""
    q = faq_keras.apply(small_net(tf_keras), calibration_data=networks.images(8))
    conv = q.get_layer("conv")
    narrow = dataclasses.replace(conv.plan.output, limit=100)
    conv.quantize_config.output_quantizer.spec = narrow  # clips earlier than its plan says
    x = q.get_layer("head")(q.get_layer("pool")(conv(q.layers[1].output)))
    with pytest.raises(faq_keras.ParityError, match="conv"):
        faq_keras.export_tflite(tf_keras.Model(q.inputs, x), tmp_path / "m.tflite")


def test_training_takes_the_same_steps():
    x, y = networks.images(32), np.arange(32) % 3
    keras.utils.set_random_seed(3)
    new = small_net(keras)
    models = [new, copy_weights(new, small_net(tf_keras))]
    quantized = [faq_keras.apply(model, 4, calibration_data=x) for model in models]
    recipe = faq_keras.recipe("w4a4_large_batch", epochs=6, learning_rate=0.05, batch_size=32)
    histories = [faq_keras.fine_tune(q, (x, y), recipe, verbose=0).history for q in quantized]
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-5)
    assert histories[0]["learning_rate"] == histories[1]["learning_rate"]
    for a, b in zip(quantized[0].get_weights(), quantized[1].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert [faq_keras.plan_of(q).settings.recipe for q in quantized] == ["w4a4_large_batch"] * 2


def test_unsupported_layers_are_listed_at_once():
    layers = tf_keras.layers
    image = tf_keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="gelu", name="gelu_conv")(image)
    x = layers.UpSampling2D(name="up")(x / 2.0)
    x = layers.Lambda(lambda t: t * 2, name="double")(x)
    x = layers.Conv2D(4, 3, activation=lambda t: t, name="odd_conv")(x)
    model = tf_keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
    with pytest.raises(ValueError, match="cannot be quantized") as error:
        faq_keras.apply(model, calibration_data=networks.images(4))
    for name in ("gelu_conv", "'up' (UpSampling2D)", "'double' (Lambda)", "tf.math.truediv", "odd"):
        assert name in str(error.value)


@pytest.mark.parametrize("built", [True, False])
def test_models_without_a_graph_are_refused(built):
    class Subclassed(tf_keras.Model):
        def call(self, inputs):
            return inputs

    model = Subclassed() if built else tf_keras.Sequential([tf_keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="subclassed model" if built else "is not built"):
        faq_keras.apply(model, calibration_data=networks.images(4))


@tf_keras.saving.register_keras_serializable("tests")
class Shrink(tf_keras.regularizers.Regularizer):
    """A regularizer of the user's own."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, x):
        return self.rate * tf_keras.backend.sum(tf_keras.backend.square(x))

    def get_config(self):
        return {"rate": self.rate}


def test_what_only_training_needs_is_kept():
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 3)),
            layers.Conv2D(
                4, 3, kernel_regularizer=Shrink(0.5), kernel_constraint="non_neg", name="conv"
            ),
            layers.BatchNormalization(momentum=0.7, gamma_initializer="zeros", trainable=False),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(2, bias_regularizer="l2", trainable=False, name="head"),
        ]
    )
    networks.randomize(model)
    q = faq_keras.apply(model, calibration_data=networks.images(8))
    conv, bn, _ = q.get_layer("conv").float_layers
    assert isinstance(conv.kernel_regularizer, Shrink)
    assert isinstance(conv.kernel_constraint, tf_keras.constraints.NonNeg)
    assert isinstance(bn.gamma_initializer, tf_keras.initializers.Zeros)
    assert (bn.momentum, bn.trainable, conv.trainable) == (0.7, False, True)
    assert [w.name for w in q.trainable_weights] == ["conv/kernel:0", "conv/bias:0"]
    np.testing.assert_allclose(q.losses[0], model.losses[0])
