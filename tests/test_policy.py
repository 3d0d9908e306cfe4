"""The rules of the paper's sections 2.1 to 3.2: first, last, last ReLU, branches, overrides."""

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras import graph_roles, plan_maker
from faq_keras.graph_reader import read_graph
from faq_keras.plan import PlanSettings, QuantPlan
from faq_keras.policy import Policy, layer_bits, percentiles
from tests import networks

layers = keras.layers


@pytest.fixture(scope="module")
def graph():
    keras.utils.clear_session(free_memory=False)
    return read_graph(networks.tiny_resnet())


def plan_with(**arguments):
    keras.utils.clear_session(free_memory=False)  # layer names start from zero
    model = networks.tiny_resnet()
    rules = Policy(**arguments)
    return faq_keras.plan_of(
        faq_keras.apply(model, 4, calibration_data=networks.images(20), policy=rules)
    )


def test_first_and_last_follow_the_graph(graph):
    # The shortcut's convolution stands last in Keras' list, but is neither.
    assert graph_roles.first_layers(graph) == {"conv2d"}
    assert graph_roles.last_layers(graph) == {"dense"}


def test_a_network_may_have_several_first_layers():
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(4, 1, name="a")(inputs)
    b = layers.Conv2D(4, 3, padding="same", name="b")(inputs)
    graph = read_graph(keras.Model(inputs, layers.Add()([a, b])))
    assert graph_roles.first_layers(graph) == graph_roles.last_layers(graph) == {"a", "b"}


def test_the_last_relu_is_found_behind_the_pool(graph):
    assert graph_roles.last_activations(graph) == {"add_1", "global_average_pooling2d", "dense"}


def test_percentiles_are_the_papers(graph):
    settings = PlanSettings(weight_bits=4, activation_bits=4)
    bits = layer_bits(graph, settings, Policy())
    chosen = percentiles(graph, bits, None)
    assert chosen["conv2d_1"] == 99.9  # a 4-bit ReLU
    assert chosen["add_1"] == 99.99  # the last ReLU, 8 bits
    assert chosen["conv2d_2"] == 99.99  # a branch, 8 signed bits
    assert chosen["image"] == chosen["dense"] == 100.0
    assert percentiles(graph, bits, 98.0)["conv2d_1"] == 98.0


def test_overrides_win_and_the_last_match_counts():
    plan = plan_with(overrides={"conv2d_[12]": 8, "conv2d_1": (3, 5), "dense": 4})
    assert (plan["conv2d_1"].kernel.bits, plan["conv2d_1"].output.bits) == (3, 5)
    assert plan["conv2d_2"].kernel.bits == 8
    assert plan["conv2d_3"].kernel.bits == 4
    assert plan["dense"].kernel.bits == 4


def test_one_half_of_an_override_may_be_left_to_the_rules():
    plan = plan_with(overrides={"conv2d_1": (3, None), "conv2d_4": (None, 6)})
    assert (plan["conv2d_1"].kernel.bits, plan["conv2d_1"].output.bits) == (3, 4)
    assert (plan["conv2d_4"].kernel.bits, plan["conv2d_4"].output.bits) == (4, 6)


def test_first_last_bits():
    plan = plan_with(first_last_bits=4)
    assert {layer.kernel.bits for layer in plan.layers if layer.kernel} == {4}
    assert plan["add_1"].output.bits == 4


@pytest.mark.parametrize(("setting", "expected"), [("paper", -4), (-3, -3)])
def test_bn_exponents_can_be_fixed(setting, expected):
    plan = plan_with(bn_exponent=setting)
    assert {p.multiplier.exponent for p in plan.layers if p.multiplier} == {expected}


