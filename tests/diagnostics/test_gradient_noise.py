"""The cosine is that of the definition, over real updates only; its file survives a resume."""

import itertools
import json
import logging

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras import fixed_point
from faq_keras.diagnostics import GradientNoise, NoiseRecord, read_records
from faq_keras.training import SGD
from faq_keras.training.experiment import compile_for
from faq_keras.training.loop import Loop
from tests.training import runs

KERNELS = ["conv1", "conv2", "head"]


@pytest.fixture(scope="module")
def images():
    return next(runs.pipeline().calibration(1))


def quantized(images, bits=4):
    policy = faq_keras.Policy(scales="paper")  # one step for all channels, as in the formula
    q = faq_keras.apply(runs.network(), bits, calibration_data=images, policy=policy)
    compile_for(q, runs.experiment(), runs.course())
    return q


@pytest.fixture(scope="module")
def model(images):
    """A 4-bit network that the tests move by hand."""
    return quantized(images)


def started(model, **options):
    noise = GradientNoise(every=1, **options)
    noise.set_model(model)
    noise.on_train_begin()
    return noise


def update(noise, kernel, values):
    """Does to a kernel what an update of the optimizer would."""
    kernel.assign(values)
    noise.model.optimizer.iterations.assign_add(1)
    noise.on_train_batch_end(0)
    return noise.latest


def dense_network():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1, name="dense")(inputs))
    model.compile(SGD(0.1))
    return model


def test_a_right_angle_by_hand():
    model = dense_network()
    kernel = model.get_layer("dense").kernel
    kernel.assign([[0.0], [0.0]])
    noise = started(model, smoothing=0.5)
    # The first average is half the first step: the same direction.
    assert update(noise, kernel, [[1.0], [0.0]]) == {"dense": pytest.approx(1)}
    # Then (1/4, 1/2), against (0, 1).
    expected = {"dense": pytest.approx(0.5 / np.hypot(0.25, 0.5))}
    assert update(noise, kernel, [[1.0], [1.0]]) == expected
    assert [record.step for record in noise.history] == [1, 2]


def test_the_formula_on_a_quantized_kernel(model):
    layer = model.get_layer("conv2")
    kernel, spec = layer.kernel_layer.kernel, layer.plan.kernel

    def quantize(weights):
        exponent = fixed_point.kernel_exponent(weights, spec.bits, spec.clip_stds)
        return fixed_point.quantize(weights, spec.bits, exponent, signed=True)

    random = np.random.default_rng(1)
    weights = [random.normal(0, 0.2, kernel.shape).astype(np.float32)]
    for _ in range(4):
        step = random.normal(0.01, 0.02, kernel.shape)
        weights.append((weights[-1] + step).astype(np.float32))
    kernel.assign(weights[0])
    noise = started(model)
    average = 0.0
    for before, after in itertools.pairwise(weights):
        average = 0.9 * average + 0.1 * (quantize(after) - quantize(before))
        asked = after - before
        cosine = np.sum(asked * average) / np.linalg.norm(asked) / np.linalg.norm(average)
        latest = update(noise, kernel, after)
        assert latest["conv2"] == pytest.approx(cosine, abs=1e-5)
        assert latest["conv1"] is latest["head"] is None, "they did not move"


def test_a_record_is_the_mean_of_its_updates():
    def cosines(every):
        model = dense_network()
        kernel = model.get_layer("dense").kernel
        kernel.assign([[0.0], [0.0]])
        noise = GradientNoise(every=every)
        noise.set_model(model)
        noise.on_train_begin()
        for place in ([1, 0], [1, 1], [0, 1]):
            update(noise, kernel, np.reshape(place, (2, 1)))
        noise.on_epoch_end(0)
        return noise.history

    single = [record.layers["dense"] for record in cosines(1)]
    assert single == pytest.approx(
        [1, 0.1 / np.hypot(0.09, 0.1), 0.019 / np.hypot(0.081 - 0.1, 0.09)]
    )
    pair, rest = cosines(2)
    assert (pair.updates, pair.step, rest.updates, rest.step) == (2, 2, 1, 3)
    assert pair.layers["dense"] == pytest.approx(np.mean(single[:2]))
    assert rest.layers["dense"] == pytest.approx(single[2])


def test_a_kernel_of_zeros_begins_to_move(model):
    kernel = model.get_layer("conv2").kernel_layer.kernel
    kernel.assign(np.zeros(kernel.shape))
    noise = started(model)
    assert update(noise, kernel, np.zeros(kernel.shape))["conv2"] is None
    step = np.random.default_rng(0).normal(0, 0.1, kernel.shape)
    assert 0.5 < update(noise, kernel, step)["conv2"] <= 1


