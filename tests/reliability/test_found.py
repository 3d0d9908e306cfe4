"""What random networks and strangers have found, as small as it gets (`docs/reliability.md`)."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import faq_keras


@pytest.mark.parametrize("filters", [1, 3])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_one_channel_with_different_strides_is_convolved_rightly(filters, padding, tmp_path):
    """One column comes out: oneDNN's kernel gives other numbers than the sum of products there."""
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 8, (2, 6, 2, 1)).astype(np.float32)
    kernel = rng.integers(-8, 8, (1, 2, 1, filters)).astype(np.float32)
    inputs = keras.Input((6, 2, 1))
    conv = keras.layers.Conv2D(filters, (1, 2), (1, 3), padding, name="conv")
    model = keras.Model(inputs, conv(inputs))
    conv.kernel.assign(kernel)
    q = faq_keras.apply(model, 8, calibration_data=x)
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x).mismatches == 0
    quantized = q.get_layer("conv").fold().kernel.numpy()
    right = (x[:, :, :, 0] @ quantized[0, :, 0])[:, :, None]
    step = faq_keras.plan_of(q)["conv"].output.step
    np.testing.assert_allclose(q.predict(x, verbose=0), right, atol=step)


def test_a_tensor_beyond_the_reach_of_kernels_is_refused_before_anything_is_written():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(inputs))
    model.get_layer("logits").kernel.assign(np.full((4, 2), 2.0**-80))
    with pytest.raises(ValueError, match=r"'logits' \(Dense\) gives values of up to .* -9\d of"):
        faq_keras.apply(model, 8, calibration_data=np.eye(4, dtype=np.float32))


def test_multipliers_beyond_the_reach_of_kernels_are_refused_by_name():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(2, 1)(inputs))
    model = keras.Model(inputs, x)
    model.get_layer("bn").gamma.assign([1e-25, 0.0])
    model.get_layer("bn").beta.assign([1.0, 2.0])
    with pytest.raises(
        ValueError, match=r"'bn' \(BatchNormalization\) has multipliers of up to 9.9\d*e-26"
    ):
        faq_keras.apply(
            model,
            8,
            calibration_data=np.ones((2, 4, 4, 1), np.float32),
            policy=faq_keras.Policy(scales="paper"),
        )


def concatenated(reach):
    """A ReLU6 beside a ReLU that reaches so far: the grid that both share has large steps."""
    inputs = keras.Input((4, 4, 1), name="image")
    parts = [
        keras.layers.ReLU(max_value=6, name="six")(keras.layers.Conv2D(2, 1, name="a")(inputs)),
        keras.layers.ReLU(name="far")(keras.layers.Conv2D(2, 1, name="b")(inputs)),
    ]
    model = keras.Model(inputs, keras.layers.Concatenate(name="join")(parts))
    for name, size in (("a", 8.0), ("b", reach)):
        model.get_layer(name).kernel.assign(np.full((1, 1, 1, 2), size))
    return model, np.random.default_rng(0).uniform(0, 1, (16, 4, 4, 1)).astype(np.float32)


@pytest.mark.parametrize("reach", [50.0, 200.0, 700.0])
def test_a_relu6_on_large_steps_ends_where_the_kernels_end(reach, tmp_path):
    model, x = concatenated(reach)
    policy = faq_keras.Policy(first_last_bits=8 if reach > 60 else 4)
    q = faq_keras.apply(model, 8, calibration_data=x, policy=policy)
    print(faq_keras.plan_of(q))
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x).mismatches == 0
    assert faq_keras.export_onnx(q, tmp_path / "m.onnx", verify=x).mismatches == 0


def test_a_relu6_without_a_code_is_refused_with_the_reason():
    model, x = concatenated(8000.0)
    with pytest.raises(ValueError, match="ReLU6 would be zero everywhere on the grid of steps of"):
        faq_keras.apply(model, 8, calibration_data=x)


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("logits_bits", [8, 16])
def test_coarse_last_weights_have_logits_that_kernels_can_reach(bits, logits_bits, tmp_path):
    """Small logits of large sums: the accumulator's step was over 2^8 times the logits'."""
    rng = np.random.default_rng(0)
    x = np.tile(rng.uniform(30, 40, (32, 3)), 2).astype(np.float32)
    x[:, 3:] += rng.normal(size=(32, 3), scale=0.1)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(inputs))
    weights = rng.normal(size=(3, 3))
    model.get_layer("logits").kernel.assign(np.concatenate([weights, -weights]))
    policy = faq_keras.Policy(first_last_bits=bits)
    q = faq_keras.apply(model, 4, x, logits_bits=logits_bits, policy=policy)
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x).mismatches == 0


def relu(x):
    """Called like Keras' own."""
    return tf.nn.leaky_relu(x, 0.3)


@pytest.mark.parametrize("library", [keras, tf_keras])
@pytest.mark.parametrize("kind", ["argument", "layer"])
def test_a_function_that_is_only_called_relu_is_refused(library, kind):
    layers = library.layers
    inputs = library.Input((4, 4, 1))
    conv = layers.Conv2D(2, 1, activation=relu if kind == "argument" else None, name="conv")
    x = conv(inputs)
    if kind == "layer":
        x = layers.Activation(relu, name="own")(x)
    with pytest.raises(ValueError, match="cannot be quantized") as error:
        faq_keras.apply(library.Model(inputs, x), 8, np.ones((2, 4, 4, 1), np.float32))
    assert ("'conv'" if kind == "argument" else "'own'") in str(error.value)


@pytest.mark.parametrize("library", [keras, tf_keras])
@pytest.mark.parametrize("name", ["relu", "relu6"])
def test_activations_of_tensorflow_are_known(library, name):
    inputs = library.Input((4, 4, 1))
    x = library.layers.Conv2D(2, 1, activation=getattr(tf.nn, name), name="conv")(inputs)
    q = faq_keras.apply(library.Model(inputs, x), 8, np.ones((2, 4, 4, 1), np.float32))
    assert not faq_keras.plan_of(q)["conv"].output.signed


def test_names_that_stand_for_parts_may_be_taken(tmp_path):
    """The head of a Dense layer with softmax, the quantized input, a tensor on another grid."""
    layers = keras.layers
    inputs = keras.Input((4, 4, 2), name="image")
    a = layers.Conv2D(2, 1, activation="relu", name="out_softmax")(inputs)
    b = layers.Conv2D(2, 1, activation="relu", name="image_quantized")(inputs)
    c = layers.Conv2D(2, 1, name="out_softmax_signed")(inputs)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Concatenate(name="join")([a, b, c]))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x))
    x = np.random.default_rng(0).normal(size=(16, 4, 4, 2)).astype(np.float32)
    q = faq_keras.apply(model, 8, calibration_data=x)
    names = [layer.name for layer in q.layers]
    assert len(set(names)) == len(names) and {layer.name for layer in model.layers} <= set(names)
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x).mismatches == 0
