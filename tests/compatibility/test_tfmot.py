"""`quantize_apply` with a `FAQScheme` makes what `apply` makes; annotations of single layers."""

import dataclasses

import keras
import numpy as np
import pytest
import tf_keras

import faq_keras
from faq_keras.compat import QuantizeConfig, tfmot
from faq_keras.quantize_configs import KernelQuantizeConfig, quantize_config
from tests import networks

quantization = tfmot.quantization.keras
X = networks.images(16)


class Own(QuantizeConfig):
    """A quantize config of the user's own: 8-bit weights by tfmot's quantizer."""

    def get_weights_and_quantizers(self, layer):
        quantizer = quantization.quantizers.LastValueQuantizer(
            num_bits=8, per_axis=False, symmetric=True, narrow_range=True
        )
        return [(layer.kernel, quantizer)]

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_weights(self, layer, quantize_weights):
        layer.kernel = quantize_weights[0]

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    layers = tf_keras.layers
    image = tf_keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, use_bias=False, name="first")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.Conv2D(4, 3, activation="relu", name="second")(x)
    x = layers.Conv2D(4, 1, activation="relu", name="third")(x)
    x = layers.Dense(3, name="head")(layers.GlobalAveragePooling2D(name="pool")(x))
    return networks.randomize(tf_keras.Model(image, x, name="chain"))


@pytest.fixture(scope="module")
def q(model):
    return faq_keras.apply(model, 4, calibration_data=X)


@pytest.fixture(scope="module")
def plan(q):
    return faq_keras.plan_of(q)


def annotated(model, configs, others=True):
    """The model with these quantize configs by layer name; other layers without a config."""

    def annotate(layer):
        if layer.name in configs or others:
            return quantization.quantize_annotate_layer(layer, configs.get(layer.name))
        return layer

    copy = tf_keras.models.clone_model(model, clone_function=annotate)
    copy.set_weights(model.get_weights())
    return copy


def test_the_scheme_makes_the_network_of_apply(model, q, tmp_path):
    scheme = faq_keras.FAQScheme(bits=4, calibration_data=X)
    other = quantization.quantize_apply(quantization.quantize_annotate_model(model), scheme=scheme)
    assert isinstance(other, tf_keras.Model)
    assert faq_keras.plan_of(other) == faq_keras.plan_of(q)
    assert np.array_equal(other.predict_on_batch(X), q.predict_on_batch(X))
    for network, name in ((q, "a.tflite"), (other, "b.tflite")):
        report = faq_keras.export_tflite(network, tmp_path / name, weights="int4", verify=X[:4])
        assert report.mismatches == 0
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()
    other.save(tmp_path / "m.keras")  # tfmot's own models do not come back from one
    loaded = tf_keras.models.load_model(tmp_path / "m.keras")
    assert np.array_equal(loaded.predict_on_batch(X), q.predict_on_batch(X))


def test_a_layer_with_a_config_of_ours_follows_its_plan_entry(model, plan, tmp_path):
    kernel = dataclasses.replace(plan["second"].kernel, bits=8, clip_stds=6.5)
    wide = dataclasses.replace(plan["second"], kernel=kernel)
    config = quantize_config(wide, plan.input_specs("second"))
    q = quantization.quantize_apply(
        annotated(model, {"second": config}), scheme=faq_keras.FAQScheme(plan=plan)
    )
    assert faq_keras.plan_of(q)["second"] == wide
    assert faq_keras.plan_of(q)["third"] == plan["third"]
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=X[:4]).mismatches == 0


def test_a_config_of_another_layer_is_refused(model, plan):
    config = quantize_config(plan["third"], plan.input_specs("third"))
    with pytest.raises(ValueError, match=r"'second' is annotated with .* of 'third'"):
        quantization.quantize_apply(
            annotated(model, {"second": config}), scheme=faq_keras.FAQScheme(plan=plan)
        )


def test_a_layer_with_the_users_own_config_is_left_to_tfmot(model, plan, tmp_path):
    with quantization.quantize_scope({"Own": Own}):
        q = quantization.quantize_apply(
            annotated(model, {"second": Own()}), scheme=faq_keras.FAQScheme(plan=plan)
        )
    assert isinstance(q.get_layer("quant_second").quantize_config, Own)
    assert type(q.get_layer("third")).__name__ == "QuantizedConv2D"
    q.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert np.isfinite(q.train_on_batch(X, np.arange(16) % 3))
    with pytest.raises(ValueError, match=r"'quant_second' \(QuantizeWrapperV2 with Own\)"):
        faq_keras.export_tflite(q, tmp_path / "m.tflite")
    assert not (tmp_path / "m.tflite").exists()
    with pytest.raises(ValueError, match="quantized in part: second"):
        faq_keras.plan_of(q)


def test_layers_without_annotation_stay_float(model, plan, tmp_path):
    q = quantization.quantize_apply(
        annotated(model, {"first": None}, others=False), scheme=faq_keras.FAQScheme(plan=plan)
    )
    kinds = {name: type(q.get_layer(name)).__name__ for name in ("first", "second")}
    assert kinds == {"first": "QuantizedConv2D", "second": "Conv2D"}
    with pytest.raises(ValueError, match=r"'head' \(Dense\)"):
        faq_keras.export_tflite(q, tmp_path / "m.tflite")


def test_our_configs_run_under_tfmots_default_scheme(model, plan):
    """The seam between both: one layer as this package quantizes it, tfmot's rules elsewhere."""
    dense = quantize_config(plan["head"], plan.input_specs("head"))
    depthwise = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 4)),  # as many channels as the plan has scales
            quantization.quantize_annotate_layer(
                tf_keras.layers.DepthwiseConv2D(3, name="second"),
                KernelQuantizeConfig(plan["second"], plan.input_specs("second")),
            ),
        ]
    )
    for network in (annotated(model, {"head": dense}, others=False), depthwise):
        q = quantization.quantize_apply(network)
        spec = q.layers[-1].quantize_config.plan.output
        x = X if network is not depthwise else np.concatenate([X, X[..., :1]], axis=-1)
        codes = q.predict_on_batch(x) / spec.step
        assert np.array_equal(codes, np.round(codes))
        assert spec.lowest <= codes.min() and codes.max() <= spec.highest


@pytest.mark.parametrize("arguments", [{"bits": 9}, {"logits_bits": 12}, {"percentile": 3}])
def test_bad_arguments_are_refused_at_once(arguments):
    with pytest.raises(ValueError, match="must"):
        faq_keras.FAQScheme(**arguments)
