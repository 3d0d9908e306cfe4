"""The integer reference has a profile per runtime, and equals each runtime in every value."""

import sys

import numpy as np
import pytest

from faq_keras.tflite import loader, parity, writer
from tests.integer.programs import Builder, Format, logits, signed, small_resnet, unsigned

RUNTIMES = ("builtin", "reference", "tflm")


def assert_exact_everywhere(builder, output, tmp_path, images=16):
    program = builder.build(output)
    path = tmp_path / "m.tflite"
    writer.write(program, path)
    report = parity.compare(builder.images(program, images), program, path, RUNTIMES)
    print(f"\n{report}")
    assert [run.runtime for run in report.runs] == list(RUNTIMES)
    assert report.mismatches == 0 and min(run.values for run in report.runs) > 0, str(report)


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_networks_of_every_op(bits, weights, tmp_path):
    builder, program = small_resnet(bits, bits=bits, activation_bits=max(bits, 4))
    path = tmp_path / "m.tflite"
    writer.write(program, path, weights)
    feed = builder.images(program, 20)
    report = parity.compare(feed, program, path, ("xnnpack", *RUNTIMES))
    print(f"\n{report}")
    assert report.mismatches == 0, str(report)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("powers", [False, True], ids=["8-bit multipliers", "powers of two"])
@pytest.mark.parametrize("activation", ["relu", "relu6", None])
def test_convolutions(depthwise, powers, activation, tmp_path):
    b = Builder(1)
    x = b.input((9, 9, 16), signed(-4))
    out = (
        signed(-3)
        if activation is None
        else unsigned(6, -3, limit=48 if activation == "relu6" else None)
    )
    multipliers = np.ones(16) if powers else None
    y = b.conv(x, 16, depthwise=depthwise, out=out, activation=activation, multipliers=multipliers)
    assert_exact_everywhere(b, y, tmp_path)


@pytest.mark.parametrize("batch", [1, 2, 40])
@pytest.mark.parametrize("out", [signed(-3), logits(-8)], ids=["8 bits", "16 bits"])
def test_dense_layers(batch, out, tmp_path):
    b = Builder(batch)
    assert_exact_everywhere(b, b.dense(b.input((64,), signed(-4)), 32, out=out), tmp_path, batch)


@pytest.mark.parametrize("exponent", [-6, -1, 0, 3])
@pytest.mark.parametrize("activation", ["relu", None])
def test_additions(exponent, activation, tmp_path):
    b = Builder(30 + exponent)
    x, y = b.input((9, 9, 16), signed(exponent)), b.input((9, 9, 16), unsigned(8, -1))
    out = unsigned(8, 0) if activation else signed(0)
    assert_exact_everywhere(b, b.add(x, y, out, activation), tmp_path)


@pytest.mark.parametrize("exponent", [-9, -5, -1, 0, 1, 3])
def test_requantizations(exponent, tmp_path):
    b = Builder(30 + exponent)
    assert_exact_everywhere(
        b, b.quantize(b.input((64,), unsigned(8, exponent)), signed(0)), tmp_path
    )


@pytest.mark.parametrize("target", [signed(-5), unsigned(4, -1), Format(0.037, 7)], ids=str)
def test_float_inputs(target, tmp_path):
    b = Builder(1)
    assert_exact_everywhere(b, b.quantize(b.input((400,), dtype="float32"), target), tmp_path, 64)


@pytest.mark.parametrize("kind", ["max_pool_2d", "average_pool_2d"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_pools(kind, padding, tmp_path):
    b = Builder(1)
    x = b.pool(b.input((7, 9, 6), signed(-4)), kind, (3, 2), (2, 2), padding)
    assert_exact_everywhere(b, x, tmp_path)


def test_runtimes_differ_from_one_another(tmp_path):
    """Why a claim of exactness has to name its runtime."""
    builder, program = small_resnet(seed=5, bits=8, activation_bits=4)
    writer.write(program, tmp_path / "m.tflite")
    feed = builder.images(program, 20)
    codes = {
        name: loader.load(tmp_path / "m.tflite", name).tensors(feed)["conv_2d_3"]
        for name in ("xnnpack", *RUNTIMES)
    }
    different = {name: int(np.sum(codes["xnnpack"] != found)) for name, found in codes.items()}
    print(f"{codes['xnnpack'].size:,} values of a convolution, other than XNNPACK's: {different}")
    assert different["xnnpack"] == 0 and different["tflm"] == different["reference"] > 0


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    b = Builder(1)
    writer.write(b.build(b.conv(b.input((4, 4, 1)), 1)), tmp_path / "m.tflite")
    monkeypatch.setitem(sys.modules, "tflite_micro.python.tflite_micro.runtime", None)
    with pytest.raises(ValueError, match="needs the package tflite-micro: pip install"):
        loader.load(tmp_path / "m.tflite", "tflm")
