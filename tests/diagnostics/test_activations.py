"""Statistics of activations against numpy, tensor by tensor."""

import json

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.diagnostics import ActivationStatistics, activation_statistics
from faq_keras.training.watch import Taps
from tests import networks


@pytest.fixture(scope="module")
def images():
    return networks.images(12)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return networks.tiny_resnet()


@pytest.fixture(scope="module")
def quantized(model, images):
    return faq_keras.apply(model, 4, calibration_data=images)


@pytest.fixture(scope="module")
def statistics(quantized, images):
    return activation_statistics(quantized, images, bins=32)


def decibels(signal, noise):
    return 10 * np.log10(np.sum(np.square(signal, dtype=np.float64)) / np.sum(np.square(noise)))


def test_every_tensor_of_the_plan_has_an_entry(quantized, statistics, images):
    plan = faq_keras.plan_of(quantized)
    assert [t.name for t in statistics.tensors] == [layer.name for layer in plan.layers]
    assert statistics.images == len(images)
    for tensor in statistics.tensors:
        spec = plan[tensor.name].output
        assert (tensor.bits, tensor.exponent, tensor.signed) == (
            spec.bits,
            spec.exponent,
            spec.signed,
        )
        assert tensor.clip == spec.highest * spec.step
        assert tensor.edges[-1] == 2 * tensor.clip
        assert tensor.edges[0] == (-2 * tensor.clip if spec.signed else 0)


@pytest.mark.parametrize(("name", "float_layer"), [("conv2d", "re_lu"), ("dense", "dense")])
def test_the_numbers_are_those_of_the_two_networks(
    model, quantized, statistics, images, name, float_layer
):
    exact = keras.Model(model.input, model.get_layer(float_layer).output)(images).numpy()
    taps = Taps(quantized)
    values = dict(zip([la.name for la in taps.layers], taps(images), strict=True))[name]
    tensor = statistics[name]
    step = 2.0**tensor.exponent
    assert tensor.sqnr == pytest.approx(decibels(exact, values - exact), abs=0.01)
    lowest = -tensor.clip - step if tensor.signed else 0
    alone = np.clip(np.round(exact / step) * step, lowest, tensor.clip)
    assert tensor.own_sqnr == pytest.approx(decibels(exact, alone - exact), abs=0.01)
    assert tensor.saturation == pytest.approx(np.mean(values == tensor.clip))
    assert tensor.zeros == pytest.approx(np.mean(values == 0))
    assert 2**tensor.bits_used == pytest.approx(len(np.unique(values)))
    assert (tensor.minimum, tensor.maximum) == pytest.approx((exact.min(), exact.max()), abs=1e-5)
    assert sum(tensor.histogram) == exact.size
    middle = np.histogram(exact, tensor.edges)[0]
    assert np.abs(np.subtract(tensor.histogram, middle)[:-1]).sum() <= 4, "rounding at the edges"


def test_the_noise_of_the_layers_before_is_told_apart(statistics):
    assert statistics["conv2d_1"].sqnr < statistics["conv2d_1"].own_sqnr - 1
    logits = statistics["dense"]
    assert logits.own_sqnr > 60 > logits.sqnr, "16-bit logits add nothing of their own"


def test_chunks_give_the_same_numbers(quantized, images, statistics, monkeypatch):
    monkeypatch.setattr("faq_keras.training.watch._MOST_VALUES", 50_000)
    few = activation_statistics(quantized, images, bins=32)
    for tensor, other in zip(few.tensors, statistics.tensors, strict=True):
        assert tensor.histogram == other.histogram
        assert tensor.sqnr == pytest.approx(other.sqnr)
        assert tensor.saturation == other.saturation


def test_a_clip_line_far_too_low_shows(model, images):
    plan = faq_keras.plan_of(faq_keras.apply(model, 4, calibration_data=images))
    data = json.loads(plan.to_json())
    entry = next(layer for layer in data["layers"] if layer["name"] == "conv2d")
    entry["output"]["exponent"] -= 3
    spoiled = faq_keras.QuantPlan.from_json(json.dumps(data))
    tensor = activation_statistics(faq_keras.apply(model, plan=spoiled), images)["conv2d"]
    assert tensor.saturation > 0.3
    assert tensor.own_sqnr < 8
    assert tensor.histogram[-1] > 0, "the last bin has all that is beyond"


def test_a_dead_tensor_has_no_ratio(quantized, images):
    dead = keras.models.clone_model(quantized)
    dead.set_weights(quantized.get_weights())
    dead.get_layer("conv2d_1").batch_norm_layer.beta.assign([-100.0] * 8)
    statistics = activation_statistics(dead, images)
    tensor = statistics["conv2d_1"]
    assert tensor.sqnr is None and tensor.own_sqnr is None
    assert tensor.zeros == 1
    assert ActivationStatistics.from_json(statistics.to_json()) == statistics
    row = next(line for line in str(statistics).splitlines() if line.startswith("conv2d_1 "))
    assert row.split()[-2:] == ["-", "-"]


def test_another_float_network_is_refused(quantized, images):
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D()(networks.conv_bn_relu(inputs, 4))
    with pytest.raises(ValueError, match="The plan does not fit the model"):
        activation_statistics(quantized, images, keras.Model(inputs, keras.layers.Dense(2)(x)))


def test_unknown_tensors_are_named(statistics):
    with pytest.raises(
        KeyError, match="no statistics of 'conv9'; there are those of image, conv2d"
    ):
        statistics["conv9"]
