"""The steps of a quantized model, and their activations on the disk."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import faq_keras
from faq_keras.post_training.network import trace
from faq_keras.post_training.store import ActivationStore
from faq_keras.post_training.walk import to_codes
from faq_keras.rewrite.bridge import to_tf_keras
from tests import networks
from tests.post_training import nets

layers = keras.layers


@pytest.mark.parametrize("build", nets.ALL, ids=lambda build: build.__name__)
@pytest.mark.parametrize("bridge", [lambda q: q, to_tf_keras], ids=["keras", "tf_keras"])
def test_the_steps_compute_what_the_model_does(build, bridge):
    model = build()
    x = nets.images(model, 8)
    q = bridge(faq_keras.apply(model, 4, calibration_data=x))
    network = trace(q)
    compute = [step.frozen() for step in network.steps]
    images = x if isinstance(x, dict) else {next(iter(network.input_shapes)): x}
    values = []

    def call(number, step, inputs):
        value = compute[number](inputs)
        if step.grid is not None:
            codes = to_codes(step, value)
            np.testing.assert_array_equal(codes.astype(np.float32) * step.grid.step, value)
            values.append(codes.nbytes)
        return value

    found = network.evaluate(images, call)
    for a, b in zip(found, keras.tree.flatten(q(x)), strict=True):
        returned = tf.nn.softmax(a) if build is nets.concatenated else a
        np.testing.assert_array_equal(returned, b)
    images_and_outputs = 4 * sum(np.size(v) for v in (*images.values(), *found))
    assert max(values) < network.peak_bytes(8) <= images_and_outputs + 4 * sum(values)


def names_of_logits(outputs, inputs):
    model = networks.randomize(keras.Model(inputs, outputs))
    q = faq_keras.apply(model, 8, calibration_data=networks.images(4))
    return {s.layer.plan.name for s in trace(q).steps if s.logits and s.is_folded}


def test_the_logits_of_a_sum_are_its_terms_but_not_the_trunk():
    inputs = keras.Input((8, 8, 3))
    x = networks.conv_bn_relu(inputs, 8)
    x = layers.Add()([layers.Conv2D(8, 3, padding="same", name="in_trunk")(x), x])
    a, b = (layers.Conv2D(8, 1, name=name)(x) for name in ("left", "right"))
    total = layers.Softmax()(layers.GlobalAveragePooling2D()(layers.Add()([a, b])))
    assert names_of_logits(total, inputs) == {"left", "right"}


def test_a_normalization_of_logits_counts_with_the_layer_before():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="features")(inputs)
    x = layers.Dense(5, name="dense")(layers.GlobalAveragePooling2D()(layers.ReLU()(x)))
    x = layers.BatchNormalization(name="norm")(x)
    assert names_of_logits(x, inputs) == {"dense", "norm"}


def test_values_off_their_grid_are_refused():
    model = nets.residual()
    q = faq_keras.apply(model, 8, calibration_data=nets.images(model, 8))
    step = next(step for step in trace(q).steps if step.is_folded)
    with pytest.raises(ValueError, match=f"'{step.name}' gives values that are no multiples"):
        to_codes(step, np.full((1, 8, 8, 8), 0.3 * step.grid.step, np.float32))


def test_a_store_reads_what_was_appended_and_deletes_it(tmp_path):
    (tmp_path / "activations-left").mkdir()
    x = np.random.default_rng(0).integers(-9, 9, (10, 4, 3)).astype(np.int16)
    with ActivationStore(tmp_path) as store:
        store.append("a", x[:7])
        store.append("a", x[7:])
        store.append("b", x.astype(np.float32))
        np.testing.assert_array_equal(store.read("a", 5, 99), x[5:])
        assert store.used == x.nbytes * 3 and len(list(tmp_path.iterdir())) == 1
        store.drop("a")
        assert "a" not in store and store.used == x.nbytes * 2
        with pytest.raises(ValueError, match="differ in their shape"):
            store.append("b", np.zeros((1, 5), np.float32))
    assert not list(tmp_path.iterdir())
