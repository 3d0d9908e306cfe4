"""Second-order rounding: the closed form by blocks, and that it does what it is for."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from faq_keras.post_training.rounding import (
    DAMPING,
    Gram,
    nearest,
    quadratic_error,
    round_kernel,
)
from faq_keras.post_training.rows import Window, gather_rows, sample_positions


def correlated(rng, rows, depth):
    mix = rng.normal(size=(depth, depth)) * (rng.random((depth, depth)) < 0.2) + np.eye(depth)
    return np.clip(np.rint(np.abs(rng.normal(size=(rows, depth)) @ mix)), 0, 15).astype(np.uint8)


def column_loop(weights, gram, highest):
    """The definition: one input after the other, all later ones corrected at once."""
    damped = gram + np.eye(len(gram)) * DAMPING * np.mean(np.diag(gram))
    order = np.argsort(-np.diag(gram), kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    free, codes = weights[order].copy(), np.zeros_like(weights)
    for j in range(len(free)):
        codes[order[j]] = np.clip(np.rint(free[j]), -highest, highest)
        error = (free[j] - codes[order[j]]) / upper[j, j]
        free[j + 1 :] -= np.outer(upper[j, j + 1 :], error)
    return codes


@pytest.mark.parametrize("depth", [1, 9, 127, 128, 129, 300])
def test_blocks_give_the_codes_of_the_column_loop(depth):
    rng = np.random.default_rng(depth)
    gram = Gram(1, depth)
    gram.add(correlated(rng, 2000, depth)[:, None, :])
    weights = rng.normal(0, 2.5, (1, depth, 20))
    codes = round_kernel(weights, gram.matrix, bits=4)
    loop = column_loop(weights[0], gram.matrix[0], 7)
    plain = nearest(weights[0], 7)
    errors = [quadratic_error(weights[0], c, gram.matrix[0]) for c in (loop, plain)]
    np.testing.assert_array_equal(codes[0], np.where(errors[0] < errors[1], loop, plain))


@pytest.mark.parametrize("bits", [2, 3, 4, 7])
def test_the_error_falls_and_no_output_gets_worse(bits):
    rng = np.random.default_rng(bits)
    rows = correlated(rng, 4000, 72)
    gram = Gram(1, 72)
    gram.add(rows.reshape(-1, 9, 8))
    weights = rng.normal(0, 2.0 ** (bits - 1) / 2.5, (1, 72, 40))
    codes = round_kernel(weights, gram.matrix, bits)[0]
    highest = 2 ** (bits - 1) - 1
    plain = nearest(weights[0], highest)
    before, after = (quadratic_error(weights[0], c, gram.matrix[0]) for c in (plain, codes))
    assert (after <= before).all() and after.sum() < 0.75 * before.sum()
    assert np.array_equal(codes, np.rint(codes)) and np.abs(codes).max() <= highest
    real = np.mean((rows.astype(float) @ (weights[0] - codes)) ** 2, axis=0)
    np.testing.assert_allclose(after, real, rtol=1e-9)


def test_on_two_inputs_it_finds_what_brute_force_finds():
    """Two inputs that are nearly the same: their errors have to cancel."""
    gram = np.array([[[1.0, 0.99], [0.99, 1.0]]])
    weights = np.array([[[0.4, 1.45], [0.4, -0.3]]])
    grid = np.stack(np.meshgrid(*[np.arange(-7, 8)] * 2, indexing="ij"), -1).reshape(-1, 2, 1)
    for output in range(2):
        column = weights[0][:, output : output + 1]
        errors = [quadratic_error(column, codes, gram[0])[0] for codes in grid.astype(float)]
        codes = round_kernel(column[None], gram, bits=4)[0]
        assert quadratic_error(column, codes, gram[0])[0] == pytest.approx(min(errors))
    assert nearest(weights[0][:, 0], 7).tolist() == [0, 0]


def test_inputs_that_are_always_zero_leave_the_nearest_codes():
    weights = np.random.default_rng(0).normal(0, 3, (3, 9, 2))
    gram = np.zeros((3, 9, 9))
    np.testing.assert_array_equal(round_kernel(weights, gram, 4), nearest(weights, 7))


@pytest.mark.parametrize("largest", [15, 255, 32767])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_gram_matrices_are_exact_whatever_the_batches(groups, largest):
    rng = np.random.default_rng(groups)
    rows = rng.integers(-largest, largest, (1000, 9, 6), endpoint=True).astype(np.int16)
    whole, parts = Gram(groups, 54 // groups), Gram(groups, 54 // groups)
    whole.add(rows)
    for part in np.array_split(rows[::-1], 7):
        parts.add(part)
    np.testing.assert_array_equal(whole.sums, parts.sums)
    split = rows.astype(np.int64).reshape(1000, 9, groups, -1).transpose(2, 0, 1, 3)
    split = split.reshape(groups, 1000, -1)
    np.testing.assert_array_equal(whole.sums, split.transpose(0, 2, 1) @ split)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("size", "strides", "dilation"),
    [((3, 3), (1, 1), (1, 1)), ((5, 2), (2, 3), (1, 1)), ((3, 3), (1, 1), (2, 3)), ((1, 1),) * 3],
)
def test_rows_times_the_kernel_are_the_convolution(padding, size, strides, dilation):
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 16, (4, 11, 12, 3)).astype(np.uint8)
    kernel = rng.integers(-7, 8, (*size, 3, 5)).astype(np.float32)
    layer = keras.layers.Conv2D(5, size, strides=strides, dilation_rate=dilation, padding=padding)
    wanted = tf.nn.conv2d(
        codes.astype(np.float32), kernel, strides, padding.upper(), dilations=dilation
    ).numpy()
    places = wanted.shape[1] * wanted.shape[2]
    positions = sample_positions("a", "b", 4, places, 7)
    rows = gather_rows(codes, Window.of(layer), positions)
    found = rows.reshape(len(rows), -1).astype(np.float32) @ kernel.reshape(-1, 5)
    chosen = wanted.reshape(4, places, 5)[np.arange(4)[:, None], positions]
    np.testing.assert_array_equal(found, chosen.reshape(-1, 5))


def test_positions_depend_on_layer_and_purpose_alone():
    first = sample_positions("conv", "rounding", 3, 100, 10)
    assert first.shape == (3, 10) and all(len(set(row)) == 10 for row in first.tolist())
    np.testing.assert_array_equal(first, sample_positions("conv", "rounding", 3, 100, 10))
    assert (first != sample_positions("conv", "means", 3, 100, 10)).any()
    assert (first != sample_positions("conv_1", "rounding", 3, 100, 10)).any()
    np.testing.assert_array_equal(sample_positions("conv", "rounding", 2, 3, 9), [[0, 1, 2]] * 2)
