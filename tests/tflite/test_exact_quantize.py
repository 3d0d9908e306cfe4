"""QUANTIZE from float32, uint8 and between int8 tensors: the reference equals XNNPACK."""

import numpy as np
import pytest

from faq_keras.integer import reference
from faq_keras.tflite import loader, writer
from tests.integer.programs import Builder, Format, signed, unsigned
from tests.tflite.exactness import assert_exact

TARGETS = [unsigned(8, -6), signed(-5), unsigned(4, -2), Format(0.0123, 7)]


@pytest.mark.parametrize("exponent", range(-10, 10))
@pytest.mark.parametrize("formats", [(unsigned, signed), (signed, signed), (signed, unsigned)])
def test_every_ratio_between_int8_tensors(exponent, formats, tmp_path):
    source, target = (
        f(e) if f is signed else f(8, e) for f, e in zip(formats, (exponent, 0), strict=True)
    )
    b = Builder(20 + exponent)
    y = b.quantize(b.input((16, 16), source), target)
    _, _, (report,) = assert_exact(b, y, tmp_path, least_values=1)
    assert (report.runs[0].undelegated == ()) == (-8 <= exponent <= 7)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_floats_with_exact_halves_and_saturation(target, tmp_path):
    b = Builder(1)
    x = b.input((9, 9, 4), dtype="float32")
    program = b.build(b.quantize(x, target))
    values = b.images(program, 50)[x]
    steps = np.float32(target.scale) * (np.arange(-300, 300, dtype=np.float32) + np.float32(0.5))
    values.ravel()[: steps.size] = steps
    values.ravel()[-2:] = 1e30, -1e30
    want = reference.run(program, values)
    runner = _runner(program, tmp_path)
    got = runner.tensors(values)
    print(f"{want[program.outputs[0]].size:,} values")
    np.testing.assert_array_equal(got[program.outputs[0]], want[program.outputs[0]])


@pytest.mark.parametrize("target", TARGETS[:3], ids=str)
def test_the_runner_converts_floats_as_the_kernel_does(target, tmp_path):
    """An int8 file fed with floats equals a float32 file."""
    converting, direct = Builder(1), Builder(1)
    x = converting.quantize(converting.input((8, 8, 2), dtype="float32"), target)
    y = direct.input((8, 8, 2), target)
    outputs = [b.pool(t, "max_pool_2d") for b, t in ((converting, x), (direct, y))]
    values = np.random.default_rng(0).normal(0, 2, (20, 8, 8, 2)).astype(np.float32)
    values.ravel()[:200] = target.scale * (np.arange(-100, 100) + 0.5)
    results = [
        _runner(b.build(output), tmp_path)(values)
        for b, output in zip((converting, direct), outputs, strict=True)
    ]
    np.testing.assert_array_equal(*results)


def test_uint8_inputs_of_equal_scale(tmp_path):
    b = Builder(2)
    x = b.input((6, 6, 3), unsigned(8, -7), dtype="uint8")
    y = b.conv(b.quantize(x, unsigned(8, -7)), 8)
    assert_exact(b, y, tmp_path)


def test_int8_to_int16_is_exact(tmp_path):
    b = Builder(3)
    assert_exact(b, b.dense(b.input((256,), signed(-4)), 4), tmp_path)


def _runner(program, tmp_path):
    writer.write(program, tmp_path / "m.tflite")
    return loader.load(tmp_path / "m.tflite")
