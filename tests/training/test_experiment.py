"""What is checked before a run, and how a network is compiled for it."""

import logging

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.training.experiment import (
    check_network,
    compile_for,
    quantized,
    run,
    warn_of_preprocessing,
)
from faq_keras.training.uncalibrated import uncalibrated_plan
from tests.training import runs


@pytest.mark.parametrize(("accuracy", "warns"), [(0.30, True), (0.86, False), (0.95, False)])
def test_a_float_network_far_below_its_known_accuracy_is_a_warning(accuracy, warns, caplog):
    experiment = runs.experiment(expected_float_accuracy=0.9)
    with caplog.at_level(logging.WARNING):
        warn_of_preprocessing(accuracy, experiment)
    assert ("the configuration expects 0.9000" in caplog.text) is warns
    assert ("check that data.mean, data.std, the transform" in caplog.text) is warns


def other_classes():
    x = keras.Input((8, 8, 1))
    return keras.Model(x, keras.layers.Dense(4)(keras.layers.Flatten()(x)), name="four")


def other_images():
    x = keras.Input((16, 16, 3))
    return keras.Model(x, keras.layers.Dense(6)(keras.layers.Flatten()(x)), name="large")


def unsupported():
    x = keras.Input((8, 8, 1))
    y = keras.layers.LSTM(4, name="memory")(keras.layers.Reshape((8, 8))(x))
    return keras.Model(x, keras.layers.Dense(runs.CLASSES)(y), name="recurrent")


@pytest.mark.parametrize(
    ("network", "fields", "message"),
    [
        (other_classes, {}, r"'four' gives \(4,\) scores, but stripes has 6 classes"),
        (
            other_images,
            {},
            r"'large' takes inputs of the shape \(None, 16, 16, 3\), .* \(8, 8, 1\)",
        ),
        (unsupported, {}, "memory"),
        (runs.network, {"policy": faq_keras.Policy(overrides={"conv9": 8})}, "'conv9' matches no"),
    ],
)
def test_a_network_that_will_not_do_is_refused_before_its_pretraining(
    network, fields, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        run(runs.experiment(network=network, **fields), tmp_path, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


def test_label_smoothing_takes_one_hot_labels_and_changes_the_loss():
    losses = []
    for smoothing, one_hot in ((0.0, False), (0.0, True), (0.2, True)):
        keras.utils.set_random_seed(1)
        model = runs.network()
        data = runs.pipeline(one_hot=one_hot)
        compile_for(model, runs.experiment(data=data, label_smoothing=smoothing), runs.course())
        values = model.evaluate(data.validation(), verbose=0, return_dict=True)
        assert values.keys() == {"loss", "accuracy", "top5"}
        losses.append(values["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[2] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(("bits", "exponent"), [(4, -2), (6, -3), (8, -4)])
def test_without_calibration_the_relus_reach_to_the_papers_rule(bits, exponent):
    """`ymax = 2**(p/2) - 1` in `2**p` steps is the step `2**(-p/2)` (section 3.2)."""
    check_network(runs.network(), runs.pipeline())
    q = quantized(runs.network(), runs.experiment(bits=bits, calibration_batches=0))
    plan = faq_keras.plan_of(q)
    assert (plan["conv1"].output.bits, plan["conv1"].output.exponent) == (bits, exponent)
    assert (plan["conv2"].output.bits, plan["conv2"].output.exponent) == (8, -4)  # the last ReLU
    assert plan["head"].output.bits == 16
    assert plan["pixels"].output.exponent == -8  # the input is measured: 0 to 1


def test_the_rule_does_not_look_at_the_weights():
    images = next(runs.pipeline().calibration(1))
    plans = []
    for factor in (1, 100):
        model = runs.network()
        for layer in model.layers:
            layer.set_weights([np.asarray(w) * factor for w in layer.get_weights()])
        policy = faq_keras.Policy(bn_exponent="paper")
        plans.append(uncalibrated_plan(model, (4, 4), images, policy=policy))
    assert plans[0] == plans[1]
    assert plans[0]["conv1"].multiplier.exponent == -4
