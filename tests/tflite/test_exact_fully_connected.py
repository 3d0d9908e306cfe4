"""FULLY_CONNECTED with int8 outputs and as a 16-bit head: the reference equals XNNPACK."""

import numpy as np
import pytest

from faq_keras.integer import reference
from tests.integer.programs import Builder, Format, logits, signed, unsigned
from tests.tflite.exactness import assert_exact


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
@pytest.mark.parametrize("activation", ["relu", "relu6", None])
def test_hidden_layers_of_every_width_packed_or_not(bits, activation, tmp_path):
    b = Builder(bits)
    x = b.input((48,), unsigned(4, -2))
    out = (
        signed(-4)
        if activation is None
        else unsigned(6, -3, limit=48 if activation == "relu6" else None)
    )
    y = b.dense(x, 33, bits=bits, activation=activation, out=out)
    _, _, reports = assert_exact(b, y, tmp_path, weights=("int8", "int4"), least_values=20)
    assert all(report.runs[0].undelegated == () for report in reports)


@pytest.mark.parametrize("features", [1, 3, 16, 63, 512, 1280])
def test_16_bit_heads_of_every_size(features, tmp_path):
    b = Builder(features)
    x = b.input((features,), unsigned(8, -7))
    assert_exact(b, b.dense(x, 11, out=logits(-9)), tmp_path, images=64, least_values=50)


@pytest.mark.parametrize("source", [unsigned(8, -7), unsigned(4, -2), signed(-5)], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_16_bit_heads_of_every_input(source, bits, tmp_path):
    b = Builder(bits)
    x = b.input((40,), source)
    y = b.dense(x, 10, bits=bits, out=logits(-8))
    assert_exact(b, y, tmp_path, weights=("int8", "int4"), least_values=50)


@pytest.mark.parametrize("exponent", [-20, -14, -10, -6, -3, -1, 0, 2])
def test_16_bit_heads_round_halves_away_and_saturate(exponent, tmp_path):
    """Steps from far coarser to finer than the accumulator's, biases that reach both ends."""
    b = Builder(40 + exponent)
    x = b.input((16,), unsigned(8, 0))
    y = b.dense(x, 64, out=logits(0), kernel_exponent=exponent, bias=2 ** min(22, 16 - exponent))
    program, feed, _ = assert_exact(b, y, tmp_path, images=64)
    codes = reference.run(program, feed)[y]
    if exponent > -6:
        assert codes.min() == -32768 and codes.max() == 32767


def test_8_bit_logits(tmp_path):
    b = Builder(9)
    x = b.input((64,), unsigned(8, -7))
    assert_exact(b, b.dense(x, 100, out=signed(-2)), tmp_path, least_values=100)


def test_arbitrary_float_scales(tmp_path):
    b = Builder(3)
    x = b.input((64,), Format(0.0371, -17))
    y = b.dense(x, 32, activation="relu", out=Format(0.0123, -100))
    assert_exact(b, b.dense(y, 10, out=signed(-3)), tmp_path, least_values=20)


@pytest.mark.parametrize("batch", [1, 2, 50])
def test_every_batch_size(batch, tmp_path):
    b = Builder(batch)
    x = b.input((20,))
    assert_exact(b, b.dense(b.dense(x, 16, out=unsigned(8, -3)), 10), tmp_path, images=batch)


def test_int64_biases_as_large_as_int32(tmp_path):
    """The largest that lowering admits; LiteRT's kernel is wrong from 2^34 on."""
    b = Builder(4)
    x = b.input((8,), unsigned(8, 0))
    y = b.dense(x, 32, out=logits(0), kernel_exponent=-17, bias=2**31 - 1)
    program, feed, _ = assert_exact(b, y, tmp_path)
    assert np.ptp(reference.run(program, feed)[y].astype(int)) > 10000
