"""Pretrained backbones as nested models, with their own top or a new head."""

import numpy as np
import pytest

import faq_keras
from tests import networks

X, Y = networks.images(16, (32, 32, 3)), np.arange(16) % 3


def backbone(library, top):
    """A small MobileNet with random weights (the test machine has no network)."""
    return networks.randomize(
        library.applications.MobileNet(
            input_shape=(32, 32, 3),
            alpha=0.25,
            include_top=top,
            pooling=None if top else "avg",
            weights=None,
            classes=3,
        )
    )


def test_nested_models_with_equal_names_inside(library, tmp_path):
    layers = library.layers

    def branch(name):
        image = library.Input((8, 8, 4))
        x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(image)
        x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
        x = layers.Dropout(0.1, name="drop")(layers.MaxPooling2D(2, 1, name="pool")(x))
        body = library.Model(image, x, name="body")
        return library.Model(image, body(image), name=name)

    image = library.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(image)
    x = layers.Concatenate(name="cat")([branch(name)(x) for name in "abc"])
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    x = layers.Dense(3, name="out")(layers.GlobalAveragePooling2D(name="pool")(x))
    model = networks.randomize(library.Model(image, x))

    images = networks.images(16, (8, 8, 3))
    q = faq_keras.apply(model, calibration_data=images)
    kernels = ["stem", "conv", "body_conv", "body_conv_1", "conv_1", "out"]
    assert [name for name in names_of(q) if "conv" in name or name in kernels] == kernels
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=images).mismatches == 0
    f = faq_keras.to_float(q)
    assert [name for name in names_of(f) if name in kernels] == kernels
    assert len(set(names_of(f))) == len(f.layers)
    np.testing.assert_allclose(
        f.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-5, atol=1e-6
    )
    again = faq_keras.apply(f, plan=faq_keras.plan_of(q))
    assert names_of(again) == names_of(q)
    np.testing.assert_array_equal(again.predict(images, verbose=0), q.predict(images, verbose=0))


def names_of(model):
    return [layer.name for layer in model.layers]


def test_a_frozen_backbone_gets_a_new_head(library, tmp_path):
    base = backbone(library, top=False)
    base.trainable = False
    image = library.Input((32, 32, 3), name="image")
    x = library.layers.Rescaling(1 / 2.0, name="rescale")(image)
    x = library.layers.Dropout(0.1, name="dropout")(base(x, training=False))
    model = library.Model(image, library.layers.Dense(3, name="head")(x), name="transfer")
    q = faq_keras.apply(model, calibration_data=X)
    assert [tuple(weight.shape) for weight in q.trainable_weights] == [(256, 3), (3,)]
    before = [np.array(weight) for weight in q.get_weights()]
    recipe = faq_keras.recipe("w8a8", epochs=1, learning_rate=0.05, batch_size=16)
    faq_keras.fine_tune(q, (X, Y), recipe, verbose=0)
    moved = [not np.array_equal(a, b) for a, b in zip(before, q.get_weights(), strict=True)]
    assert sum(moved) == 2  # the head's kernel and bias; no statistics of the backbone
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=X[:2]).mismatches == 0


@pytest.mark.slow
def test_a_backbone_with_its_own_top(library, tmp_path):
    image = library.Input((32, 32, 3), name="image")
    model = library.Model(image, backbone(library, top=True)(image), name="whole")
    q = faq_keras.apply(model, calibration_data=X)
    np.testing.assert_allclose(q.predict_on_batch(X).sum(axis=1), 1, rtol=1e-5)  # a softmax
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=X[:2]).mismatches == 0
    f = faq_keras.to_float(q)
    np.testing.assert_allclose(f.predict_on_batch(X), model.predict_on_batch(X), atol=1e-5)
