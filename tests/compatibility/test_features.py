"""What scripts do with Keras models works with quantized ones, in Keras 3 and in tf_keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import faq_keras
from tests import networks
from tests.compatibility.libraries import quantized, small_net

X, Y = networks.images(32), np.arange(32) % 3


@pytest.fixture(scope="module")
def plan(library):
    return faq_keras.plan_of(quantized(library))


@pytest.fixture
def q(library, plan):
    """The small network, quantized, always with the same weights."""
    return quantized(library, plan)


@pytest.fixture(scope="module")
def expected(library, plan):
    """What `q` computes."""
    return quantized(library, plan).predict_on_batch(X)


def compiled(library, model, rate=0.05, **arguments):
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    arguments = {"metrics": ["accuracy"], "jit_compile": False, **arguments}
    model.compile(library.optimizers.SGD(rate, momentum=0.9), loss, **arguments)
    return model


def test_fit_evaluate_predict(library, q, expected):
    compiled(library, q)
    before = q.evaluate(X, Y, verbose=0)
    history = q.fit(X, Y, batch_size=16, epochs=3, validation_data=(X, Y), verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["val_loss"][-1] == pytest.approx(q.evaluate(X, Y, verbose=0)[0], rel=1e-5)
    assert before[0] > history["val_loss"][-1]
    assert not np.array_equal(q.predict(X, verbose=0), expected)
    assert np.array_equal(q.predict(X, verbose=0), np.asarray(q(X)))


def test_custom_train_step(library, q, tmp_path):
    class Halved(library.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                logits = self(x, training=True)
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int32), logits)
                )
            variables = self.trainable_variables
            gradients = tape.gradient(loss, variables)
            self.optimizer.apply_gradients(
                [(g / 2, v) for g, v in zip(gradients, variables, strict=True)]
            )
            return {"own_loss": loss}

    model = Halved(q.inputs, q.outputs, name="custom")
    compiled(library, model, metrics=None)
    losses = model.fit(X, Y, epochs=4, verbose=0).history["own_loss"]
    assert losses[-1] < losses[0]
    report = faq_keras.export_tflite(model, tmp_path / "m.tflite", verify=X[:4])
    assert report.mismatches == 0
    assert faq_keras.plan_of(model) == faq_keras.plan_of(q)


def test_callbacks(library, q, tmp_path):
    seen = []
    last = tmp_path / "last.keras"
    callbacks = [
        library.callbacks.ModelCheckpoint(str(last)),
        library.callbacks.EarlyStopping(monitor="loss", patience=1, min_delta=100.0),
        library.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch)),
        library.callbacks.ReduceLROnPlateau(monitor="loss", patience=1, min_delta=100.0),
        *faq_keras.recipe("w4a4", epochs=5).callbacks,
    ]
    compiled(library, q).fit(X, Y, epochs=5, callbacks=callbacks, verbose=0)
    assert seen == [0, 1]
    loaded = library.saving.load_model(last)
    assert np.array_equal(loaded.predict_on_batch(X), q.predict_on_batch(X))


def test_summary(q):
    lines = []
    q.summary(line_length=120, print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(lines)
    for kind in ("QuantizedInput", "QuantizedConv2D", "QuantizedDense"):
        assert kind in text


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_save_and_load(library, q, suffix, tmp_path):
    compiled(library, q).fit(X, Y, epochs=1, verbose=0)
    path = tmp_path / f"a model ü.{suffix}"
    q.save(path)
    # Keras 3 cannot train any compiled model on that comes from .h5, float ones neither.
    resumes = suffix == "keras" or library is not keras
    loaded = library.saving.load_model(path, compile=resumes)
    assert np.array_equal(loaded.predict_on_batch(X), q.predict_on_batch(X))
    assert faq_keras.plan_of(loaded) == faq_keras.plan_of(q)
    for model in (q, loaded) if resumes else ():
        model.fit(X, Y, epochs=1, shuffle=False, verbose=0)
    for a, b in zip(q.get_weights(), loaded.get_weights(), strict=True):
        assert np.array_equal(a, b)


def test_save_weights(q, library, plan, tmp_path):
    path = tmp_path / "q.weights.h5"
    compiled(library, q).fit(X, Y, epochs=1, verbose=0)
    q.save_weights(path)
    other = quantized(library, plan)
    other.load_weights(path)
    assert np.array_equal(other.predict_on_batch(X), q.predict_on_batch(X))


def test_export_to_saved_model(q, expected, tmp_path):
    q.export(str(tmp_path / "served"))
    served = tf.saved_model.load(str(tmp_path / "served"))
    assert np.array_equal(np.asarray(served.serve(X)), expected)


def test_saved_model_by_tf_function(q, expected, tmp_path):
    class Server(tf.Module):
        def __init__(self):
            super().__init__()
            self.model = q

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3])])
        def __call__(self, images):
            return self.model(images, training=False)

    tf.saved_model.save(Server(), str(tmp_path / "saved"))
    assert np.array_equal(tf.saved_model.load(str(tmp_path / "saved"))(X), expected)


def test_clone_model(library, q, expected):
    clone = library.models.clone_model(q)
    assert faq_keras.plan_of(clone) == faq_keras.plan_of(q)
    clone.set_weights(q.get_weights())
    assert np.array_equal(clone.predict_on_batch(X), expected)


def test_layers_that_are_not_trainable(library, q):
    q.get_layer("conv").kernel_layer.trainable = False
    frozen = np.array(q.get_layer("conv").kernel)
    head = np.array(q.get_layer("head").kernel)
    gamma = np.array(q.get_layer("conv").batch_norm_layer.gamma)
    compiled(library, q).fit(X, Y, epochs=1, verbose=0)
    assert np.array_equal(q.get_layer("conv").kernel, frozen)
    assert not np.array_equal(q.get_layer("head").kernel, head)
    assert not np.array_equal(q.get_layer("conv").batch_norm_layer.gamma, gamma)


def test_frozen_layers_learn_again(library, plan):
    model = small_net(library)
    for layer in model.layers:
        layer.trainable = layer.name == "head"
    q = faq_keras.apply(model, plan=plan)
    assert [layer.name for layer in q.layers if layer.trainable and layer.weights] == ["head"]
    assert len(q.trainable_weights) == 2
    for layer in q.layers:
        layer.trainable = True
    assert len(q.trainable_weights) == len(quantized(library, plan).trainable_weights)
    kernel = np.array(q.get_layer("conv").kernel)
    compiled(library, q).fit(X, Y, epochs=1, verbose=0)
    assert not np.array_equal(q.get_layer("conv").kernel, kernel)


def test_class_weights(library, q, plan):
    weights = {0: 5.0, 1: 1.0, 2: 0.0}
    other = quantized(library, plan)
    compiled(library, q).fit(X, Y, class_weight=weights, shuffle=False, verbose=0)
    sample_weight = np.array([weights[label] for label in Y])
    compiled(library, other).fit(X, Y, sample_weight=sample_weight, shuffle=False, verbose=0)
    for a, b in zip(q.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_multiple_outputs(library, tmp_path):
    layers = library.layers
    image = library.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    pooled = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = {"a": layers.Dense(3, name="a")(pooled), "b": layers.Dense(1, name="b")(pooled)}
    q = faq_keras.apply(library.Model(image, outputs), calibration_data=X)
    cross_entropy = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    q.compile("sgd", {"a": cross_entropy, "b": "mse"}, loss_weights={"a": 1.0, "b": 0.5})
    q.fit(X, {"a": Y, "b": Y.astype("float32")}, verbose=0)
    assert set(q.predict_on_batch(X)) == {"a", "b"}
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=X[:4]).mismatches == 0


def test_run_eagerly(library, q, plan):
    other = quantized(library, plan)
    compiled(library, q, run_eagerly=True).fit(X, Y, shuffle=False, verbose=0)
    compiled(library, other).fit(X, Y, shuffle=False, verbose=0)
    for a, b in zip(q.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_xla_on_and_off(library, q, expected):
    compiled(library, q, jit_compile=True)
    assert np.array_equal(q.predict(X, verbose=0), expected)
    losses = q.fit(X, Y, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_in_float32(library, policy, expected, tmp_path):
    """The quantized model of a mixed-precision one is exact, because it is a float32 model."""
    library.mixed_precision.set_global_policy(policy)
    try:
        q = quantized(library)
        assert np.array_equal(q.predict_on_batch(X), expected)
        assert {layer.compute_dtype for layer in q.layers[1:]} == {"float32"}
        if policy == "mixed_float16":  # which has loss scaling
            history = faq_keras.fine_tune(q, (X, Y), "w4a4", epochs=1, verbose=0).history
            assert np.isfinite(history["loss"]).all()
        assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=X[:4]).mismatches == 0
    finally:
        library.mixed_precision.set_global_policy("float32")


def test_channels_first_is_refused(library):
    layers = library.layers
    image = library.Input((3, 8, 8), name="image")
    x = layers.Conv2D(4, 3, data_format="channels_first", name="conv")(image)
    x = layers.GlobalAveragePooling2D(data_format="channels_first", name="pool")(x)
    model = library.Model(image, layers.Dense(2, name="head")(x))
    with pytest.raises(ValueError, match="channels_first: rebuild the model with") as error:
        faq_keras.apply(model, calibration_data=np.zeros((4, 3, 8, 8), "float32"))
    assert "'conv'" in str(error.value) and "'pool'" in str(error.value)


def test_to_float(library, q):
    compiled(library, q).fit(X, Y, verbose=0)
    f = faq_keras.to_float(q)
    assert isinstance(f, library.Model)
    assert [layer.name for layer in f.layers[1:]] == ["conv", "bn", "relu", "pool", "head"]
    assert np.array_equal(f.get_layer("conv").kernel, q.get_layer("conv").kernel)
    again = faq_keras.apply(f, plan=faq_keras.plan_of(q))
    assert np.array_equal(again.predict_on_batch(X), q.predict_on_batch(X))


def test_fine_tune_leaves_a_whole_run(library, q, tmp_path):
    recipe = faq_keras.recipe("w4a4", epochs=2, learning_rate=0.05, batch_size=16)
    history = faq_keras.fine_tune(
        q, (X, Y), recipe, validation_data=(X, Y), workdir=tmp_path, verbose=0
    )
    assert set(history.history) >= {"loss", "accuracy", "val_loss", "learning_rate"}
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert list((tmp_path / "tensorboard").rglob("events*"))
    loaded = library.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded.predict_on_batch(X), q.predict_on_batch(X))
    assert int(loaded.optimizer.iterations) == 4
    assert faq_keras.plan_of(loaded) == faq_keras.QuantPlan.load(tmp_path / "plan.json")


def test_divergence_is_named(library, q):
    recipe = faq_keras.recipe("w4a4", epochs=3, learning_rate=1e30, batch_size=16)
    with pytest.raises(ValueError, match=r"diverged in epoch .* layer '"):
        faq_keras.fine_tune(q, (X, Y), recipe, verbose=0)
