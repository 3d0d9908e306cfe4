"""Models that commit d0be33f saved still load, predict the same and go through every step.

`saved/` holds `tests.networks.tiny_resnet` (seed 7) of either Keras, quantized to 4 bits by that
commit, its predictions for `networks.images(16)`, and its plan.
"""

import pathlib

import keras
import numpy as np
import pytest
import tf_keras

import faq_keras
from tests import networks

SAVED = pathlib.Path(__file__).parent / "saved"
LIBRARIES = {"keras3": keras, "tf_keras": tf_keras}


@pytest.fixture(params=LIBRARIES)
def name(request):
    return request.param


@pytest.fixture
def saved(name):
    return LIBRARIES[name].models.load_model(SAVED / f"{name}.keras")


def test_predictions_are_those_of_then(name, saved):
    expected = np.load(SAVED / f"{name}.npy")
    assert np.array_equal(saved.predict(networks.images(16), verbose=0), expected)


def test_the_plan_is_that_of_then(name, saved):
    plan = faq_keras.plan_of(saved)
    assert plan.settings.scales == "paper"
    assert plan.settings.agreement == ()
    if name == "tf_keras":
        assert plan == faq_keras.QuantPlan.load(SAVED / "plan.json")


def test_the_file_is_exact_and_the_model_is_saved_again(name, saved, tmp_path):
    x = networks.images(16)
    report = faq_keras.export_tflite(saved, tmp_path / "m.tflite", weights="int4", verify=x)
    assert report.mismatches == 0 and report.values > 0
    saved.save(tmp_path / "again.keras")
    loaded = LIBRARIES[name].models.load_model(tmp_path / "again.keras")
    assert np.array_equal(loaded.predict(x, verbose=0), saved.predict(x, verbose=0))