def test_weights_that_are_not_finite_give_null_and_one_warning(model, tmp_path, caplog):
    noise = started(model, path=tmp_path / "noise.jsonl")
    kernel = model.get_layer("conv2").kernel_layer.kernel
    before = kernel.numpy()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert update(noise, kernel, np.full(kernel.shape, np.nan))["conv2"] is None
    kernel.assign(before)
    assert caplog.text.count("the weights of conv2 are not finite") == 1
    lines = (tmp_path / "noise.jsonl").read_text().splitlines()
    assert [json.loads(line)["layers"]["conv2"] for line in lines] == [None, None]


@pytest.fixture(scope="module")
def trained(images):
    """Records after 40 updates at 8, 4 and 2 bits, and of the float network."""
    found = {}
    for bits in (8, 4, 2, 0):
        keras.utils.set_random_seed(1)
        q = quantized(images, bits) if bits else runs.network()
        compile_for(q, runs.experiment(), runs.course())
        noise = GradientNoise(every=40)
        q.fit(runs.pipeline().train(0).repeat(4), verbose=0, shuffle=False, callbacks=[noise])
        found[bits] = noise.latest
    return found


def test_fewer_bits_are_noisier(trained):
    assert all(list(layers) == KERNELS for layers in trained.values())
    assert trained[0]["conv2"] > trained[8]["conv2"] > trained[4]["conv2"] > trained[2]["conv2"]


def test_a_float_network_has_almost_no_noise(trained):
    assert all(0.6 < cosine <= 1 for cosine in trained[0].values())


def test_only_updates_count_and_frozen_layers_have_no_cosine(model):
    model.get_layer("conv2").kernel_layer.trainable = False
    model.compile(SGD(0.02, virtual_batches=3), keras.losses.SparseCategoricalCrossentropy(True))
    noise = GradientNoise(every=2)
    model.fit(runs.pipeline().train(0), epochs=2, verbose=0, shuffle=False, callbacks=[noise])
    model.get_layer("conv2").kernel_layer.trainable = True
    records = [(record.epoch, record.step, record.updates) for record in noise.history]
    assert records == [(0, 2, 2), (0, 3, 1), (1, 5, 2), (1, 6, 1)]
    for record in noise.history:
        assert record.layers["conv2"] is None
        assert record.layers["conv1"] > 0 and record.layers["head"] > 0


def test_a_training_in_a_loop_that_breaks_off_goes_on_in_the_same_file(images, tmp_path):
    class Breaks(keras.callbacks.Callback):
        epoch = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) == (1, 8):
                raise RuntimeError("power cut")

    def run(*callbacks):
        keras.utils.set_random_seed(1)
        noise = GradientNoise(tmp_path / "noise.jsonl", every=2)
        loop = Loop(
            quantized(images), runs.pipeline(), runs.course(), tmp_path, 3, [noise, *callbacks]
        )
        loop.run(resume=True)
        return noise

    with pytest.raises(RuntimeError, match="power cut"):
        run(Breaks())
    before = read_records(tmp_path / "noise.jsonl")
    assert [record.step for record in before] == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    with (tmp_path / "noise.jsonl").open("a") as file:
        file.write('{"epoch": 1, "st')
    noise = run()  # from the checkpoint after the sixth batch
    assert read_records(tmp_path / "noise.jsonl") == noise.history
    assert noise.history[:8] == before[:8]
    assert [(record.epoch, record.step) for record in noise.history[8:]] == [(1, 18), (1, 20)]


def test_a_line_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "noise.jsonl"
    record = NoiseRecord(0, 3, 3, {"conv1": 0.5, "conv2": None})
    path.write_text(record.to_json() + '\n{"epoch": 1}\n')
    with pytest.raises(ValueError, match=r"noise\.jsonl, line 2: not a record"):
        read_records(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"every": 0}, "every has to be at least 1"), ({"smoothing": 1.0}, r"lie in \[0, 1\)")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GradientNoise(**options)


def test_models_that_cannot_be_measured_are_refused():
    inputs = keras.Input((2,))
    empty = keras.Model(inputs, keras.layers.ReLU()(inputs), name="empty")
    empty.compile(SGD(0.1))
    with pytest.raises(ValueError, match="'empty' has no convolution and no dense layer"):
        started(empty)
    several = dense_network()
    several.compile(SGD(0.1), steps_per_execution=4)
    with pytest.raises(ValueError, match="steps_per_execution=4"):
        started(several)
