"""The reference equals LiteRT for ARM, run by an emulator, in every value of every kernel.

The one program of all kernels runs on the other runtimes too: the same values for all of them.
"""

import dataclasses
import functools

import numpy as np
import pytest

import faq_keras
from faq_keras.integer.program import IntegerProgram
from faq_keras.tflite import loader, parity, runtimes, writer
from tests import networks
from tests.integer.programs import Builder, Format, logits, signed, small_resnet, unsigned

pytestmark = pytest.mark.usefixtures("aarch64")

RUNTIMES = ("aarch64", "aarch64-builtin")
ON_X86 = ("xnnpack", "builtin", "reference", "tflm")
S = signed(-4)
KINDS = {
    "conv_2d", "depthwise_conv_2d", "fully_connected", "add", "concatenation", "average_pool_2d",
    "max_pool_2d", "pad", "reshape", "quantize",
}  # fmt: skip


def use(monkeypatch, cpu):
    """Lets both runtimes emulate that processor."""
    for name in RUNTIMES:
        other = dataclasses.replace(runtimes.RUNTIMES[name], cpu=cpu)
        monkeypatch.setitem(runtimes.RUNTIMES, name, other)


def convolutions(b):
    """Every activation, both kinds of multipliers, all shapes that choose another kernel."""
    x, ones = b.input((9, 9, 16), S), np.ones(16)
    relu6 = unsigned(6, -3, limit=48)
    for multipliers in (ones, None):
        for activation, out in (("relu", unsigned(6, -3)), ("relu6", relu6), (None, signed(-3))):
            yield b.conv(x, 16, activation=activation, out=out, multipliers=multipliers)
    yield b.conv(x, 13, (1, 1), activation=None, out=signed(-3), multipliers=np.ones(13))
    yield b.conv(x, 16, strides=(2, 2), activation=None, out=signed(-3), multipliers=ones)
    yield b.conv(x, 16, groups=4, activation=None, out=signed(-3), multipliers=ones)
    yield b.conv(x, 24, (9, 9), padding="valid", activation=None, out=signed(-3))  # one pixel
    for above_1 in (1.3, 5.7):
        yield from scaled(b, x, 16, above_1)


def scaled(b, x, filters, multiplier, **options):
    """A convolution of small weights whose accumulators are multiplied by that number."""
    out, ones = Format(2.0**-4 / multiplier, 0), np.ones(filters)
    yield b.conv(
        x, filters, bits=2, activation=None, out=out, multipliers=ones, kernel_exponent=0, bias=5,
        **options,
    )  # fmt: skip


def depthwise_convolutions(b):
    """All that the 3x3 kernel takes, and all that it leaves to the general one."""
    for channels in (3, 8, 12, 16, 20):
        x = b.input((9, 9, channels), S)
        none = {"depthwise": True, "activation": None, "out": signed(-3)}
        yield b.conv(x, 0, multipliers=np.ones(channels), **none)
        yield b.conv(x, 0, multipliers=np.ones(channels), strides=(2, 2), padding="valid", **none)
        yield b.conv(x, 0, (5, 5), **none)
        for options in ({"kernel": (5, 5)}, {"dilations": (2, 2)}):
            yield from scaled(b, x, channels, 1.7, depthwise=True, **options)
    x = b.input((9, 9, 6), S)
    yield b.conv(x, 0, depth_multiplier=2, multipliers=np.ones(12), **none)
    yield b.conv(x, 0, (9, 9), padding="valid", multipliers=np.ones(6), **none)


def dense_layers(b):
    x = b.input((64,), S)
    for units in (3, 32, 37):
        yield b.dense(x, units, out=logits(-8))
        yield b.dense(x, units, bits=2, out=signed(-2), kernel_exponent=0)  # one of 4 is a tie
    yield b.dense(x, 32, activation="relu", out=unsigned(4, -1))
    yield b.dense(b.input((16,), unsigned(2, -4)), 32, bits=2, kernel_exponent=0, bias=1,
                  out=Format(2.0**-4 / 1.3, 0))  # fmt: skip


def additions(b):
    for exponent in (-6, -1, 0, 3):
        x, y = b.input((5, 5, 16), signed(exponent)), b.input((5, 5, 16), unsigned(8, -1))
        yield b.add(x, y, unsigned(8, 0), "relu")
        yield b.add(x, y, signed(0), None)


def requantizations(b):
    for exponent in (-10, -9, -8, -5, -1, 0, 1, 7, 8):
        for source in (unsigned(8, exponent), signed(exponent)):
            yield b.quantize(b.input((64,), source), signed(0))
    for target in (signed(-5), unsigned(4, -1), Format(0.037, 7)):
        yield b.quantize(b.input((400,), dtype="float32"), target)


