"""Schedules take effect, the log survives kills and resumes, and NaN stops a run by name."""

import json

import keras
import numpy as np
import pytest

from faq_keras.training.callbacks import (
    LearningRate,
    MetricsLog,
    NaNAlarm,
    TrainingDivergedError,
    VirtualBatches,
)
from faq_keras.training.optimizer import SGD
from faq_keras.training.schedules import Constant, Exponential, Steps

X = np.linspace(-1, 1, 32, dtype="float32").reshape(16, 2)
Y = np.arange(16, dtype="int32") % 3


def model_with(optimizer):
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(4, name="hidden"),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    model.compile(
        optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
    )
    return model


def fit(model, callbacks, epochs=3, **arguments):
    return model.fit(X, Y, batch_size=4, epochs=epochs, callbacks=callbacks, verbose=0, **arguments)


@pytest.mark.parametrize("optimizer", [SGD, keras.optimizers.Adam])
def test_the_learning_rate_follows_its_schedule_and_is_logged(optimizer):
    history = fit(model_with(optimizer(0.5)), [LearningRate(Exponential(0.1, 0.5))])
    np.testing.assert_allclose(history.history["learning_rate"], [0.1, 0.05, 0.025], rtol=1e-6)


def test_virtual_batches_follow_their_schedule():
    model = model_with(SGD(0.1))
    fit(model, [VirtualBatches(Steps((1, 2, 4), (1, 2)))])
    assert model.optimizer.virtual_batches == 4
    assert int(model.optimizer.iterations) == 4 + 2 + 1


def test_virtual_batches_reach_the_optimizer_inside_loss_scaling():
    inner = SGD(0.1)
    fit(model_with(keras.mixed_precision.LossScaleOptimizer(inner)), [VirtualBatches(Constant(2))])
    assert inner.virtual_batches == 2


def test_virtual_batches_need_an_optimizer_that_has_them():
    model = model_with(keras.optimizers.SGD(0.1))
    fit(model, [VirtualBatches(Constant(1))])
    with pytest.raises(ValueError, match=r"Epoch 1 asks for virtual batches of 2.*SGD has none"):
        fit(model, [VirtualBatches(Steps((1, 2), (1,)))])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_log_has_one_line_per_epoch_and_goes_on_after_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    model = model_with(SGD(0.1))
    fit(model, [LearningRate(Exponential(0.1, 0.5)), MetricsLog(path)], validation_data=(X, Y))
    assert [line["epoch"] for line in lines(path)] == [0, 1, 2]
    fit(model, [MetricsLog(path)], epochs=5, initial_epoch=3, validation_data=(X, Y))
    assert [line["epoch"] for line in lines(path)] == [0, 1, 2, 3, 4]
    for line in lines(path):
        assert line.keys() >= {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"}
        assert line["seconds"] >= 0
    assert [line["learning_rate"] for line in lines(path)[:3]] == pytest.approx([0.1, 0.05, 0.025])


def test_a_line_torn_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 0}\n{"epoch": 1, "lo')
    fit(model_with(SGD(0.1)), [MetricsLog(path)], epochs=2, initial_epoch=1)
    assert [line["epoch"] for line in lines(path)] == [0, 1]


def test_values_that_are_not_finite_are_null_in_the_log(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.set_model(model_with(SGD(0.1)))
    log.on_train_begin()
    log.on_epoch_begin(0)
    log.on_epoch_end(0, {"loss": float("nan"), "accuracy": 0.5})
    assert lines(log.path)[0]["loss"] is None
    assert lines(log.path)[0]["accuracy"] == 0.5


def test_a_diverging_loss_stops_at_once_and_names_the_first_layer():
    with pytest.raises(
        TrainingDivergedError,
        match=r"diverged in epoch 0, batch \d+: 'loss' is (nan|inf).*"
        r"layer 'hidden', kernel \(\d+ of 8\).*learning rate is 1e\+30",
    ):
        fit(model_with(SGD(1e30)), [NaNAlarm()], epochs=20)


def test_bad_data_is_told_from_bad_weights():
    model = model_with(SGD(0.0))
    images = X.copy()
    images[0] = np.nan
    with pytest.raises(ValueError, match=r"'val_loss' is nan.*All weights are finite"):
        fit(model, [NaNAlarm()], validation_data=(images, Y))


def test_weights_are_looked_at_after_each_epoch():
    model = model_with(SGD(0.1))
    model.add(keras.layers.Softmax())
    broken = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: model.get_layer("head").bias.assign([0.0, np.inf, np.nan])
    )
    with pytest.raises(TrainingDivergedError, match=r"layer 'head', bias \(2 of 3\)"):
        fit(model, [broken, NaNAlarm()])


def test_a_healthy_training_is_not_disturbed():
    fit(model_with(SGD(0.1)), [NaNAlarm()], validation_data=(X, Y))
