"""The verdict: a broken network is called broken, by name; a good one is not; all pages say it."""

import json
import warnings

import keras
import numpy as np
import pytest
import tf_keras

import faq_keras
from faq_keras.graph_reader import read_graph
from faq_keras.rewrite.agreement import agreement_of, layer_noise, sqnr
from tests import networks

BROKEN = faq_keras.Policy(clip_stds={8: 0.05})  # nearly all weights saturate


@pytest.fixture
def x():
    return networks.images(64)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_a_broken_network_is_a_warning_that_names_layers_and_the_next_step(library, x):
    model = networks.tiny_resnet(library=library)
    with pytest.warns(UserWarning, match="far from the float one") as caught:
        q = faq_keras.apply(model, 8, calibration_data=x, policy=BROKEN)
    said = str(caught[0].message)
    assert said.count(" dB)") == 3
    assert all(word in said for word in ("dense:", "faq_keras.reconstruct", "overrides"))
    (entry,) = faq_keras.plan_of(q).settings.agreement
    assert entry.output == "dense" and entry.images == 64 and entry.sqnr < 10


def test_a_good_network_is_no_warning(x):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        q = faq_keras.apply(networks.tiny_resnet(), 8, calibration_data=x)
    assert faq_keras.plan_of(q).settings.agreement[0].sqnr > 25


def test_a_given_plan_keeps_its_own_figures(x):
    model = networks.tiny_resnet()
    plan = faq_keras.plan_of(faq_keras.apply(model, 8, calibration_data=x))
    assert faq_keras.plan_of(faq_keras.apply(model, plan=plan)) == plan


def test_every_output_has_its_own(x):
    inputs = keras.Input((8, 8, 3))
    features = networks.conv_bn_relu(inputs, 8)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    outputs = [
        keras.layers.Dense(4, activation="softmax", name="classes")(pooled),
        keras.layers.Dense(4, activation="sigmoid", name="boxes")(pooled),
        keras.layers.Conv2D(1, 1, name="map")(features),
    ]
    q = faq_keras.apply(networks.randomize(keras.Model(inputs, outputs)), 8, calibration_data=x)
    found = faq_keras.plan_of(q).settings.agreement
    assert [entry.top1 is None for entry in found] == [False, True, True]
    assert all(entry.sqnr > 20 for entry in found)


def test_the_noise_of_a_layer_is_its_own_not_that_of_the_layers_before(x):
    model = networks.tiny_resnet()
    policy = faq_keras.Policy(overrides={"conv2d_1": (2, 8)}, scales="paper")
    q = faq_keras.apply(model, 8, calibration_data=x, policy=policy)
    noise = layer_noise(read_graph(model), q, {"image": x})
    assert min(noise, key=noise.get) == "conv2d_1"
    others = [value for name, value in noise.items() if name != "conv2d_1"]
    assert min(others) > noise["conv2d_1"] + 10


def test_apply_reconstructs_on_request(x):
    model = networks.tiny_resnet()
    q = faq_keras.apply(model, (3, 8), calibration_data=x, reconstruct=x)
    again = faq_keras.apply(model, (3, 8), calibration_data=x)
    faq_keras.reconstruct(again, x)
    assert faq_keras.plan_of(q).settings.post_training == "reconstruct"
    assert np.array_equal(q.predict(x, verbose=0), again.predict(x, verbose=0))


def test_what_is_added_to_all_scores_of_an_image_is_no_noise():
    scores = np.random.default_rng(0).standard_normal((50, 10))
    found = agreement_of("head", scores, scores + np.arange(50)[:, None], classifier=True)
    assert (found.top1, found.sqnr) == (1.0, 100.0)
    assert agreement_of("head", scores, scores + 1.0, classifier=False).sqnr < 1


def test_sqnr_is_in_decibels_and_bounded():
    values = np.ones(100)
    assert sqnr(values, values * 1.1) == pytest.approx(20.0)
    assert (sqnr(values, values), sqnr(np.zeros(3), np.ones(3))) == (100.0, -100.0)


def test_plan_card_and_metadata_say_it(x, tmp_path):
    q = faq_keras.apply(networks.tiny_resnet(), 8, calibration_data=x)
    (entry,) = faq_keras.plan_of(q).settings.agreement
    assert f"agreement with the float network after apply, {entry}" in str(faq_keras.plan_of(q))
    faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x)
    card = json.loads((tmp_path / "m.model_card.json").read_text())
    assert card["agreement"] == [str(entry)] and card["scales"] == "fitted"
    text = (tmp_path / "m.model_card.md").read_text()
    assert f"Agreement with the float network after apply: {entry}" in text
