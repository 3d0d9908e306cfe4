"""apply, plan_of, to_float, save and load: what a user of Keras expects of the quantized model."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import faq_keras
from faq_keras.fixed_point import kernel_exponent, quantize
from faq_keras.plan import QuantPlan
from tests import networks

layers = keras.layers


@pytest.fixture
def model():
    return networks.tiny_resnet()


@pytest.fixture
def x():
    return networks.images(48)


@pytest.fixture
def q(model, x):
    return faq_keras.apply(model, bits=4, calibration_data=x)


def test_float_model_is_left_untouched(model, x):
    before = [np.array(w) for w in model.get_weights()]
    config, prediction = model.get_config(), model.predict(x, verbose=0)
    faq_keras.apply(model, bits=4, calibration_data=x)
    assert model.get_config() == config
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert np.array_equal(model.predict(x, verbose=0), prediction)
    assert len(model.layers[1]._inbound_nodes) == 1


def test_summary_reads_like_the_deployed_graph(q):
    kinds = [type(layer).__name__ for layer in q.layers if "Input" not in type(layer).__name__]
    assert kinds.count("QuantizedConv2D") == 6
    assert kinds.count("QuantizedAdd") == 2
    assert set(kinds) == {
        "QuantizedConv2D",
        "QuantizedAdd",
        "QuantizedGlobalAveragePooling2D",
        "QuantizedDense",
    }


def test_every_tensor_lies_on_the_plans_grid(q, x):
    plan = faq_keras.plan_of(q)
    for layer in q.layers[2:]:
        values = keras.Model(q.inputs, layer.output).predict(x, verbose=0)
        codes = values / plan[layer.name].output.step
        assert np.array_equal(codes, np.round(codes)), layer.name
        assert codes.min() >= plan[layer.name].output.lowest
        assert codes.max() <= plan[layer.name].output.highest


def test_inference_kernels_are_the_quantizers_of_the_paper(model, x):
    policy = faq_keras.Policy(scales="paper")
    layer = faq_keras.apply(model, 4, calibration_data=x, policy=policy).get_layer("conv2d_1")
    kernel = np.asarray(layer.kernel_layer.kernel)
    exponent = kernel_exponent(kernel, 4, 4.12)
    folded = layer.fold()
    assert int(folded.kernel_exponent) == exponent
    alive = np.asarray(folded.kernel).any(axis=(0, 1, 2))
    expected = quantize(kernel, 4, exponent, signed=True)
    assert np.array_equal(np.asarray(folded.kernel)[..., alive], expected[..., alive])


def test_to_float_gives_the_float_model_back(model, q, x):
    f = faq_keras.to_float(q)
    assert [type(layer) for layer in f.layers] == [type(layer) for layer in model.layers]
    assert [layer.name for layer in f.layers] == [layer.name for layer in model.layers]
    assert np.array_equal(f.predict(x, verbose=0), model.predict(x, verbose=0))


def test_to_float_carries_the_fine_tuned_weights(q, x):
    faq_keras.fine_tune(q, (x, np.arange(48) % 5), "w8a8", epochs=1, verbose=0)
    f = faq_keras.to_float(q)
    tuned = q.get_layer("conv2d").kernel_layer.kernel
    assert np.array_equal(f.get_layer("conv2d").kernel, tuned)
    again = faq_keras.apply(f, plan=faq_keras.plan_of(q))
    assert np.array_equal(again.predict(x, verbose=0), q.predict(x, verbose=0))


def test_save_and_load_without_scopes(q, x, tmp_path):
    path = tmp_path / "m.keras"
    q.save(path)
    loaded = keras.saving.load_model(path)
    assert np.array_equal(loaded.predict(x, verbose=0), q.predict(x, verbose=0))
    assert faq_keras.plan_of(loaded) == faq_keras.plan_of(q)


def test_loading_needs_only_the_import(q, x, tmp_path):
    q.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", x)
    script = (
        "import keras, numpy as np, faq_keras\n"
        "m = keras.saving.load_model('m.keras')\n"
        "np.save('y.npy', m.predict(np.load('x.npy'), verbose=0))\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    assert np.array_equal(np.load(tmp_path / "y.npy"), q.predict(x, verbose=0))


def test_training_goes_on_after_loading(q, x, tmp_path):
    y = np.arange(48) % 5
    recipe = faq_keras.recipe("w4a4", epochs=1, learning_rate=0.01, batch_size=16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    q.compile(recipe.optimizer, loss, jit_compile=False)
    q.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    q.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for network in (q, loaded):
        network.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    for a, b in zip(q.get_weights(), loaded.get_weights(), strict=True):
        assert np.array_equal(a, b)


def test_training_uses_batch_statistics_and_moves_them(q, x):
    layer = q.get_layer("conv2d")
    before = np.array(layer.batch_norm_layer.moving_mean)
    q(x, training=False)
    assert np.array_equal(before, layer.batch_norm_layer.moving_mean)
    q(x, training=True)
    assert not np.array_equal(before, layer.batch_norm_layer.moving_mean)


def test_every_trainable_weight_gets_a_gradient(q, x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(q(x, training=True) ** 2)
    gradients = tape.gradient(loss, [w.value for w in q.trainable_weights])
    assert all(g is not None and np.isfinite(g).all() for g in gradients)
    assert len(gradients) == len(networks.tiny_resnet().trainable_weights)


def test_frozen_batch_norm_trains_in_the_folded_form(q, x):
    layer = q.get_layer("conv2d")
    layer.batch_norm_layer.trainable = False
    before = np.array(layer.batch_norm_layer.moving_mean)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(q.get_layer("image_quantized")(x), training=True) ** 2)
    (gradient,) = tape.gradient(loss, [layer.kernel_layer.kernel.value])
    assert np.abs(gradient).max() > 0
    assert np.array_equal(before, layer.batch_norm_layer.moving_mean)


@pytest.mark.parametrize("bits", [8, 4, (4, 8), [2, 4]])
def test_bits_reach_the_plan(model, x, bits):
    plan = faq_keras.plan_of(faq_keras.apply(model, bits, calibration_data=x))
    weights, activations = bits if isinstance(bits, tuple | list) else (bits, bits)
    assert plan["conv2d_1"].kernel.bits == weights
    assert plan["conv2d_1"].output.bits == activations
    assert plan["conv2d"].kernel.bits == plan["dense"].kernel.bits == 8  # first and last
    assert plan["add_1"].output.bits == 8  # the last ReLU
    branch = plan["conv2d_2"].output  # linear, into an addition
    assert (branch.bits, branch.signed) == (8, True)
    assert plan["dense"].output.bits == 16


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 4.0, "4", None, True, (4, 9), (4,), (4, 4, 4)])
def test_bits_out_of_range_are_refused(model, x, bits):
    with pytest.raises(ValueError, match=r"from 2 to 8|one width or"):
        faq_keras.apply(model, bits, calibration_data=x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "calibration_data is missing"),
        ({"calibration_data": np.zeros((4, 8, 8, 3)), "logits_bits": 32}, "logits_bits"),
        ({"calibration_data": np.zeros((4, 8, 8, 3)), "percentile": 101}, "percentile"),
        ({"calibration_data": np.zeros((4, 8, 8, 3)), "calibration_batches": 0}, "at least 1"),
    ],
)
def test_bad_arguments_are_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        faq_keras.apply(model, 4, **arguments)


def test_dead_activations_are_named(x):
    model = networks.tiny_resnet()
    dead = model.get_layer("batch_normalization_1")
    dead.beta.assign(np.full(8, -1e3))
    with pytest.raises(ValueError, match=r"\(dead\): Layer 'conv2d_1' \(Conv2D\)"):
        faq_keras.apply(model, 4, calibration_data=x)


def test_a_plan_replaces_calibration(model, q, x, tmp_path):
    faq_keras.plan_of(q).save(tmp_path / "plan.json")
    again = faq_keras.apply(model, plan=QuantPlan.load(tmp_path / "plan.json"))
    assert faq_keras.plan_of(again) == faq_keras.plan_of(q)
    assert np.array_equal(again.predict(x, verbose=0), q.predict(x, verbose=0))


def test_a_foreign_plan_is_refused(q):
    inputs = keras.Input((8, 8, 3), name="image")
    other = keras.Model(inputs, layers.Dense(5, name="dense")(layers.Flatten()(inputs)))
    with pytest.raises(ValueError, match=r"does not fit the model.*'conv2d' \(conv\)"):
        faq_keras.apply(other, plan=faq_keras.plan_of(q))


def test_float_models_carry_no_plan(model):
    with pytest.raises(ValueError, match="carries no quantization plan"):
        faq_keras.plan_of(model)
    with pytest.raises(ValueError, match="carries no quantization plan"):
        faq_keras.to_float(model)


def test_output_structures_are_kept(x):
    inputs = keras.Input((8, 8, 3), name="image")
    features = networks.conv_bn_relu(inputs, 4)
    outputs = {
        "a": layers.Dense(2, name="a")(layers.GlobalAveragePooling2D()(features)),
        "b": layers.Dense(3, name="b")(layers.Flatten()(features)),
    }
    q = faq_keras.apply(keras.Model(inputs, outputs), 8, calibration_data=x)
    assert set(q.predict(x, verbose=0)) == {"a", "b"}


@pytest.mark.parametrize("flag", [None, "0"])
def test_importing_leaves_keras_and_the_environment_alone(flag):
    script = (
        "import os, faq_keras, tensorflow as tf\n"
        "print(os.environ.get('TF_USE_LEGACY_KERAS'), tf.keras.__version__[0])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    if flag is not None:
        environment["TF_USE_LEGACY_KERAS"] = flag
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(flag), "3"]


def test_no_module_but_compat_imports_tfmot():
    root = pathlib.Path(faq_keras.__file__).parent
    offenders = [
        path.name
        for path in root.rglob("*.py")
        if "import tensorflow_model_optimization" in path.read_text() and path.name != "compat.py"
    ]
    assert offenders == []


def test_sequential_models(x, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    q = faq_keras.apply(model, 8, calibration_data=x)
    np.testing.assert_allclose(q.predict(x, verbose=0), model.predict(x, verbose=0), atol=0.05)
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x).mismatches == 0
    f = faq_keras.to_float(q)
    np.testing.assert_allclose(f.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


def test_the_plan_remembers_the_recipe(q, x, tmp_path):
    faq_keras.fine_tune(q, (x, np.arange(48) % 5), "w4a4", epochs=1, verbose=0, workdir=tmp_path)
    assert faq_keras.plan_of(q).settings.recipe == "w4a4"
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert faq_keras.plan_of(loaded) == QuantPlan.load(tmp_path / "plan.json")
