"""The teacher is the given network, the remembered one, or the float layers while unchanged."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tf_keras

import faq_keras
from faq_keras.post_training.teachers import remember, teacher_of
from faq_keras.rewrite.keras3 import record
from tests.networks import images, tiny_resnet

LIBRARIES = pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
X = images(8)


def quantized(library=keras):
    model = tiny_resnet(library=library)
    return model, faq_keras.apply(model, 4, calibration_data=X)


def reloaded(q, folder, library=keras):
    q.save(folder / "q.keras")
    return library.models.load_model(folder / "q.keras")


def outputs(model):
    return np.asarray(model(X, training=False))


def test_apply_remembers_the_model_that_it_quantized():
    model, q = quantized()
    found = teacher_of(q)
    assert found.model is model
    assert str(found) == "the float model 'tiny_resnet' that was quantized"


def test_of_tf_keras_a_twin_is_remembered_that_computes_the_same():
    model, q = quantized(tf_keras)
    np.testing.assert_allclose(outputs(teacher_of(q).model), outputs(model), atol=1e-5)


def test_of_mixed_precision_a_twin_in_float32_is_remembered():
    model = tiny_resnet()
    half = keras.models.clone_model(
        model,
        clone_function=lambda layer: type(layer).from_config(
            layer.get_config() | {"dtype": "mixed_bfloat16"}
        ),
    )
    half.set_weights(model.get_weights())
    q = faq_keras.apply(half, 4, calibration_data=X)
    assert half.layers[1].compute_dtype == "bfloat16"
    np.testing.assert_allclose(outputs(teacher_of(q).model), outputs(model), atol=1e-5)


@LIBRARIES
def test_the_float_model_lives_as_long_as_the_quantized_one(library):
    model, q = quantized(library)
    twin = teacher_of(q).model
    reference = weakref.ref(twin)
    del model, twin
    gc.collect()
    assert reference() is not None
    del q
    keras.utils.clear_session()
    tf_keras.backend.clear_session()
    gc.collect()
    assert reference() is None


@LIBRARIES
def test_a_loaded_model_is_taught_by_its_own_float_layers(library, tmp_path):
    model, q = quantized(library)
    loaded = reloaded(q, tmp_path, library)
    found = teacher_of(loaded)
    assert isinstance(found.model, library.Model) and found.model is not loaded
    assert str(found) == "the float layers that 'tiny_resnet' holds (to_float)"
    np.testing.assert_allclose(outputs(found.model), outputs(model), atol=1e-5)


def test_the_copy_keeps_its_weights_when_the_quantized_model_changes(tmp_path):
    model, q = quantized()
    loaded = reloaded(q, tmp_path)
    teacher = teacher_of(loaded).model
    for variable in loaded.trainable_variables:
        variable.assign(variable * 0.5)
    np.testing.assert_allclose(outputs(teacher), outputs(model), atol=1e-5)


@pytest.mark.parametrize("method", ["reconstruct", "distill"])
@LIBRARIES
def test_changed_float_layers_teach_nothing(library, method, tmp_path):
    model, q = quantized(library)
    record(q, post_training=method)
    assert faq_keras.plan_of(q).settings.post_training == method
    assert teacher_of(q).model is not None  # remembered
    loaded = reloaded(q, tmp_path, library)
    assert faq_keras.plan_of(loaded).settings.post_training == method
    with pytest.raises(ValueError, match=f"'tiny_resnet' went through {method} .*teacher=model"):
        teacher_of(loaded)
    assert teacher_of(loaded, model).model is model


def test_a_given_teacher_comes_before_the_remembered_one():
    model, q = quantized()
    remember(q, model)
    other = keras.models.clone_model(model)
    found = teacher_of(q, other)
    assert found.model is other
    assert str(found) == "the given model 'tiny_resnet'"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: tiny_resnet(shape=(10, 10, 3)),
            r"has the inputs \(None, 10, 10, 3\), the quantized model 'tiny_resnet' "
            r"\(None, 8, 8, 3\)",
        ),
        (lambda: tiny_resnet(classes=7), r"has the outputs \(None, 7\), .* \(None, 5\)"),
        (lambda: keras.Sequential([keras.layers.Flatten()], name="empty"), "'empty' is not built"),
        (lambda: "resnet18.keras", "Expected a Keras model, received str"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named_with_the_model(other, message):
    _, q = quantized()
    with pytest.raises(ValueError, match=message):
        teacher_of(q, other())


def test_a_teacher_of_open_size_fits():
    _, q = quantized()
    inputs = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    open_size = keras.Model(inputs, keras.layers.Dense(5)(pooled))
    assert teacher_of(q, open_size).model is open_size


def test_no_model_is_its_own_teacher():
    model, q = quantized()
    with pytest.raises(ValueError, match="cannot be its own teacher"):
        teacher_of(q, q)
    with pytest.raises(ValueError, match=r"not made by faq_keras.apply"):
        teacher_of(model)


def test_a_loaded_network_may_be_reconstructed_and_then_distilled(tmp_path):
    x = images(64)
    model = tiny_resnet()
    faq_keras.apply(model, (3, 8), calibration_data=x).save(tmp_path / "q.keras")
    q = keras.saving.load_model(tmp_path / "q.keras")
    faq_keras.reconstruct(q, x)
    teacher = teacher_of(q).model
    assert np.array_equal(teacher.predict(x, verbose=0), model.predict(x, verbose=0))
