"""The state of layers is what their codes say; dead and broken layers are named."""

import json
import logging

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.training.callbacks import MetricsLog, NaNAlarm, TrainingDivergedError
from faq_keras.training.experiment import compile_for
from faq_keras.training.watch import (
    LayerWatch,
    Taps,
    first_not_finite_output,
    kernel_exponent,
    layer_states,
)
from tests.training import runs
from tests.training.test_trainer import events


@pytest.fixture
def images():
    return next(runs.pipeline().calibration(1))


@pytest.fixture
def model(images):
    q = faq_keras.apply(runs.network(), 4, calibration_data=images)
    compile_for(q, runs.experiment(), runs.course())
    return q


def test_states_are_shares_and_bits_of_the_codes(model, images):
    taps = Taps(model)
    outputs = taps(images)
    states = layer_states(taps.layers, outputs)
    assert list(states) == ["pixels_quantized", "conv1", "conv2", "head"]
    names = [layer.name for layer in taps.layers]
    codes = outputs[names.index("conv1")] / 2.0 ** faq_keras.plan_of(model)["conv1"].output.exponent
    assert set(np.unique(codes)) <= set(range(16))
    state = states["conv1"]
    assert state["saturation"] == pytest.approx(np.mean(codes == 15))
    assert state["zeros"] == pytest.approx(np.mean(codes == 0))
    assert state["bits_used"] == pytest.approx(np.log2(len(np.unique(codes))))
    assert state["kernel_exponent"] == kernel_exponent(model.get_layer("conv1"))


def fit(model, callbacks, epochs=2):
    data = runs.pipeline()
    return model.fit(
        data.train(0),
        epochs=epochs,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
        validation_data=data.validation(),
    )


def test_states_reach_the_log_and_tensorboard(model, images, tmp_path):
    watch = LayerWatch(images, tmp_path / "layers")
    fit(model, [watch, MetricsLog(tmp_path / "metrics.jsonl", layers=watch)])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scalars = events(tmp_path / "layers")
    for name, state in lines[-1]["layers"].items():
        for key, value in state.items():
            assert [line["layers"][name][key] for line in lines] == pytest.approx(
                scalars[f"{key}/{name}"], rel=1e-6
            )
            assert value == lines[-1]["layers"][name][key]


def test_exponent_changes_are_counted_across_a_resume(model, images):
    class Double(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernel = self.model.get_layer("conv1").kernel_layer.kernel
            kernel.assign(kernel * 2)

    watch = LayerWatch(images)
    fit(model, [Double(), watch], epochs=1)
    first = watch.latest["conv1"]["kernel_exponent"]
    assert watch.latest["conv1"]["exponent_changes"] == 1
    resumed = LayerWatch(images, before=json.loads(json.dumps(watch.latest)))
    fit(model, [Double(), resumed], epochs=1)
    assert resumed.latest["conv1"]["kernel_exponent"] > first
    assert resumed.latest["conv1"]["exponent_changes"] == 2
    assert resumed.latest["head"]["exponent_changes"] == 0


def test_a_dead_layer_is_named(model, images, caplog):
    model.get_layer("conv1").batch_norm_layer.beta.assign([-100.0] * 8)
    watch = LayerWatch(images)
    watch.set_model(model)
    watch.on_train_begin()
    with caplog.at_level(logging.WARNING):
        watch.on_epoch_end(4)
    # What comes behind a dead layer sees nothing but zeros, too: the first one is the culprit.
    assert "After epoch 5 these layers give nothing but zeros (dead): conv1, " in caplog.text


def test_a_float_network_is_left_in_peace(images, tmp_path):
    model = runs.network()
    compile_for(model, runs.experiment(), runs.course())
    watch = LayerWatch(images, tmp_path / "layers")
    fit(model, [watch, MetricsLog(tmp_path / "metrics.jsonl", layers=watch)], epochs=1)
    assert watch.latest == {}
    assert "layers" not in json.loads((tmp_path / "metrics.jsonl").read_text())


def test_the_first_layer_whose_output_is_not_finite_is_named(images):
    model = runs.network()
    assert first_not_finite_output(model, images) is None
    model.get_layer("bn2").moving_variance.assign([-1.0] + [1.0] * 7)
    message = r"layer 'bn2' \(160 of 1280\)"
    assert first_not_finite_output(model, images) == message.replace("\\", "")
    compile_for(model, runs.experiment(), runs.course())
    alarm = NaNAlarm(lambda network: first_not_finite_output(network, images))
    alarm.set_model(model)
    with pytest.raises(
        TrainingDivergedError,
        match=f"All weights are finite; the first output that is not: {message}",
    ):
        alarm.on_train_batch_end(3, {"loss": float("nan")})
