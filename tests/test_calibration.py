"""Calibration: exact percentiles without keeping a tensor, and what data it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from faq_keras.calibration import _TopValues, calibrate
from faq_keras.data.batches import input_batches
from faq_keras.graph_reader import read_graph
from tests import networks


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 4000), min_size=1, max_size=5),
    st.sampled_from([50.0, 90.0, 99.0, 99.9, 99.99, 100.0]),
    st.sampled_from(["normal", "relu", "constant", "ties"]),
)
def test_streamed_percentile_is_numpys(seed, sizes, percentile, kind):
    rng = np.random.default_rng(seed)
    chunks = [rng.standard_normal(size).astype(np.float32) for size in sizes]
    if kind == "relu":
        chunks = [np.maximum(chunk, 0) for chunk in chunks]
    elif kind == "constant":
        chunks = [np.full_like(chunk, 2.5) for chunk in chunks]
    elif kind == "ties":
        chunks = [np.maximum(np.round(chunk), 0) for chunk in chunks]
    else:
        chunks = [np.abs(chunk) for chunk in chunks]
    tracker = _TopValues("t", sum(sizes), percentile)
    for chunk in chunks:
        tracker.update(chunk)
    everything = np.concatenate(chunks).astype(np.float64)
    assert tracker.range().high == pytest.approx(np.percentile(everything, percentile), rel=1e-6)
    assert tracker.range().maximum == everything.max()


def test_range_is_the_maximum_over_batches_of_the_batch_percentile():
    model = networks.tiny_resnet()
    graph = read_graph(model)
    batches = [networks.images(70, seed=seed) * (1 + seed) for seed in range(3)]
    name = graph.nodes[1].name
    tap = keras.Model(model.inputs, graph.nodes[1].layers[-1].output)
    expected = max(np.percentile(tap.predict(b, verbose=0), 99.0) for b in batches)
    measured = calibrate(graph, batches, 3, {name: 99.0})
    assert measured[name].high == pytest.approx(expected, rel=1e-6)


def test_signed_tensors_are_measured_by_magnitude():
    graph = read_graph(networks.tiny_resnet())
    x = networks.images(64) - 2.0
    measured = calibrate(graph, x, 1, {"image": 99.0})["image"]
    assert measured.high == pytest.approx(np.percentile(np.abs(x), 99.0), rel=1e-6)
    assert measured.minimum == x.min()


@pytest.mark.parametrize("form", ["array", "dataset", "pairs", "list", "generator"])
def test_every_form_of_data_gives_the_same_range(form):
    x = networks.images(60)
    y = np.zeros(60)
    forms = {
        "array": x,
        "dataset": tf.data.Dataset.from_tensor_slices(x).batch(12),
        "pairs": tf.data.Dataset.from_tensor_slices((x, y)).batch(12),
        "list": [x[i : i + 12] for i in range(0, 60, 12)],
        "generator": ((x[i : i + 12], y[i : i + 12]) for i in range(0, 60, 12)),
    }
    graph = read_graph(networks.tiny_resnet())
    expected = max(np.percentile(np.abs(x[i : i + 12]), 99.0) for i in range(0, 60, 12))
    measured = calibrate(graph, forms[form], 5, {"image": 99.0})
    assert measured["image"].high == pytest.approx(expected, rel=1e-6)


def test_only_the_asked_for_batches_are_read():
    def batches():
        yield networks.images(4)
        yield networks.images(4)
        raise AssertionError("a third batch was read")

    calibrate(read_graph(networks.tiny_resnet()), batches(), 2, {"image": 99.0})


def test_arrays_are_cut_into_batches_of_at_most_256():
    def sizes(images):
        found = input_batches(np.zeros((images, 1)), 5, {"x": (None, 1)}, "calibration")
        return [len(batch["x"]) for batch in found]

    assert sizes(2000) == [256] * 5
    assert sizes(100) == [20] * 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "empty"),
        (np.zeros((0, 8, 8, 3)), "empty"),
        (np.full((4, 8, 8, 3), np.nan), "NaN"),
        (np.full((4, 8, 8, 3), np.inf), "NaN or infinite"),
        (np.zeros((4, 9, 8, 3)), r"shape \(1, 9, 8, 3\); .* takes \(None, 8, 8, 3\)"),
        ([np.zeros((8, 8, 3))], "forget .batch"),
        ((np.zeros((4, 8, 8, 3)), np.zeros(4)), "tuple of arrays"),
        (3.0, "float is not supported"),
    ],
)
def test_bad_data_is_refused(data, message):
    graph = read_graph(networks.tiny_resnet())
    with pytest.raises(ValueError, match=message):
        calibrate(graph, data, 5, {"image": 99.0})


def test_weights_that_are_not_finite_are_named():
    model = networks.tiny_resnet()
    graph = read_graph(model)
    layer = graph.nodes[1].layers[0]
    layer.kernel.assign(np.full(layer.kernel.shape, np.nan))
    with pytest.raises(ValueError, match=f"Layer '{graph.nodes[1].name}' gives NaN"):
        calibrate(graph, networks.images(4), 1, {graph.nodes[1].name: 99.0})
