"""Cosines of neurons by hand, of every kind of layer, float or quantized, and of bad pairs."""

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.diagnostics import WeightSimilarity, weight_similarity
from tests import networks

layers = keras.layers


def small(name="small", filters=4):
    """A convolution, a depthwise one with two outputs per input, and a dense layer."""
    keras.utils.clear_session(free_memory=False)
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(filters, 3, activation="relu", name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="depthwise")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, name="dense")(x), name=name)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return small()


def changed(model, **kernels):
    twin = small("changed")
    twin.set_weights(model.get_weights())
    for name, change in kernels.items():
        layer = twin.get_layer(name)
        layer.kernel.assign(change(layer.kernel.numpy()))
    return twin


def test_every_output_channel_is_a_neuron(model):
    similarity = weight_similarity(model, model)
    sizes = {name: cosines.shape for name, cosines in similarity.neurons.items()}
    assert sizes == {"conv": (4,), "depthwise": (8,), "dense": (5,)}
    assert similarity.network == pytest.approx(1)


def test_lengths_do_not_count_and_signs_do(model):
    def move(kernel):
        kernel[..., 0] *= 3
        kernel[..., 1] *= -2
        return kernel

    similarity = weight_similarity(model, changed(model, conv=move))
    np.testing.assert_allclose(similarity.neurons["conv"], [1, -1, 1, 1], rtol=1e-6)
    assert similarity.layers["conv"] == pytest.approx(0.5)
    assert similarity.network == pytest.approx((17 - 2) / 17), "a mean of neurons, not of layers"


def test_a_depthwise_neuron_is_one_input_and_one_multiplier(model):
    def turn(kernel):
        kernel[:, :, 1, 1] = 0
        kernel[0, 0, 1, 1] = 1
        return kernel

    old = model.get_layer("depthwise").kernel.numpy()[:, :, 1, 1]
    cosines = weight_similarity(model, changed(model, depthwise=turn)).neurons["depthwise"]
    expected = np.ones(8)
    expected[2 * 1 + 1] = old[0, 0] / np.linalg.norm(old)
    np.testing.assert_allclose(cosines, expected, rtol=1e-5)


def test_a_neuron_of_zeros_has_no_cosine_and_does_not_count(model):
    def kill(kernel):
        kernel[..., 2] = 0
        return kernel

    similarity = weight_similarity(model, changed(model, dense=kill))
    assert np.isnan(similarity.neurons["dense"]).tolist() == [False, False, True, False, False]
    assert similarity.layers["dense"] == pytest.approx(1)
    dead = weight_similarity(model, changed(model, dense=lambda kernel: 0 * kernel))
    assert np.isnan(dead.layers["dense"]) and dead.network == pytest.approx(1)
    for kept in (similarity, dead):
        again = WeightSimilarity.from_json(kept.to_json())
        assert again.network == kept.network
        for name, cosines in kept.neurons.items():
            np.testing.assert_array_equal(again.neurons[name], cosines)
    table = str(dead).splitlines()
    assert table[0].split() == ["layer", "neurons", "cosine", "lowest"]
    assert table[-1].split() == ["network", "17", "1.0000"]


def test_float_and_quantized_networks_are_compared_in_any_combination(model):
    x = networks.images(8, (6, 6, 3))
    q2, q8 = (faq_keras.apply(model, bits, calibration_data=x) for bits in (2, 8))
    for start, end in ((model, q2), (q2, model), (q8, q2)):
        assert weight_similarity(start, end).network == pytest.approx(1)
    rounded = {bits: weight_similarity(model, q, quantized=True) for bits, q in ((2, q2), (8, q8))}
    # First and last layer have 8 bits in both.
    assert rounded[2].layers["conv"] == rounded[8].layers["conv"] > 0.999
    assert rounded[2].layers["depthwise"] < 0.97 < 0.999 < rounded[8].layers["depthwise"]


def test_networks_that_do_not_match_are_refused_with_every_reason(model):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(3, 3, name="conv")(inputs)
    x = layers.Dense(5, name="other")(layers.GlobalAveragePooling2D()(x))
    with pytest.raises(ValueError) as error:
        weight_similarity(model, keras.Model(inputs, x, name="another"))
    for part in (
        "'depthwise' is only in 'small' (start)",
        "'dense' is only in 'small' (start)",
        "'other' is only in 'another' (end)",
        "'conv' has the shape (3, 3, 3, 4) at the start and (3, 3, 3, 3) at the end",
    ):
        assert part in str(error.value)


def test_weights_that_are_not_finite_are_named(model):
    with pytest.raises(ValueError, match="not finite: dense"):
        weight_similarity(model, changed(model, dense=lambda kernel: kernel * np.nan))


def test_layers_of_one_name_are_refused():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")], name="inner")
    outer = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2, name="dense")])
    with pytest.raises(ValueError, match="several layers of the same name: dense"):
        weight_similarity(outer, outer)


def test_nested_models_keep_their_order_and_match_their_quantized_twin(model):
    inputs = keras.Input((6, 6, 3))
    outer = keras.Model(inputs, layers.Dense(2, name="head")(layers.ReLU()(model(inputs))))
    names = ["conv", "depthwise", "dense", "head"]
    q = faq_keras.apply(outer, 4, calibration_data=networks.images(4, (6, 6, 3)))
    similarity = weight_similarity(outer, q)
    assert list(similarity.layers) == list(weight_similarity(q, outer).layers) == names
    assert similarity.network == pytest.approx(1)