def moves(b):
    """Pools and what only moves codes."""
    x = b.input((8, 8, 20), S)
    for kind in ("max_pool_2d", "average_pool_2d"):
        for padding in ("same", "valid"):
            yield b.pool(x, kind, (3, 2), (2, 2), padding)
    yield b.pool(x, "average_pool_2d", (8, 8), (1, 1))
    yield b.concat(b.pad(x, 1, 0, 0, 1), b.pad(b.input((8, 8, 3), S), 0, 1, 1, 0))
    yield b.reshape(x, (64, 20))


GROUPS = (convolutions, depthwise_convolutions, dense_layers, additions, requantizations, moves)


@functools.cache
def every_kernel() -> tuple[Builder, IntegerProgram]:
    """One program of them all: starting the emulator takes longer than running it."""
    b = Builder(11)
    outputs = [output for group in GROUPS for output in group(b)]
    return b, b.build(*outputs)


def with_ties(feed):
    """Random codes; random floats on a grid that has halves of every power-of-two step in use."""
    on_grid = {name: np.round(x * 64) / 64 for name, x in feed.items() if x.dtype == np.float32}
    return {**feed, **{name: x.astype(np.float32) for name, x in on_grid.items()}}


@pytest.mark.parametrize(
    ("cpu", "batch"), [("cortex-a76", 1), ("cortex-a76", 8), ("cortex-a53", 8)]
)
def test_every_kernel(cpu, batch, tmp_path, monkeypatch):
    use(monkeypatch, cpu)
    builder, program = every_kernel()
    writer.write(program, tmp_path / "m.tflite")
    feed = with_ties(builder.images(program, batch))
    report = parity.compare(feed, program, tmp_path / "m.tflite", (*ON_X86, *RUNTIMES))
    print(f"\n{report}")
    for run in report.runs:
        for kind in sorted(KINDS):
            found = [result for result in run.results if result.kind == kind]
            values, wrong = (sum(getattr(r, f) for r in found) for f in ("values", "mismatches"))
            print(f"{run.runtime} on {cpu}, batch {batch}: {kind}: {wrong} of {values:,}")
            assert values > 0
        assert {result.kind for result in run.results} == KINDS
    assert [run.versions.get("cpu") for run in report.runs] == [None] * len(ON_X86) + [cpu] * 2
    assert report.mismatches == 0, str(report)


@pytest.mark.parametrize("weights, bits", [("int8", 8), ("int4", 4)])
def test_networks_of_every_op(bits, weights, tmp_path):
    builder, program = small_resnet(bits, bits=bits, activation_bits=bits)
    path = tmp_path / "m.tflite"
    writer.write(program, path, weights)
    report = parity.compare(builder.images(program, 20), program, path, RUNTIMES)
    print(f"\n{report}")
    assert report.mismatches == 0, str(report)
    assert [run.runtime for run in report.runs] == list(RUNTIMES)
    assert report.values == 2 * report.runs[0].values > 0


def test_xnnpack_on_arm_equals_keras(tmp_path):
    """It rounds as the network was trained, so it is held to the Keras model's codes."""
    x = networks.images(40)
    q = faq_keras.apply(networks.tiny_resnet(), 4, calibration_data=x)
    path = tmp_path / "m.tflite"
    faq_keras.export_tflite(q, path, "int4", verify=x)
    labels = q.predict(x, verbose=0).argmax(axis=1)
    report = faq_keras.verify(q, path, x, ("aarch64",), labels=labels)
    print(report)
    assert report.mismatches == 0
    assert report.runs[0].top1 == report.runs[0].expected_top1 == 1.0
    found = faq_keras.tflite.load(path, runtime="aarch64")(x)
    assert np.array_equal(found, q.predict(x, verbose=0))


def test_wrong_keras_codes_are_found_on_arm_too(tmp_path):
    b, program = small_resnet(3)
    writer.write(program, tmp_path / "m.tflite")
    feed = b.images(program, 2)
    name = program.activations()[1]
    wrong = loader.load(tmp_path / "m.tflite").tensors(feed)[name].copy()
    wrong[1, 2, 3, 4] ^= 1
    report = parity.compare(feed | {name: wrong}, program, tmp_path / "m.tflite", ("aarch64",))
    assert report.mismatches == 1
    assert report.runs[0].first_mismatch[:2] == (name, (1, 2, 3, 4))


def test_the_3x3_kernel_loses_low_bits_for_multipliers_from_1_on(tmp_path):
    """The one place where the built-in profile does not hold; below 1 it does (`every_kernel`)."""
    b = Builder(3)
    x = b.input((9, 9, 16), S)
    outputs = [y for m in (1.7, 5.7) for y in scaled(b, x, 16, m, depthwise=True)]
    program = b.build(*outputs)
    writer.write(program, tmp_path / "m.tflite")
    report = parity.compare(b.images(program, 4), program, tmp_path / "m.tflite", RUNTIMES)
    print(f"\n{report}")
    xnnpack, builtin = report.runs
    assert xnnpack.mismatches == 0
    largest = {result.name: result.largest_difference for result in builtin.results}
    assert [largest[name] for name in outputs] == [1, 4]
