"""Users' own layers: exact once they are registered, refused with a hint until then."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.custom_layers import register, same
from faq_keras.integer.lowering import channelwise
from faq_keras.quantize_configs import LayerQuantizeConfig
from tests import networks

layers = keras.layers
EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "custom_layer.py"
RUNTIMES = ("xnnpack", "builtin", "reference", "tflm")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("custom_layer", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scaled(example, bits=4, start=None, vector=False):
    """A quantized network with a LayerScale, and inputs for it."""
    inputs = keras.Input((6, 6, 2), name="image")
    x = networks.conv_bn_relu(inputs, 4)
    x = layers.GlobalAveragePooling2D()(x) if vector else x
    x = example.DropPath(0.5, name="drop")(example.LayerScale(name="scale")(x))
    x = x if vector else layers.GlobalAveragePooling2D()(x)
    model = networks.randomize(keras.Model(inputs, layers.Dense(3)(x)))
    if start is not None:
        model.get_layer("scale").scale.assign(start)
    x = networks.images(16, (6, 6, 2))
    return faq_keras.apply(model, bits, calibration_data=x), x, model


def test_the_example_is_exact(example, capsys):
    example.main()
    assert "0 mismatches of 354,304 values" in capsys.readouterr().out


@pytest.mark.parametrize("vector", [False, True], ids=["map", "vector"])
@pytest.mark.parametrize("bits", [8, (2, 4)])
def test_a_registered_layer_is_exact_on_every_runtime(example, vector, bits, tmp_path):
    q, x, _ = scaled(example, bits, [0.7, -0.2, 0.0, 1.1], vector)
    faq_keras.export_tflite(q, tmp_path / "m.tflite", "int4", verify=None)
    report = faq_keras.verify(q, tmp_path / "m.tflite", x, RUNTIMES)
    assert [run.runtime for run in report.runs] == list(RUNTIMES)
    assert report.mismatches == 0 and "scale" in {t.name for t in report.runs[0].results}


def test_scales_near_one_stay_near_one(example):
    """Their spread is no measure of their size."""
    q, x, model = scaled(example, 8, [1.0, 1.01, 0.99, 1.0])
    np.testing.assert_allclose(q.predict(x, verbose=0), model.predict(x, verbose=0), atol=0.1)


def test_the_plan_names_the_layer_and_its_bits(example):
    q, _, _ = scaled(example)
    entry = faq_keras.plan_of(q)["scale"]
    assert (entry.kind, entry.kernel.bits) == ("custom:example>LayerScale", 4)
    assert (entry.output.bits, entry.output.signed) == (8, True)
    assert "by the layer's quantize config" in str(faq_keras.plan_of(q))


def test_training_moves_the_weights_and_drops_paths(example):
    q, x, _ = scaled(example, 8, [0.5, 0.6, 0.7, 0.8])
    assert np.array_equal(q(x), q(x))
    assert not np.array_equal(q(x, training=True), q(x, training=True))
    before = np.array(q.get_layer("scale").float_layers[0].scale)
    faq_keras.fine_tune(
        q, (x, np.arange(16) % 3), faq_keras.recipe("w8a8", epochs=1, learning_rate=0.1), verbose=0
    )
    assert (np.array(q.get_layer("scale").float_layers[0].scale) != before).any()


def test_the_float_model_has_the_layer_again(example):
    q, x, model = scaled(example)
    f = faq_keras.to_float(q)
    assert isinstance(f.get_layer("scale"), example.LayerScale)
    np.testing.assert_allclose(f.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


class Unknown(layers.Layer):
    def call(self, inputs):
        return inputs


@keras.saving.register_keras_serializable("test_custom_layers")
class Known(layers.Layer):
    def call(self, inputs):
        return inputs


@keras.saving.register_keras_serializable("test_custom_layers")
class Fickle(layers.Layer):
    def call(self, inputs):
        return inputs + 0.0


@keras.saving.register_keras_serializable("test_custom_layers")
class Joining(layers.Layer):
    def call(self, inputs):
        return inputs[0] + inputs[1]


def test_unregistered_layers_are_refused_together_with_the_hint(example):
    inputs = keras.Input((4, 4, 2))
    x = Unknown(name="first")(networks.conv_bn_relu(inputs, 3))
    model = keras.Model(inputs, Unknown(name="second")(layers.Flatten()(x)))
    with pytest.raises(ValueError, match=r"'first' \(Unknown\)[^$]*'second' \(Unknown\)") as error:
        faq_keras.apply(model, 8, calibration_data=networks.images(4, (4, 4, 2)))
    assert "faq_keras.register(TheLayer, ...)" in str(error.value)


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        (Unknown, {}, "Unknown is unknown to Keras.*register_keras_serializable"),
        (keras.layers.Conv2D, {}, "Conv2D is supported already"),
        (Known(), {}, "Only classes of Keras 3 layers"),
        (dict, {}, "Only classes of Keras 3 layers"),
        (Known, {"lowering": None}, "must be a function"),
        (Known, {"quantize_config": dict}, "must be a subclass of .*LayerQuantizeConfig"),
    ],
)
def test_what_cannot_be_registered(layer, options, message):
    with pytest.raises(ValueError, match=message):
        register(layer, **{"lowering": same, **options})


def fickle_network():
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, layers.Flatten()(Fickle(name="fickle")(inputs)))
    return model, networks.images(4, (4, 4, 2))


def test_registering_again_replaces(tmp_path):
    model, x = fickle_network()
    register(Fickle, quantize_config=LayerQuantizeConfig, lowering=lambda b, layer, i: i[0])
    q = faq_keras.apply(model, 8, calibration_data=x)
    with pytest.raises(
        ValueError, match=r"gives the tensor 'keras_tensor\w*|must have the layer's"
    ):
        faq_keras.export_tflite(q, tmp_path / "m.tflite")
    register(Fickle, lowering=same)
    q = faq_keras.apply(model, 8, calibration_data=x)
    assert "fickle" not in faq_keras.plan_of(q)
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite").mismatches == 0


def test_a_lowering_that_computes_something_else_never_gets_a_file(example, tmp_path):
    def wrong(builder, layer, inputs):
        constants = example.LayerConstants(np.full((2, 1, 1), 2), np.zeros(2, np.int64), np.ones(2))
        return channelwise(builder, layer, inputs[0], constants)

    register(Fickle, quantize_config=LayerQuantizeConfig, lowering=wrong)
    model, x = fickle_network()
    q = faq_keras.apply(model, 8, calibration_data=x)
    with pytest.raises(faq_keras.ParityError, match="op 'fickle'"):
        faq_keras.export_tflite(q, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def test_a_layer_that_reads_several_tensors_is_refused():
    register(Joining, lowering=same)
    inputs = keras.Input((4, 4, 2))
    x = networks.conv_bn_relu(inputs, 3)
    model = keras.Model(inputs, layers.Flatten()(Joining(name="join")([x, x])))
    with pytest.raises(ValueError, match=r"'join' \(Joining\) reads several tensors"):
        faq_keras.apply(model, 8, calibration_data=networks.images(4, (4, 4, 2)))


def test_loading_before_registering_says_so(example, tmp_path, monkeypatch):
    q, x, _ = scaled(example)
    q.save(tmp_path / "q.keras")
    assert np.array_equal(keras.saving.load_model(tmp_path / "q.keras")(x), q(x))
    monkeypatch.delitem(faq_keras.custom_layers.QUANTIZE_CONFIGS, "custom:example>LayerScale")
    with pytest.raises((ValueError, TypeError), match=r"call faq_keras\.register for it before"):
        keras.saving.load_model(tmp_path / "q.keras")
