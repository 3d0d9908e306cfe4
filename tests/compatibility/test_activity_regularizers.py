"""A penalty on a layer's output acts on the quantized layer's output, or is refused by name."""

import keras
import numpy as np
import pytest
import tf_keras

import faq_keras
from tests import networks

X = networks.images(16)
Y = np.arange(16) % 3


def net(library, *middle, head=None):
    """Layers between an image and three logits."""
    layers = library.layers
    parts = [library.Input((8, 8, 3), name="image"), *middle, layers.Flatten(name="flat")]
    parts += [head or layers.Dense(3, name="logits")]
    return networks.randomize(library.Sequential(parts, name="net"))


def conv(library, **arguments):
    return library.layers.Conv2D(4, 3, name="conv", **arguments)


def rate(layer):
    return float(np.asarray(layer.activity_regularizer.l2))


@pytest.fixture
def regularized(library):
    penalty = library.regularizers.L2(0.5)
    return net(library, conv(library, activation="relu", activity_regularizer=penalty))


def test_the_quantized_layer_has_the_penalty_of_its_output(library, regularized):
    q = faq_keras.apply(regularized, 8, calibration_data=X)
    q(X), regularized(X)
    values = np.asarray(library.Model(q.input, q.get_layer("conv").output)(X))
    (loss,) = q.losses
    np.testing.assert_allclose(loss, 0.5 * np.square(values).sum() / len(X), rtol=1e-5)
    np.testing.assert_allclose(loss, regularized.losses[0], rtol=0.05)


def test_it_is_trained_saved_and_given_back(library, regularized, tmp_path):
    q = faq_keras.apply(regularized, 8, calibration_data=X)
    q.save(tmp_path / "q.keras")
    loaded = library.saving.load_model(tmp_path / "q.keras")
    for model in (q, loaded, faq_keras.to_float(loaded)):
        assert rate(model.get_layer("conv")) == 0.5
        model(X)
        assert len(model.losses) == 1
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    q.compile(library.optimizers.SGD(0.0), loss)
    total = q.fit(X, Y, verbose=0).history["loss"][0]
    q(X)
    assert total == pytest.approx(float(loss(Y, q(X))) + float(q.losses[0]), rel=1e-3)
    report = faq_keras.export_tflite(loaded, tmp_path / "m.tflite", verify=X)
    assert report.mismatches == 0


def test_without_one_there_is_none(library):
    q = faq_keras.apply(net(library, conv(library, activation="relu")), 8, calibration_data=X)
    q(X)
    assert q.losses == []


def test_the_last_layer_of_an_op_may_have_it():
    """In tf_keras only layers with weights keep it in their configuration."""
    layers = keras.layers
    relu = layers.ReLU(activity_regularizer="l2", name="relu")
    middle = (conv(keras), layers.BatchNormalization(), relu)
    pool = layers.MaxPooling2D(activity_regularizer="l2", name="pool")
    head = layers.Dense(3, activity_regularizer="l2", name="logits")
    q = faq_keras.apply(net(keras, *middle, pool, head=head), 8, calibration_data=X)
    q(X)
    assert len(q.losses) == 3
    assert q.get_layer("conv").activity_regularizer is not None


def refused(library, model):
    with pytest.raises(ValueError, match="Model 'net' has activity regularizers that") as error:
        faq_keras.apply(model, 8, calibration_data=X)
    return str(error.value)


def test_those_inside_an_op_are_refused(library):
    layers = library.layers
    inner = conv(library, activity_regularizer="l2")
    head = layers.Dense(3, "softmax", activity_regularizer="l2", name="shares")
    message = refused(library, net(library, inner, layers.BatchNormalization(name="bn"), head=head))
    assert (
        "\n  - Layer 'conv' (Conv2D) has one, but is computed in one op with 'bn': give it to that "
        "layer\n  - Layer 'shares' (Dense) has one behind its softmax or sigmoid" in message
    )
    assert message.endswith("\nOr remove them, activity_regularizer=None.")


def test_those_that_tf_keras_does_not_keep_are_refused():
    relu = tf_keras.layers.ReLU(activity_regularizer="l2", name="relu")
    message = refused(tf_keras, net(tf_keras, conv(tf_keras), relu))
    assert "\n  - Layer 'relu' (ReLU) has one that tf_keras does not keep" in message
