"""A variant's layer is the one that `reconstruct` would make if it had few bits alone."""

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras import Policy
from faq_keras.diagnostics import Sensitivity, sensitivity
from faq_keras.diagnostics.corrected_layers import corrected_layers
from faq_keras.graph_reader import read_graph
from faq_keras.post_training.correction import Options
from tests import networks
from tests.post_training import nets

IMAGES = 64
KERNELS = ("conv2d_1", "conv2d_3", "conv2d_5")
SHOWN = (("conv2d_1", 2), ("conv2d_5", 3))
only_codes = Options(means=False)
pytestmark = pytest.mark.filterwarnings("ignore:The quantized network is far from the float one")


def quantized(model, images, name=None, bits=3):
    overrides = {name: (bits, None)} if name else {}
    policy = Policy(overrides=overrides)
    return faq_keras.apply(model, 8, calibration_data=images, policy=policy)


def variants_of(model, images, names, options, bits=3):
    plans = [
        faq_keras.plan_of(quantized(model, images, name, bits if name else 8))
        for name in (None, *names)
    ]
    base, *others = plans
    named = list(zip(names, others, strict=True))
    return corrected_layers(model, read_graph(model), base, images, named, options)


def constants(layer):
    return [np.asarray(variable) for part in layer.float_layers for variable in part.weights]


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (networks.tiny_resnet, KERNELS),
        (nets.depthwise, ("depthwise_conv2d", "conv2d_1")),
        (nets.grouped, ("conv2d_1", "conv2d_2")),
        (nets.no_batch_norm, ("conv2d_1",)),
    ],
)
def test_codes_are_those_of_reconstruct_on_that_layer_alone(network, names):
    """Rounding touches kernels below 8 bits only, so reconstruct does the same to one layer."""
    model = network()
    images = networks.images(IMAGES, model.input_shape[1:])
    layers = variants_of(model, images, names, only_codes)
    for name, layer in zip(names, layers, strict=True):
        q = quantized(model, images, name)
        faq_keras.reconstruct(q, images, means=False)
        for own, wanted in zip(constants(layer), constants(q.get_layer(name)), strict=True):
            np.testing.assert_array_equal(own, wanted)
        assert np.any(np.asarray(layer.kernel) != np.asarray(model.get_layer(name).kernel))


def test_means_are_those_of_reconstruct_on_a_first_layer():
    """Before it there is nothing else to correct."""
    model = networks.tiny_resnet()
    images = networks.images(IMAGES)
    (layer,) = variants_of(model, images, ("conv2d",), None)
    q = quantized(model, images, "conv2d")
    faq_keras.reconstruct(q, images)
    for own, wanted in zip(constants(layer), constants(q.get_layer("conv2d")), strict=True):
        np.testing.assert_array_equal(own, wanted)


def test_the_numbers_are_those_of_the_networks_that_reconstruct_makes(monkeypatch):
    model = networks.tiny_resnet()
    images = networks.images(80)
    original = corrected_layers

    def codes(*arguments):
        return original(*arguments, only_codes)

    monkeypatch.setattr("faq_keras.diagnostics.layer_sensitivity.corrected_layers", codes)
    found = sensitivity(model, images, bits=(2, 3), parts="weights", after="reconstruct")
    scores = model.predict(images, verbose=0)
    rows = [row for row in found.layers if (row.name, row.bits) in SHOWN]
    assert len(rows) == len(SHOWN)
    for row in rows:
        q = quantized(model, images, row.name, row.bits)
        faq_keras.reconstruct(q, images, means=False)
        got = q.predict(images, verbose=0)
        assert row.accuracy == np.mean(got.argmax(-1) == scores.argmax(-1))
        exact, logs = (v - np.log(np.exp(v).sum(-1, keepdims=True)) for v in (scores, got))
        divergence = np.mean(np.sum(np.exp(exact) * (exact - logs), -1))
        assert row.divergence == pytest.approx(divergence, rel=1e-3, abs=1e-6)


def test_corrected_layers_lose_less_and_the_network_stays_as_it_was():
    model = networks.tiny_resnet()
    images = networks.images(400)
    before = model.get_weights()
    plain, corrected = (
        sensitivity(model, images, bits=3, parts="weights", after=after, images=400)
        for after in ("apply", "reconstruct")
    )
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert corrected.divergence == plain.divergence and corrected.accuracy == plain.accuracy
    lost = [
        sum(row.divergence - found.divergence for row in found.layers)
        for found in (plain, corrected)
    ]
    assert lost[1] < 0.6 * lost[0], lost
    assert corrected.after == "reconstruct" and "weights, after reconstruct" in str(corrected)
    assert Sensitivity.from_json(corrected.to_json()) == corrected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"after": "training"}, "one of apply, reconstruct. Received: 'training'"),
        ({"parts": "layer"}, "corrects kernels: give parts='weights'. Received: 'layer'"),
        ({"parts": "activations"}, "give parts='weights'"),
        ({"data": networks.images(31)}, "has 31 images; it needs at least 32"),
    ],
)
def test_bad_requests_are_refused(change, message):
    keras.utils.set_random_seed(0)
    request = {"data": networks.images(40), "parts": "weights", "after": "reconstruct"}
    with pytest.raises(ValueError, match=message):
        sensitivity(networks.tiny_resnet(), **(request | change))
