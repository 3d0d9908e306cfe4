"""fine_tune end to end: any Keras 3 model, arrays or datasets, and a folder that tells it all."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import faq_keras
from faq_keras.training.callbacks import TrainingDivergedError
from faq_keras.training.optimizer import SGD
from faq_keras.training.recipes import recipe
from faq_keras.training.trainer import fine_tune

CLASSES = 3


def small_net(softmax=True):
    x = keras.Input((8, 8, 1))
    y = keras.layers.Conv2D(8, 3, use_bias=False, name="conv")(x)
    y = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="bn")(y))
    y = keras.layers.GlobalAveragePooling2D(name="pool")(y)
    y = keras.layers.Dense(CLASSES, activation="softmax" if softmax else None, name="head")(y)
    return keras.Model(x, y, name="small")


def images(count=96, seed=0):
    """Images whose class is their stripes: none, horizontal, vertical."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, size=count).astype("int32")
    x = random.normal(0, 0.3, size=(count, 8, 8, 1)).astype("float32")
    x[labels == 1, ::2] += 1
    x[labels == 2, :, ::2] += 1
    return x, labels


def fast(epochs=3):
    return recipe("float", epochs=epochs, learning_rate=0.05, batch_size=16)


@pytest.mark.parametrize(
    ("labels", "kind", "softmax"),
    [
        ("class numbers", "arrays", True),
        ("class numbers", "dataset", False),
        ("one-hot", "arrays", False),
        ("one-hot", "dataset", True),
    ],
)
def test_a_float_model_learns(labels, kind, softmax):
    x, y = images()
    y = keras.utils.to_categorical(y, CLASSES) if labels == "one-hot" else y
    data = (x, y)
    if kind == "dataset":
        data = tf.data.Dataset.from_tensor_slices(data).shuffle(96, seed=1).batch(16)
    model = small_net(softmax)
    history = fine_tune(model, data, fast(4), validation_data=data, verbose=0)
    assert history.history["accuracy"][-1] > 0.8
    assert history.history["loss"][-1] < 0.8 * history.history["loss"][0]
    assert len(history.history["val_accuracy"]) == 4
    assert type(model.optimizer) is SGD
    assert model.jit_compile is False


def test_the_folder_tells_the_whole_run(tmp_path):
    folder = tmp_path / "new" / "run"
    model = small_net()
    history = fine_tune(
        model, images(), fast(), validation_data=images(), workdir=folder, verbose=0
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    for key in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        assert [line[key] for line in lines] == pytest.approx(history.history[key])

    loaded = keras.saving.load_model(folder / "model.keras")
    x, _ = images()
    assert np.array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert int(loaded.optimizer.iterations) == 3 * 96 // 16

    assert events(folder / "tensorboard" / "train")["epoch_accuracy"] == pytest.approx(
        history.history["accuracy"]
    )
    assert len(events(folder / "tensorboard" / "validation")["epoch_loss"]) == 3
    assert not (folder / "plan.json").exists()
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "metrics.jsonl",
        "model.keras",
        "tensorboard",
    ]


def events(folder):
    """Scalars by tag, in order, of a folder of TensorBoard events."""
    scalars = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
                scalars.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    return scalars


def test_a_quantized_model_leaves_its_plan(tmp_path):
    x, y = images()
    q = faq_keras.apply(small_net(), bits=4, calibration_data=x)
    fine_tune(q, (x, y), "w4a4", epochs=1, workdir=tmp_path, verbose=0)
    assert faq_keras.QuantPlan.load(tmp_path / "plan.json") == faq_keras.plan_of(q)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded.predict(x, verbose=0), q.predict(x, verbose=0))


def test_float_and_quantized_model_take_the_same_steps():
    x, y = images()
    q = faq_keras.apply(small_net(), bits=8, calibration_data=x)
    history = [fine_tune(m, (x, y), "w8a8", epochs=2, verbose=0) for m in (small_net(), q)]
    rates = [h.history["learning_rate"] for h in history]
    assert rates[0] == rates[1] == pytest.approx([1e-4, 1e-4])


def test_a_name_and_epochs_choose_the_recipe():
    model = small_net()
    history = fine_tune(model, images(32), "w4a4", epochs=2, verbose=0)
    assert history.history["learning_rate"] == pytest.approx([0.0015, 0.0015 * 0.936**55])
    assert model.optimizer.weight_decay == pytest.approx(0.5e-4)
    assert int(model.optimizer.iterations) == 2  # 32 images are one batch of the recipe's 256


def test_loss_metrics_and_callbacks_can_be_given():
    seen = []
    history = fine_tune(
        small_net(),
        images(32),
        fast(2),
        loss="sparse_categorical_crossentropy",
        metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")],
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: seen.append(logs))],
        verbose=0,
    )
    assert "top2" in history.history
    assert "accuracy" not in history.history
    assert "learning_rate" in seen[0]


def test_an_endless_dataset_takes_its_steps_per_epoch():
    data = tf.data.Dataset.from_tensor_slices(images(32)).repeat().batch(8)
    model = small_net()
    fine_tune(model, data, fast(2), steps_per_epoch=3, verbose=0)
    assert int(model.optimizer.iterations) == 6


def test_a_dataset_of_unknown_shapes_is_refused():
    data = tf.data.Dataset.from_generator(lambda: iter([images(8)]), (tf.float32, tf.int32))
    with pytest.raises(ValueError, match=r"train_data: .*output_signature"):
        fine_tune(small_net(), data, fast(1), verbose=0)


def test_without_a_terminal_the_progress_is_plain_lines(capfd):
    fine_tune(small_net(), images(32), fast(2))
    printed = capfd.readouterr().out
    assert printed.count("accuracy:") == 2
    assert "\b" not in printed
    assert "\r" not in printed


def test_a_diverging_run_leaves_its_log_and_no_model(tmp_path):
    with pytest.raises(TrainingDivergedError, match="'small' diverged in epoch"):
        fine_tune(
            small_net(),
            images(),
            recipe("float", epochs=3, learning_rate=1e30, batch_size=16),
            workdir=tmp_path,
            verbose=0,
        )
    assert not (tmp_path / "model.keras").exists()


X, Y = images(16)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X, "pair of arrays.*Received: ndarray"),
        ((X, Y[:3]), r"one length >= 1.*\(16, 8, 8, 1\).*\(3,\)"),
        ((X[:0], Y[:0]), "one length >= 1"),
        ((X[:, :4], Y), r"train_data: .*'small' takes.*\(None, 8, 8, 1\).*\(None, 4, 8, 1\)"),
        ((X, Y.reshape(8, 2).repeat(2, axis=0)), "Labels of shape"),
        (tf.data.Dataset.from_tensor_slices((X, Y)), r"train_data: .*Is \.batch\(n\) missing"),
        (tf.data.Dataset.from_tensor_slices(X).batch(4), r"batches of \(images, labels\)"),
        ("images.npz", "Received: str"),
    ],
)
def test_data_that_does_not_fit_is_named(data, message):
    with pytest.raises(ValueError, match=message):
        fine_tune(small_net(), data, fast(1), verbose=0)


def test_validation_data_is_checked_before_the_training():
    model = small_net()
    with pytest.raises(ValueError, match="validation_data: the model 'small' takes"):
        fine_tune(model, (X, Y), fast(1), validation_data=(X[:, :4], Y), verbose=0)
    assert not model.compiled


def test_unknown_recipes_are_refused():
    with pytest.raises(ValueError, match="No recipe is called 'w3'"):
        fine_tune(small_net(), (X, Y), "w3")
