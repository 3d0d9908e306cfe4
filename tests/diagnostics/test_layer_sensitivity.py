"""A layer's sensitivity is what a network quantized in that layer alone loses, and nothing else."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import faq_keras
from faq_keras import Policy
from faq_keras.diagnostics import Sensitivity, sensitivity
from tests import networks

SENSITIVE = "conv2d_1"
ONE_STEP = Policy(scales="paper")  # for all channels of a kernel: fitted scales would not mind


def small_resnet():
    """A residual block; the logits differ from image to image."""
    keras.utils.clear_session(free_memory=False)
    inputs = keras.Input((8, 8, 3), name="image")
    x = networks.conv_bn_relu(inputs, 8)
    y = networks.conv_bn_relu(networks.conv_bn_relu(x, 8), 8, relu=False)
    x = keras.layers.ReLU()(keras.layers.Add()([y, x]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    dense = keras.layers.Dense(5)
    model = networks.randomize(keras.Model(inputs, dense(x), name="small"))
    kernel, bias = (weight.numpy() for weight in (dense.kernel, dense.bias))
    means = keras.Model(inputs, x)(networks.images(60)).numpy().mean(0)
    dense.set_weights([30 * kernel, 0 * bias - means @ (30 * kernel)])
    return model


def spoiled(model, name):
    """Makes one output channel's weights 40 times larger, and its batch normalization undo it.

    The float network computes the same; with one step for all channels, few bits leave nothing of
    the others.
    """
    kernel = model.get_layer(name).kernel
    weights = kernel.numpy()
    weights[..., 0] *= 40
    kernel.assign(weights)
    norm = model.get_layer(name.replace("conv2d", "batch_normalization"))
    for statistic, factor in ((norm.moving_mean, 40), (norm.moving_variance, 1600)):
        values = statistic.numpy()
        values[0] *= factor
        statistic.assign(values)
    return model


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return spoiled(small_resnet(), SENSITIVE)


@pytest.fixture(scope="module")
def images():
    return networks.images(60)


@pytest.fixture(scope="module")
def measured(model, images):
    labels = model.predict(images, verbose=0).argmax(-1)
    return sensitivity(model, (images, labels), bits=(3, 4), parts="weights", policy=ONE_STEP)


def test_the_sensitive_layer_is_found(measured):
    at_4_bits = [row for row in measured.ranked if row.bits == 4]
    assert at_4_bits[0].name == SENSITIVE
    assert at_4_bits[0].divergence > 3 * at_4_bits[1].divergence
    assert measured.drops[SENSITIVE] > 0.1
    assert measured.float_accuracy == 1
    table = str(measured).splitlines()
    assert table[2].split() == ["float", "-", "1.0000"]
    assert table[4].split()[0] == SENSITIVE


def test_fitted_scales_do_not_mind_channels_of_different_size(model, images, measured):
    fitted = sensitivity(model, images, bits=4, parts="weights")
    lost = [
        next(row.divergence for row in found.layers if (row.name, row.bits) == (SENSITIVE, 4))
        for found in (measured, fitted)
    ]
    assert lost[1] < 0.2 * lost[0]


def test_weights_of_every_kernel_and_nothing_else_are_measured(model, measured):
    kernels = {
        layer.name: int(np.prod(layer.kernel.shape))
        for layer in model.layers
        if hasattr(layer, "kernel")
    }
    assert measured.weights == kernels
    assert {row.name for row in measured.layers} == set(kernels)
    assert measured.ends == ("conv2d", "dense")
    sizes = [8 * count if name in measured.ends else 4 * count for name, count in kernels.items()]
    assert measured.uniform_bytes(4) == sum(sizes) / 8


@pytest.mark.parametrize(
    ("parts", "override"),
    [("layer", 4), ("weights", (4, None)), ("activations", (None, 4))],
)
def test_each_number_is_that_of_the_network_that_apply_makes(model, images, parts, override):
    found = sensitivity(model, images, bits=4, parts=parts)
    assert found.float_accuracy == 1, "without labels the float network's classes are right"
    scores = model.predict(images, verbose=0).astype(np.float64)
    row = max(found.layers, key=lambda row: row.divergence)
    for name, accuracy, divergence in (
        (None, found.accuracy, found.divergence),
        (row.name, row.accuracy, row.divergence),
    ):
        policy = Policy(overrides={name: override} if name else {})
        q = faq_keras.apply(model, 8, calibration_data=images, policy=policy)
        got = q.predict(images, verbose=0).astype(np.float64)
        assert accuracy == np.mean(got.argmax(-1) == scores.argmax(-1))
        kl = keras.losses.KLDivergence()(tf.nn.softmax(scores), tf.nn.softmax(got))
        assert divergence == pytest.approx(float(kl), rel=1e-3, abs=1e-6)


def test_chunks_give_the_same_numbers(model, images, measured, monkeypatch):
    monkeypatch.setattr("faq_keras.diagnostics.layer_sensitivity._MOST_VALUES", 70_000)
    batches = tf.data.Dataset.from_tensor_slices(
        (images, keras.ops.one_hot(model.predict(images, verbose=0).argmax(-1), 5))
    ).batch(7)
    few = sensitivity(
        model,
        batches,
        bits=3,
        parts="weights",
        calibration_data=iter(np.split(images, 5)),
        images=60,
        policy=ONE_STEP,
    )
    whole = [row for row in measured.layers if row.bits == 3]
    assert [row.name for row in few.layers] == [row.name for row in whole]
    for row, other in zip(few.layers, whole, strict=True):
        assert row.accuracy == pytest.approx(other.accuracy)
        assert row.divergence == pytest.approx(other.divergence, rel=1e-6)


def test_the_network_is_left_as_it_was(model, images):
    before = model.get_weights()
    outputs = model.predict(images, verbose=0)
    sensitivity(model, images[:10], bits=2)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(outputs, model.predict(images, verbose=0))


def test_a_softmax_at_the_end_changes_nothing(images):
    def network(softmax):
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.GlobalAveragePooling2D()(networks.conv_bn_relu(inputs, 2))
        activation = "softmax" if softmax else None
        return keras.Model(inputs, keras.layers.Dense(5, activation=activation)(x), name="net")

    with_softmax, without = (sensitivity(network(s), images, bits=4) for s in (True, False))
    assert with_softmax == without


def test_json_round_trip(measured):
    assert Sensitivity.from_json(measured.to_json()) == measured


def test_json_of_before_there_was_reconstruct(measured):
    data = json.loads(measured.to_json())
    assert data.pop("after") == "apply"
    assert Sensitivity.from_json(json.dumps(data)) == measured


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, "bits have to be below 8"),
        ({"bits": (4, 1)}, "must be an integer from 2 to 8"),
        ({"parts": "bias"}, "parts has to be one of layer, weights, activations"),
        ({"data": (networks.images(4), np.array([0, 1, 2]))}, "do not fit 4 images"),
        ({"data": (networks.images(4), np.array([0, 1, 2, 5]))}, "the classes 0 to 4"),
        ({"data": []}, "The data is empty"),
        ({"data": 3}, "Data of type int is not supported"),
        ({"data": networks.images(4, (7, 7, 3))}, "has the shape"),
    ],
)
def test_bad_input_is_refused(model, change, message):
    with pytest.raises(ValueError, match=message):
        sensitivity(**{"model": model, "data": networks.images(4), **change})


def test_a_network_without_classes_is_refused():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, networks.conv_bn_relu(inputs, 4))
    with pytest.raises(ValueError, match="not a classifier"):
        sensitivity(model, networks.images(4))


def test_entries_are_frozen(measured):
    with pytest.raises(dataclasses.FrozenInstanceError):
        measured.layers[0].drop = 0