def test_clip_reading_doubles_the_range():
    total, double = (
        plan_with(scales="paper", clip_reading=reading) for reading in ("total", "plus_minus")
    )
    assert double["conv2d_1"].kernel.clip_stds == 2 * total["conv2d_1"].kernel.clip_stds == 8.24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overrides": {"nothing": 8}}, "'nothing' matches no quantized layer; there are: conv2d"),
        ({"overrides": {"conv2d": 9}}, "override of 'conv2d' must be an integer from 2 to 8"),
        ({"overrides": {"conv2d": (None, None)}}, "'conv2d' must be .* received None"),
        ({"first_last_bits": 16}, "first_last_bits must be"),
        ({"scales": "exact"}, "scales must be 'fitted' or 'paper', received 'exact'"),
        ({"first_last_bits": True}, "first_last_bits must be"),
        ({"overrides": {"conv2d": None}}, "override of 'conv2d' must be .* received None"),
        ({"overrides": {"conv2d": (4,)}}, r"'conv2d' must be one width or .* received \(4,\)"),
        ({"overrides": {"conv2d": (4, 4, 4)}}, "'conv2d' must be one width or"),
        ({"overrides": {"conv2d": "8"}}, "override of 'conv2d' must be an integer"),
        ({"overrides": {"conv(": 8}}, r"'conv\(' is neither a layer name nor a regular expression"),
        ({"overrides": {0: 8}}, "override 0 is neither a layer name nor a regular expression"),
        ({"overrides": [("conv2d", 8)]}, "overrides must be a dictionary"),
        ({"bn_exponent": "auto"}, "bn_exponent must be"),
        ({"bn_exponent": True}, "bn_exponent must be"),
        ({"bn_exponent": -4.0}, "bn_exponent must be"),
        ({"bn_exponent": 61}, "an int from -60 to 60, received 61"),
        ({"clip_reading": "half"}, "clip_reading must be"),
        ({"clip_reading": ["total"]}, "clip_reading must be"),
        ({"clip_stds": 4.5}, "clip_stds must be a dictionary"),
        ({"clip_stds": {9: 4.5}}, "clip_stds has the key 9: keys are the weight bits"),
        ({"clip_stds": {"4": 4.5}}, "clip_stds has the key '4'"),
        ({"clip_stds": {4: -4.5}}, "clip_stds of 4 bits must be .* above 0 .* received -4.5"),
        ({"clip_stds": {4: 0}}, "clip_stds of 4 bits"),
        ({"clip_stds": {4: "4.5"}}, "clip_stds of 4 bits"),
        ({"clip_stds": {4: float("nan")}}, "clip_stds of 4 bits"),
        ({"clip_stds": {4: 500}}, "below 500, received 500"),
    ],
)
def test_bad_policies_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_with(**arguments)


def test_clip_constants_are_laid_over_the_defaults():
    plan, default = plan_with(clip_stds={4: 4.5}), plan_with()
    assert plan["conv2d_1"].kernel.channel_scales is None
    assert plan["conv2d_1"].kernel.clip_stds == 4.5
    for entry in (plan["conv2d"], default["conv2d"]):  # the first layer, of 8 bits
        assert (entry.kernel.bits, len(entry.kernel.channel_scales)) == (8, 8)


def test_an_override_may_be_a_list_or_of_numpy():
    overrides = {"conv2d_1": [3, 5], "conv2d_2": np.int64(6)}
    plan = plan_with(overrides=overrides, first_last_bits=np.int64(7))
    assert QuantPlan.from_json(plan.to_json()) == plan
    assert (plan["conv2d_1"].kernel.bits, plan["conv2d_1"].output.bits) == (3, 5)
    assert plan["conv2d_2"].kernel.bits == 6


def test_relu6_limits_the_codes():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU(6.0)(layers.Conv2D(4, 3, name="c")(layers.Rescaling(40.0)(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    plan = faq_keras.plan_of(
        faq_keras.apply(model, 8, calibration_data=networks.images(20), percentile=100)
    )
    spec = plan["c"].output
    assert spec.exponent == -5
    assert spec.limit == spec.highest == 192  # 192 / 32 = 6


def test_the_largest_calibrated_logit_keeps_a_code(graph):
    for bits in (8, 16):
        for largest in (0.9, 1.0, 7.97, 12.3, 100.0):
            exponent = plan_maker._logits_exponent(largest, bits)
            assert round(largest / 2.0**exponent) <= 2 ** (bits - 1) - 1
            assert round(largest / 2.0 ** (exponent - 1)) > 2 ** (bits - 1) - 1


def test_bn_multipliers_have_all_their_bits_in_every_channel(tmp_path):
    """Gammas over five orders of magnitude: one step for all would make most channels constant."""
    model = networks.tiny_resnet()
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            channels = layer.gamma.shape[0]
            layer.gamma.assign(10.0 ** np.linspace(-3, 2, channels) * layer.gamma)
    x = networks.images(40)

    def constant_channels(setting):
        policy = Policy(bn_exponent=setting)
        q = faq_keras.apply(model, 8, calibration_data=x, policy=policy)
        assert faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=x).mismatches == 0
        folded = q.get_layer("conv2d_1").fold()
        return int((np.abs(folded.kernel).sum(axis=(0, 1, 2)) == 0).sum())

    assert constant_channels("calibrated") > constant_channels("per_channel")
