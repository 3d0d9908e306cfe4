"""`distill` brings a quantized network closer to its float network, or leaves it as it was."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import faq_keras
from faq_keras.post_training import comparison, distillation
from faq_keras.post_training.augmentation import augmented_batches
from faq_keras.post_training.distillation import distill
from faq_keras.rewrite.agreement import sqnr
from tests import material
from tests.networks import conv_bn_relu, images, randomize

LIBRARIES = pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
X = images(48)
SHORT = {"steps": 12, "batch_size": 16, "learning_rate": 3e-3}


def features(shape=(8, 8, 3), name="image", library=keras):
    """Two convolutions: the second one is neither the first nor the last layer."""
    inputs = library.Input(shape, name=name)
    x = conv_bn_relu(inputs, 6, strides=2, layers=library.layers)
    x = conv_bn_relu(x, 6, layers=library.layers)
    return inputs, library.layers.GlobalAveragePooling2D()(x)


def headed(activation, units=5, library=keras):
    def build():
        inputs, x = features(library=library)
        dense = library.layers.Dense(units, activation=activation, name="head")
        return randomize(library.Model(inputs, dense(x), name="small"))

    return build


@pytest.fixture
def pair():
    model = headed(None)()
    return model, faq_keras.apply(model, 2, calibration_data=X)


def weights(model):
    return {getattr(v, "path", v.name): np.array(v) for v in model.weights}


def changed(before, after):
    return {name for name, value in before.items() if not np.array_equal(value, after[name])}


@LIBRARIES
def test_only_gamma_and_beta_move_and_the_float_model_does_not(library):
    model = headed(None, library=library)()
    q = faq_keras.apply(model, 2, calibration_data=X)
    plan, floats, before = faq_keras.plan_of(q), weights(model), weights(q)
    result = distill(q, X, **SHORT)
    assert result.kept and result.loss_last < 0.8 * result.loss_first
    moved = changed(before, weights(q))
    assert len(moved) == 4
    assert {name.split("/")[-1].split(":")[0] for name in moved} == {"gamma", "beta"}
    assert not changed(floats, weights(model))
    after = faq_keras.plan_of(q)
    assert after.layers == plan.layers and after.settings.post_training == "distill"


def test_the_file_still_equals_the_model(pair, tmp_path):
    _, q = pair
    distill(q, X, **SHORT)
    report = faq_keras.export_tflite(q, tmp_path / "m.tflite", "int4", verify=X)
    assert report.mismatches == 0
    q.save(tmp_path / "q.keras")
    loaded = keras.saving.load_model(tmp_path / "q.keras")
    np.testing.assert_array_equal(loaded(X), q(X))
    with pytest.raises(ValueError, match=r"went through distill .*teacher=model"):
        distill(loaded, X)


def test_the_same_seed_gives_the_same_weights():
    model, found = headed(None)(), []
    for seed in (0, 0, 1):
        q = faq_keras.apply(model, 2, calibration_data=X)
        distill(q, X, seed=seed, **SHORT)
        found.append(weights(q))
    assert not changed(found[0], found[1])
    assert changed(found[0], found[2])


def test_frozen_layers_learn_too(pair):
    _, q = pair
    q.trainable = False
    assert distill(q, X, **SHORT).kept


def test_the_result_reads_as_a_table_and_as_json(pair):
    _, q = pair
    result = distill(q, X, **SHORT)
    lines = str(result).splitlines()
    assert lines[0].startswith("Distilled 12 steps on 48 images in ")
    assert lines[0].endswith("teacher: the float model 'small' that was quantized.")
    assert lines[1] == f"  loss {result.loss_first:.4g} -> {result.loss_last:.4g}"
    assert lines[2:] == [f"  before: {result.before[0]}", f"  after: {result.after[0]}"]
    data = json.loads(result.to_json())
    assert data["loss_first"] == result.loss_first
    assert data["after"][0]["top1"] == result.after[0].top1
    assert faq_keras.plan_of(q).settings.agreement == result.after


@pytest.mark.parametrize("data", ["dataset", "batches", "dictionary", "bytes"])
def test_images_come_in_every_form(pair, data):
    _, q = pair
    x = (X * 40 + 128).clip(0, 255).astype(np.uint8) if data == "bytes" else X
    forms = {
        "dataset": lambda: tf.data.Dataset.from_tensor_slices((x, np.zeros(48))).batch(20),
        "batches": lambda: [(x[:30], None), (x[30:], None)],
        "dictionary": lambda: {"image": x},
        "bytes": lambda: x,
    }
    assert distill(q, forms[data](), steps=2).images == 48


# ---------------------------------------------------------------------------- outputs


def two_outputs():
    inputs, x = features()
    scores = keras.layers.Dense(5, name="scores")(x)
    box = keras.layers.Dense(1, name="place")(x)
    return randomize(keras.Model(inputs, {"scores": scores, "place": box}))


def two_inputs():
    left, x = features(name="left")
    right, y = features(name="right")
    joined = keras.layers.Concatenate()([x, y])
    return randomize(keras.Model([left, right], keras.layers.Dense(4, name="head")(joined)))


def pixels():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 1)(conv_bn_relu(conv_bn_relu(conv_bn_relu(inputs, 4), 4), 4))
    return randomize(keras.Model(inputs, keras.layers.Softmax(name="head")(x)))


@pytest.mark.parametrize(
    ("build", "x", "classifiers"),
    [
        (headed(None), X, [True]),
        (headed("softmax"), X, [True]),
        (headed("relu"), X, [False]),
        (headed("sigmoid"), X, [False]),
        (headed("sigmoid", 1), X, [False]),
        (headed(None, 1), X, [False]),
        (two_outputs, X, [False, True]),
        (two_inputs, {"left": X, "right": X[::-1]}, [True]),
        (pixels, X, [True]),
    ],
    ids="linear softmax relu sigmoid sigmoid1 linear1 outputs inputs pixels".split(),  # noqa: SIM905
)
def test_every_kind_of_output_comes_closer(build, x, classifiers):
    model = build()
    q = faq_keras.apply(model, 2, calibration_data=x)
    result = distill(q, x, **SHORT)
    assert result.kept and result.loss_last < result.loss_first
    assert [found.top1 is not None for found in result.after] == classifiers
    ends = [output._keras_history[0].name for output in q.outputs]
    assert [found.output for found in result.after] == ends
    assert sum(found.sqnr for found in result.after) > sum(found.sqnr for found in result.before)


def test_losses_are_the_divergence_and_the_relative_squared_error():
    model = two_outputs()
    q = faq_keras.apply(model, 2, calibration_data=X)
    wanted, own = model(X), q(X)
    result = distill(q, X, steps=1)
    place, scores = result.before
    theirs, ours = (tf.nn.log_softmax(value["scores"]).numpy() for value in (wanted, own))
    divergence = (np.exp(theirs) * (theirs - ours)).sum(axis=1).mean()
    exact, error = wanted["place"].numpy(), (own["place"] - wanted["place"]).numpy()
    squared = np.mean(error**2) / np.var(exact)
    assert result.loss_first == pytest.approx(divergence + squared, rel=1e-3)
    assert scores.top1 == np.mean(theirs.argmax(1) == ours.argmax(1))
    assert place.sqnr == pytest.approx(10 * np.log10(np.sum(exact**2) / np.sum(error**2)), abs=0.01)
    centred = [
        value["scores"] - tf.reduce_mean(value["scores"], 1)[:, None] for value in (wanted, own)
    ]
    assert scores.sqnr == pytest.approx(sqnr(*map(np.asarray, centred)), abs=0.01)


def test_agreement_is_that_which_apply_states():
    for activation in (None, "softmax", "sigmoid"):
        model = headed(activation)()
        q = faq_keras.apply(model, 2, calibration_data=X)
        stated = faq_keras.plan_of(q).settings.agreement
        (found,) = distill(q, X, steps=1).before
        assert (found.output, found.images, found.top1) == (
            stated[0].output,
            stated[0].images,
            stated[0].top1,
        )
        assert found.sqnr == pytest.approx(stated[0].sqnr, abs=0.02)


def test_a_softmax_at_the_end_changes_nothing_but_rounding():
    found = []
    for activation in (None, "softmax"):
        keras.utils.set_random_seed(1)
        q = faq_keras.apply(headed(activation)(), 2, calibration_data=X)
        found.append(distill(q, X, **SHORT))
    assert found[1].loss_first == pytest.approx(found[0].loss_first, rel=1e-3)
    assert found[1].loss_last == pytest.approx(found[0].loss_last, rel=0.05)


def test_a_teacher_may_leave_the_softmax_out_but_not_end_in_something_else():
    q = faq_keras.apply(headed("softmax")(), 2, calibration_data=X)
    assert distill(q, X, teacher=headed(None)(), steps=1).before[0].top1 is not None
    with pytest.raises(ValueError, match=r"'head_softmax' .* activation softmax, .* from sigmoid"):
        distill(q, X, teacher=headed("sigmoid")())


# ---------------------------------------------------------------------------- what learns


def without_batch_norm(use_bias=True):
    inputs = keras.Input((8, 8, 3))
    conv = {"activation": "relu", "use_bias": use_bias, "strides": 2}
    x = keras.layers.Conv2D(8, 3, **conv)(inputs)
    x = keras.layers.Conv2D(8, 3, **conv)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(inputs, keras.layers.Dense(5, use_bias=use_bias)(x), name="bare"))


def test_without_batch_normalization_the_biases_learn():
    q = faq_keras.apply(without_batch_norm(), 2, calibration_data=X)
    before = weights(q)
    assert distill(q, X, **SHORT).kept
    moved = changed(before, weights(q))
    assert len(moved) == 3 and all(name.endswith("bias") for name in moved)


def test_with_nothing_to_learn_the_kernels_are_suggested():
    q = faq_keras.apply(without_batch_norm(use_bias=False), 2, calibration_data=X)
    with pytest.raises(ValueError, match=r"'bare' has no batch normalization .*layers='all'"):
        distill(q, X)
    assert distill(q, X, layers="all", **SHORT).kept


def test_all_layers_on_few_images_come_with_a_warning(pair):
    _, q = pair
    before = weights(q)
    with pytest.warns(UserWarning, match=r"layers='all'\) on 48 images: with fewer than 10,000"):
        result = distill(q, X, layers="all", **SHORT)
    moved = {name.split("/")[-1] for name in changed(before, weights(q))}
    assert moved == {"gamma", "beta", "kernel", "bias"}
    assert result.layers == "all"


def test_enough_images_come_without_a_warning(pair, monkeypatch, recwarn):
    _, q = pair
    monkeypatch.setattr(distillation, "_ENOUGH_FOR_KERNELS", len(X))
    distill(q, X, layers="all", steps=1)
    assert not [w for w in recwarn if "with fewer than" in str(w.message)]


# ---------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps has to be a whole number >= 1. Received: 0"),
        ({"batch_size": 1.5}, "batch_size has to be a whole number"),
        ({"learning_rate": 0.0}, "learning_rate has to be a number > 0"),
        ({"learning_rate": float("nan")}, "learning_rate has to be a number > 0"),
        ({"temperature": -1.0}, "temperature has to be a number > 0"),
        ({"layers": "kernels"}, "one of batch_norm, all. Received: 'kernels'"),
        ({"images": X[:15]}, "at least 16 images, 500 or more to be of use; received 15"),
        ({"images": X[:, :6]}, r"shape \(48, 6, 8, 3\)"),
        ({"images": np.full_like(X, np.nan)}, "NaN or infinite"),
        ({"images": tf.data.Dataset.from_tensors(X).repeat()}, "never ends"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(pair, arguments, message):
    _, q = pair
    before = weights(q)
    with pytest.raises(ValueError, match=message):
        distill(q, **({"images": X} | arguments))
    assert not changed(before, weights(q))


def test_a_float_model_is_refused(pair):
    with pytest.raises(ValueError, match=r"not made by faq_keras.apply"):
        distill(pair[0], X)


def test_a_loss_that_is_not_finite_restores_the_network(pair, monkeypatch):
    _, q = pair
    before = weights(q)
    monkeypatch.setattr(comparison, "_MEASURED", 16)
    x = X.copy()
    x[40] = 3e38  # not among the measured images
    with pytest.raises(ValueError, match=r"diverged: after step \d of 9 the loss is nan.*lower"):
        distill(q, x, steps=9, batch_size=16)
    assert not changed(before, weights(q))
    assert faq_keras.plan_of(q).settings.post_training is None


def test_a_broken_teacher_is_found_before_the_first_step(pair):
    model, q = pair
    model.get_layer("head").bias.assign([np.nan] * 5)
    with pytest.raises(ValueError, match="not finite on the images before the first step"):
        distill(q, X)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_after_an_interruption_the_network_is_what_it_was(pair, monkeypatch, error):
    _, q = pair
    before, inside = weights(q), []

    def interrupted(*arguments):
        yield from list(augmented_batches(*arguments))[:3]
        inside.append(weights(q))
        raise error

    monkeypatch.setattr(distillation, "augmented_batches", interrupted)
    with pytest.raises(error):
        distill(q, X)
    assert changed(before, inside[0]) and not changed(before, weights(q))


def test_a_network_that_came_no_closer_is_what_it_was(pair):
    _, q = pair
    before = weights(q)
    said = r"did not bring 'small' closer .* lower learning rate than 30\."
    with pytest.warns(UserWarning, match=said):
        result = distill(q, X, steps=6, learning_rate=30.0)
    assert not result.kept and result.loss_last > result.loss_first
    assert not changed(before, weights(q))
    assert faq_keras.plan_of(q).settings.post_training is None
    assert "The loss did not fall" in str(result)


# ---------------------------------------------------------------------------- a real network


def test_it_helps_on_images_that_it_has_not_seen(data_dir):
    model, data = material.fashion_mnist(data_dir)
    x, held_out = data.x_train[:512], data.x_test[:1000]
    q = faq_keras.apply(model, 4, calibration_data=x)
    wanted = tf.nn.softmax(model.predict(held_out, verbose=0))

    def divergence():
        return float(np.mean(keras.losses.kl_divergence(wanted, tf.nn.softmax(q(held_out)))))

    before = divergence()
    distill(q, x, steps=60)
    assert divergence() < 0.7 * before
