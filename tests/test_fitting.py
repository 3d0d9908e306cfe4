"""Exponents and channel scales of least squared error, against brute force and against the rule."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import faq_keras
from faq_keras import fitting
from faq_keras.fixed_point import code_range, kernel_exponent, quantize
from faq_keras.graph_reader import read_graph
from faq_keras.kernel_fitting import weights_plan
from faq_keras.policy import Policy
from faq_keras.quantizers import MultiplierQuantizer
from tests import networks

layers = keras.layers


def squared_error(values, bits, exponent, signed):
    return np.mean((quantize(values, bits, exponent, signed) - values) ** 2)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_kernels_exponent_has_the_least_error_of_all_exponents(bits):
    kernel = np.random.default_rng(bits).laplace(size=(3, 3, 8, 16)) * 0.1
    fit = fitting.fit_kernel(kernel, bits)
    errors = {e: squared_error(kernel, bits, e, signed=True) for e in range(-20, 5)}
    assert fit.chosen == min(errors, key=errors.get)
    relative = errors[fit.chosen] / np.mean(kernel**2)
    assert fit.error == pytest.approx(relative, rel=1e-3)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_an_activations_exponent_has_the_least_error(bits, signed):
    values = np.random.default_rng(0).standard_normal(20_000) * 3
    values = values if signed else np.maximum(values, 0)
    fit = fitting.fit_values(values, np.abs(values).max(), bits, signed)
    errors = {e: squared_error(values, bits, e, signed) for e in fit.exponents}
    assert fit.chosen == min(errors, key=errors.get)


def test_an_outlier_does_not_set_the_range():
    values = np.append(np.random.default_rng(0).uniform(0, 1, 1_000_000), 3.0)
    fit = fitting.fit_values(values, 3.0, 8, signed=False)
    assert (max(fit.exponents), fit.chosen) == (-6, -8)


def test_a_relu6_is_fitted_with_its_own_largest_code():
    values = np.full(1000, 6.0)
    fit = fitting.fit_values(values, 6.0, 4, False, highest=lambda e: int(6 / 2.0**e + 0.5))
    assert fit.error == 0.0


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_channel_steps_have_the_least_error_of_all_shares(bits):
    rng = np.random.default_rng(bits)
    matrix = rng.standard_normal((45, 7)) * 10.0 ** rng.uniform(-3, 1, 7)
    matrix[:, 3] = 0.0
    steps = fitting.channel_steps(matrix, bits)
    high = code_range(bits, signed=True)[1]
    for channel in (0, 1, 2, 4, 5, 6):
        column = matrix[:, channel].astype(np.float32).astype(np.float64)
        candidates = np.abs(column).max() / high * fitting.STEP_SHARES

        def error(step, column=column):
            return np.sum((np.clip(np.rint(column / step), -high, high) * step - column) ** 2)

        assert error(steps[channel]) <= 1.001 * min(map(error, candidates))
    assert steps[3] == 0.0


def network(batch_norm=True, use_bias=True, depthwise=False, groups=1, seed=0):
    """A convolution whose channels differ by orders of magnitude."""
    rng = np.random.default_rng(seed)
    inputs = keras.Input((8, 8, 4))
    if depthwise:
        conv = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=use_bias, name="conv")
    else:
        conv = layers.Conv2D(8, 3, groups=groups, use_bias=use_bias, name="conv")
    x = conv(inputs)
    if batch_norm:
        x = layers.BatchNormalization(name="bn")(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(3)(x))
    spread = 10.0 ** rng.uniform(-2, 0, 8)
    conv.kernel.assign(conv.kernel * spread.reshape(conv.kernel.shape[-2:] if depthwise else -1))
    if use_bias:
        conv.bias.assign(rng.standard_normal(8) * 0.1)
    if batch_norm:
        bn = model.get_layer("bn")
        bn.moving_variance.assign(spread**2 * rng.uniform(0.5, 2, 8))
        bn.moving_mean.assign(spread * rng.standard_normal(8))
        bn.gamma.assign(rng.choice([-1, 1], 8) * rng.uniform(0.5, 2, 8))
        bn.beta.assign(rng.standard_normal(8))
    return model


CASES = [
    {},
    {"use_bias": False},
    {"batch_norm": False},
    {"depthwise": True},
    {"depthwise": True, "batch_norm": False, "use_bias": False},
    {"groups": 2},
]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_channels_of_every_size_keep_their_bits_and_the_file_is_exact(case, bits, tmp_path):
    model = network(**case)
    x = networks.images(40, shape=(8, 8, 4))
    q = faq_keras.apply(model, (bits, 8), calibration_data=x, policy=Policy(first_last_bits=bits))
    paper = faq_keras.apply(
        model, (bits, 8), calibration_data=x,
        policy=Policy(first_last_bits=bits, scales="paper"),
    )  # fmt: skip
    entry = faq_keras.plan_of(q)["conv"]
    assert len(entry.kernel.channel_scales) == 8
    assert entry.kernel_fit.error < 0.2 * max(entry.kernel_fit.errors)

    def noise(quantized):
        expected = keras.Model(model.inputs, model.layers[-3].output).predict(x, verbose=0)
        got = keras.Model(quantized.inputs, quantized.get_layer("conv").output)
        return np.mean((got.predict(x, verbose=0) - expected) ** 2)

    assert noise(q) < noise(paper)
    report = faq_keras.export_tflite(q, tmp_path / "m.tflite", weights="int8", verify=x)
    assert report.mismatches == 0 and report.values > 0
    reloaded = tmp_path / "q.keras"
    q.save(reloaded)
    again = keras.saving.load_model(reloaded)
    assert faq_keras.plan_of(again) == faq_keras.plan_of(q)
    assert np.array_equal(again.predict(x, verbose=0), q.predict(x, verbose=0))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_float_model_comes_back_bit_for_bit(case):
    model = network(**case)
    q = faq_keras.apply(model, 4, calibration_data=networks.images(40, shape=(8, 8, 4)))
    for got, expected in zip(faq_keras.to_float(q).weights, model.weights, strict=True):
        assert np.array_equal(got, expected), got.path


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_papers_rule_gives_the_fitted_exponent_with_room_on_both_sides(bits):
    node = read_graph(network())["conv"]
    spec = weights_plan(node, bits, Policy()).kernel
    stored = np.asarray(node.layers[0].kernel) * np.array(spec.channel_scales, np.float32)
    exponent = kernel_exponent(stored, bits, spec.clip_stds)
    for factor in (0.75, 1.35):
        assert kernel_exponent(stored * factor, bits, spec.clip_stds) == exponent


def test_multipliers_lose_nothing_in_rounding():
    node = read_graph(network())["conv"]
    planned = weights_plan(node, 8, Policy())
    bn = node.batch_norm
    gain = np.asarray(bn.gamma, np.float64) / np.sqrt(np.asarray(bn.moving_variance) + bn.epsilon)
    multipliers = gain / np.array(planned.kernel.channel_scales)
    quantized = np.asarray(MultiplierQuantizer(planned.multiplier)(tf.constant(multipliers)))
    assert np.allclose(quantized, multipliers, rtol=1e-4, atol=0)


def test_dead_channels_do_not_move_the_exponent_of_the_others():
    model = network()
    conv, bn = model.get_layer("conv"), model.get_layer("bn")
    alive = weights_plan(read_graph(model)["conv"], 8, Policy())
    dead = [2, 5]
    kernel, gamma = np.array(conv.kernel), np.array(bn.gamma)
    kernel[..., dead[0]] *= 1e-12
    gamma[dead[1]] = 0.0
    conv.kernel.assign(kernel)
    bn.gamma.assign(gamma)
    planned = weights_plan(read_graph(model)["conv"], 8, Policy())
    assert [planned.kernel.channel_scales[c] for c in dead] == [1.0, 1.0]
    ratios = np.array(planned.kernel.channel_scales) / np.array(alive.kernel.channel_scales)
    live = [c for c in range(8) if c not in dead]
    assert np.allclose(np.log2(ratios[live]), np.rint(np.log2(ratios[live[0]])), atol=0.02)
    x = networks.images(40, shape=(8, 8, 4))
    q = faq_keras.apply(model, 8, calibration_data=x)
    assert faq_keras.plan_of(q).settings.agreement[0].sqnr > 25


def test_pruned_kernels_keep_what_is_left():
    """90 % zeros: the standard deviation says nothing of the rest (issue of outsiders)."""
    rng = np.random.default_rng(1)
    kernel = rng.standard_normal((3, 3, 16, 16)) * (rng.uniform(size=(3, 3, 16, 16)) < 0.1)
    fit = fitting.fit_kernel(kernel, 4)
    assert 2.0**fit.chosen * 7 > 0.8 * np.quantile(np.abs(kernel[kernel != 0]), 0.98)
    paper = kernel_exponent(kernel, 4, 4.12)
    assert fit.error * np.mean(kernel**2) < 0.5 * squared_error(kernel, 4, paper, signed=True)


def test_an_explicit_percentile_or_clip_is_followed():
    model, x = networks.tiny_resnet(), networks.images(64)
    default = faq_keras.plan_of(faq_keras.apply(model, 4, calibration_data=x))
    ranged = faq_keras.plan_of(faq_keras.apply(model, 4, calibration_data=x, percentile=60.0))
    assert all(entry.output_fit is None for entry in ranged.layers)
    assert any(entry.output_fit is not None for entry in default.layers)
    clipped = faq_keras.apply(model, 4, calibration_data=x, policy=Policy(clip_stds={4: 4.12}))
    entry = faq_keras.plan_of(clipped)["conv2d_1"]
    assert entry.kernel.clip_stds == 4.12 and entry.kernel_fit is None
