"""Corrections of channel means: the arithmetic, and a shift that was put in on purpose."""

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.post_training.means import relu_shift, shrunk_mean
from tests import networks
from tests.post_training import nets

layers = keras.layers


def test_a_certain_mean_stays_and_an_uncertain_one_goes():
    rng = np.random.default_rng(0)
    same = np.full((64, 1), 0.5)
    noise = rng.normal(0, 1, (64, 1))
    noise -= noise.mean() - 0.01
    differences = np.concatenate([same, noise, -same, np.zeros((64, 1))], axis=1)
    np.testing.assert_array_equal(shrunk_mean(differences), [0.5, 0.0, -0.5, 0.0])


def test_the_formula_of_the_shrinkage():
    d = np.random.default_rng(1).normal(0.3, 0.5, (100, 1))
    m, se = d.mean(), d.std() / 10
    assert shrunk_mean(d)[0] == pytest.approx(m * (1 - (se / m) ** 2))


def test_the_mean_after_the_relu_becomes_the_target():
    rng = np.random.default_rng(2)
    rows = rng.normal(0, 1, (8000, 4)) * [1, 3, 1, 0] + [0, 1, 0.2, 5]
    target = np.array([0.6, 2.0, 5e-5, 4.0])
    shift = relu_shift(rows, target, limit=6.0)
    found = np.clip(rows + shift, 0, 6).mean(axis=0)
    np.testing.assert_allclose(found[:2], target[:2], atol=1e-3)
    assert shift[2] == 0 and shift[3] == 0  # dead in the float network; no spread


def test_shifts_stay_within_two_deviations():
    rows = np.random.default_rng(3).normal(0, 1, (1000, 1))
    assert relu_shift(rows, np.array([100.0]), 200.0)[0] == pytest.approx(2 * rows.std(), rel=1e-3)


@pytest.mark.parametrize("scales", ["fitted", "paper"])
@pytest.mark.parametrize("use_bias", [False, True], ids=["moving mean", "bias"])
def test_a_shift_that_was_put_in_is_taken_out(use_bias, scales):
    """Only means: the kernel has 8 bits, the last layer's input is compared."""
    inputs = keras.Input((8, 8, 3), name="image")
    if use_bias:
        x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    else:
        x = layers.Conv2D(8, 3, use_bias=False, name="conv")(inputs)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = networks.conv_bn_relu(x, 8)
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    model = networks.randomize(keras.Model(inputs, x))
    images = nets.images(model, 64)
    policy = faq_keras.Policy(scales=scales)
    q = faq_keras.apply(model, 8, calibration_data=images, policy=policy)
    # The plan's grid of the input is wrong by a constant: what the layer reads is shifted.
    conv = q.get_layer("conv")
    quantizer = q.layers[1].quantize_config.output_quantizer
    plain = type(quantizer).__call__

    class Shifted(type(quantizer)):
        def __call__(self, x, training=False, weights=None, **kwargs):
            return plain(self, x + 4 * self.spec.step)

    q.layers[1].quantize_config.output_quantizer = Shifted(quantizer.spec, quantizer.rounding)
    r = faq_keras.reconstruct(q, images)
    assert r["conv"].means and not r["conv"].rounded
    assert r["conv"].noise_after > r["conv"].noise_before + 6
    variable = conv.kernel_layer.bias if use_bias else conv.batch_norm_layer.moving_mean
    float_layers = {layer.name: layer for layer in model.layers}
    original = (
        float_layers["conv"].bias
        if use_bias
        else next(v for v in float_layers.values() if "batch" in v.name).moving_mean
    )
    kernel = np.asarray(conv.kernel)
    added = 4 * quantizer.spec.step * kernel.sum(axis=(0, 1, 2))  # windows have no padding
    moved = np.asarray(variable) - np.asarray(original)
    live = np.abs(added) > 0.2 * np.abs(added).max()
    expected = -added if use_bias else added
    np.testing.assert_allclose(moved[live], expected[live], rtol=0.25)


def test_logits_keep_their_means_until_there_are_twenty_images_per_class():
    model = nets.residual()
    x = nets.images(model, 128)
    q = faq_keras.apply(model, 8, calibration_data=x)
    weights = q.get_weights()
    few = faq_keras.reconstruct(q, x[:99])
    assert not few["dense"].means and "99 images are fewer than 20 for each of 5" in str(few)
    q.set_weights(weights)
    assert faq_keras.reconstruct(q, x[:100])["dense"].means


def test_the_layer_before_a_pool_of_logits_counts_as_logits():
    inputs = keras.Input((8, 8, 3), name="image")
    x = networks.conv_bn_relu(networks.conv_bn_relu(inputs, 6), 10)
    model = networks.randomize(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))
    x = nets.images(model, 64)
    q = faq_keras.apply(model, 8, calibration_data=x)
    r = faq_keras.reconstruct(q, x)
    kernels = [layer for layer in r.layers if layer.kind == "conv"]
    assert [layer.means for layer in kernels] == [True, False]
