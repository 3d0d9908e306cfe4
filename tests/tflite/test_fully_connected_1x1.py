"""1x1 convolutions as packed FULLY_CONNECTED: exact and delegated without the unpacking loader."""

import dataclasses
import json

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.integer import layout, reference
from faq_keras.tflite import flatbuffer, loader, model_file, parity, writer
from faq_keras.tflite.audit import AuditError, audit
from tests.integer.programs import Builder, signed, unsigned
from tests.networks import conv_bn_relu, images, randomize, tiny_resnet

STOCK = "xnnpack (packed)"
RUNTIMES = ("xnnpack", "builtin", "reference", "tflm")


def mobile(seed=1, size=(8, 8)):
    """An inverted residual, an odd number of channels, a strided 1x1 and two dense layers."""
    b = Builder(seed)
    act = unsigned(4, -1)
    x = b.conv(b.input((*size, 3)), 16, out=act)
    y = b.conv(x, 24, (1, 1), bits=4, out=act)
    y = b.conv(y, 0, bits=4, depthwise=True, out=act)
    y = b.conv(y, 16, (1, 1), bits=4, out=signed(-5), activation=None)
    x = b.add(x, y, out=act)
    x = b.conv(x, 17, (1, 1), bits=4, out=act)
    x = b.conv(x, 16, (1, 1), bits=4, out=act)
    x = b.conv(x, 16, (1, 1), strides=(2, 2), bits=4, out=act)
    x = b.dense(b.global_pool(x, unsigned(8, -7)), 12, bits=4, out=unsigned(8, -4))
    return b, b.build(b.dense(x, 10))


def compare(builder, program, path, runtimes=("xnnpack",), count=16):
    """Writes a packed file of the layout and compares every tensor."""
    laid_out = layout.fully_connected_1x1(program)
    writer.write(laid_out, path, "int4")
    audit(path, laid_out, "int4")
    return parity.compare(builder.images(program, count), laid_out, path, runtimes)


@pytest.fixture(scope="module")
def network():
    return mobile()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    """The network's packed file. Do not change it."""
    path = tmp_path_factory.mktemp("layout") / "m.tflite"
    writer.write(layout.fully_connected_1x1(network[1]), path, "int4")
    return path


# ------------------------------------------------------------------------------------- the layout


def test_only_the_form_of_the_kernels_changes(network):
    _, program = network
    laid_out = layout.fully_connected_1x1(program)
    before = {op.name: op.kind for op in program.ops}
    changed = [op.name for op in laid_out.ops if op.kind != before[op.name]]
    assert changed == ["conv_2d_2", "conv_2d_4", "conv_2d_6"]
    dense = next(op for op in program.ops if op.kind == "fully_connected")
    for name, tensor in laid_out.tensors.items():
        old = program.tensors[name]
        if name in dense.inputs[1:]:
            assert tensor == dataclasses.replace(old, scale=old.scale * 12, axis=0)
            assert tensor.data is old.data
        elif name.removesuffix("/kernel") in changed and name.endswith("/kernel"):
            assert tensor.shape == (old.shape[0], old.shape[3])
            assert tensor == dataclasses.replace(old, shape=tensor.shape)
            np.testing.assert_array_equal(tensor.data.ravel(), old.data.ravel())
        else:
            assert tensor is old
    feed = network[0].images(program, 8)
    want, found = reference.run(program, feed), reference.run(laid_out, feed)
    assert list(want) == list(found)
    for name in want:
        np.testing.assert_array_equal(found[name], want[name])


def test_packed_is_what_xnnpack_takes_packed(network):
    _, program = network
    convolutions = ["conv_2d_2", "conv_2d_4", "conv_2d_6"]
    dense = next(op.name for op in program.ops if op.kind == "fully_connected")
    everything = layout.packed_tensors(program)
    packed = layout.packed_tensors(layout.fully_connected_1x1(program))
    assert packed == {f"{name}/kernel" for name in [*convolutions, dense]}
    assert packed < everything and len(everything) == len(packed) + 3


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": (3, 3)},
        {"kernel": (1, 3)},
        {"strides": (2, 2)},
        {"strides": (1, 2)},
        {"bits": 5},
        {"bits": 8},
        {"groups": 2},
        {"depthwise": True},
        {"channels": 15},
        {"filters": 1},
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(change):
    b = Builder(1)
    x = b.input((6, 6, change.pop("channels", 16)))
    y = b.conv(x, change.pop("filters", 8), **{"kernel": (1, 1), "bits": 4, **change})
    program = b.build(y)
    laid_out = layout.fully_connected_1x1(program)
    assert laid_out == dataclasses.replace(program, fully_connected_1x1=True)
    assert layout.packed_tensors(laid_out) == frozenset()


# --------------------------------------------------------------------------------------- exactness


def test_a_network_is_exact_on_every_runtime_and_packed_on_the_stock_interpreter(network, tmp_path):
    report = compare(*network, tmp_path / "m.tflite", RUNTIMES)
    print(f"\n{report}")
    assert [run.runtime for run in report.runs] == ["xnnpack", STOCK, *RUNTIMES[1:]]
    assert report.mismatches == 0 and min(run.values for run in report.runs) > 100_000, str(report)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(
    ("out", "activation"),
    [
        (unsigned(8, -4), "relu"),
        (unsigned(4, -1), "relu"),
        (unsigned(2, 1), "relu"),
        (unsigned(8, -5, limit=192), "relu6"),
        (signed(-4), None),
    ],
    ids=str,
)
def test_every_width_and_output(bits, out, activation, padding, tmp_path):
    b = Builder(bits)
    x = b.input((7, 5, 16), unsigned(4, -2))
    y = b.conv(x, 24, (1, 1), bits=bits, out=out, activation=activation, padding=padding)
    report = compare(b, b.build(y), tmp_path / "m.tflite", RUNTIMES)
    assert report.mismatches == 0 and [run.undelegated for run in report.runs] == [()] * 5


@pytest.mark.parametrize("source", [unsigned(8, -7), unsigned(4, -2), signed(-5)], ids=str)
@pytest.mark.parametrize(("channels", "filters"), [(2, 2), (2, 3), (18, 9), (64, 65), (130, 8)])
def test_every_zero_point_and_remainder_of_the_vector_width(source, channels, filters, tmp_path):
    b = Builder(channels)
    y = b.conv(b.input((4, 5, channels), source), filters, (1, 1), bits=4)
    report = compare(b, b.build(y), tmp_path / "m.tflite")
    assert [run.runtime for run in report.runs] == ["xnnpack", STOCK]
    assert report.mismatches == 0 and report.runs[1].undelegated == ()


def test_exact_halves_go_to_the_even_code(tmp_path):
    b = Builder(3)
    y = b.conv(b.input((8, 8, 4)), 8, (1, 1), bits=4, out=signed(-2), activation=None,
               multipliers=np.ones(8))  # fmt: skip
    program = b.build(y)
    report = compare(b, program, tmp_path / "m.tflite")
    assert report.mismatches == 0
    writer.write(layout.fully_connected_1x1(program), tmp_path / "m.tflite", "int4")
    feed = b.images(program, 16)
    codes = [
        loader.load(tmp_path / "m.tflite", name, keep_packed=True).run_int8(feed)
        for name in ("xnnpack", "builtin")
    ]
    assert np.sum(codes[0] != codes[1]) > codes[0].size / 100  # there are halves to decide


def test_batches_of_changing_size(network, file):
    builder, program = network
    feed = builder.images(program, 20)["input_0"]
    want = reference.run(program, feed)[program.outputs[0]]
    for threads in (1, 2):
        runner = loader.load(file, num_threads=threads, keep_packed=True)
        for batch in (1, 20, 3, 1):
            np.testing.assert_array_equal(runner.run_int8(feed[:batch]), want[:batch])


def test_packed_convolutions_are_what_this_layout_avoids(network, tmp_path):
    """The plain packed file on the stock interpreter: not delegated, and other integers."""
    builder, program = network
    writer.write(program, tmp_path / "m.tflite", "int4")
    runner = loader.load(tmp_path / "m.tflite", keep_packed=True)
    assert {"conv_2d_2", "conv_2d_4", "conv_2d_6"} <= set(runner.undelegated)
    feed = builder.images(program, 20)
    want, found = reference.run(program, feed), runner.tensors(feed)
    assert np.sum(found["conv_2d_2"] != want["conv_2d_2"]) > 0


def test_xnnpack_leaves_packed_kernels_of_odd_rows_to_others(tmp_path, monkeypatch):
    """Why an even number of input channels is asked for; and that a comparison would notice."""
    monkeypatch.setattr(layout, "_is_delegated", lambda kernel: True)
    b = Builder(2)
    y = b.conv(b.input((9, 9, 17), unsigned(4, -2)), 9, (1, 1), bits=4, out=signed(-4))
    unpacked, packed = compare(b, b.build(y), tmp_path / "m.tflite").runs
    assert unpacked.mismatches == 0 and unpacked.undelegated == ()
    assert packed.mismatches > 0 and packed.undelegated == (y,)


def test_on_arm(network, file, aarch64):
    builder, program = network
    laid_out = layout.fully_connected_1x1(program)
    feed = builder.images(program, 4)
    report = parity.compare(feed, laid_out, file, ("aarch64", "aarch64-builtin"))
    print(f"\n{report}")
    assert [run.runtime for run in report.runs] == [
        "aarch64",
        "aarch64 (packed)",
        "aarch64-builtin",
    ]
    assert report.mismatches == 0, str(report)
    assert report.runs[0].undelegated == report.runs[1].undelegated


# ---------------------------------------------------------------------------------------- the file


def test_packed_and_unpacked_are_delegated_alike(file):
    both = [loader.load(file, keep_packed=keep) for keep in (True, False)]
    assert [runner.packed for runner in both] == [True, False]
    assert both[0].undelegated == both[1].undelegated
    assert {name.rsplit("_", 1)[0] for name in both[0].undelegated} == {"widen", "fully_connected"}


def test_versions_and_the_oldest_runtime(network, file, tmp_path):
    """12: a scale per channel, packed or not; the head has one scale."""
    unpacked = tmp_path / "unpacked.tflite"
    loader.unpack(file, unpacked)
    for path, versions in ((file, [12, 12, 12, 12, 7]), (unpacked, [12, 12, 12, 12, 7])):
        found = model_file.read(path)
        ops = [
            (op, found.model.operatorCodes[op.opcodeIndex].version)
            for op in found.graph.operators
            if flatbuffer.op_name(found.model, op) == "FULLY_CONNECTED"
        ]
        assert [version for _, version in ops] == versions
        assert [op.builtinOptions.keepNumDims for op, _ in ops] == [True] * 3 + [False] * 2
        audit(path, layout.fully_connected_1x1(network[1]))
    entry = next(m for m in found.model.metadata if m.name == b"min_runtime_version")
    data = found.model.buffers[entry.buffer].data
    assert bytes(data).rstrip(b"\0") == b"2.17.0"


def test_the_audit_tells_the_layouts_apart(network, file, tmp_path):
    _, program = network
    with pytest.raises(AuditError, match=r"op 'conv_2d_2' \(conv_2d\) is FULLY_CONNECTED"):
        audit(file, program)
    writer.write(program, tmp_path / "plain.tflite", "int4")
    with pytest.raises(AuditError, match=r"'conv_2d_2' \(fully_connected\) is CONV_2D"):
        audit(tmp_path / "plain.tflite", layout.fully_connected_1x1(program))


def test_microcontrollers_refuse_it_packed(file):
    with pytest.raises(ValueError, match="The runtime 'tflm' refuses the model"):
        loader.load(file, "tflm", keep_packed=True)


# ----------------------------------------------------------------------------------- Keras models


@pytest.fixture(scope="module")
def quantized():
    """A W4A4 network with 1x1 convolutions: an inverted residual."""
    keras.utils.clear_session(free_memory=False)
    inputs = keras.Input((8, 8, 3), name="image")
    x = conv_bn_relu(inputs, 8)
    y = conv_bn_relu(x, 24, 1)
    y = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
    y = keras.layers.ReLU()(keras.layers.BatchNormalization()(y))
    x = keras.layers.Add()([conv_bn_relu(y, 8, 1, relu=False), x])
    x = keras.layers.GlobalAveragePooling2D()(conv_bn_relu(keras.layers.ReLU()(x), 16, 1))
    model = randomize(keras.Model(inputs, keras.layers.Dense(5)(x), name="mobile"))
    return faq_keras.apply(model, 4, calibration_data=images(16))


def test_keras_reference_and_both_ways_to_run_the_file_agree(quantized, tmp_path):
    path, x = tmp_path / "m.tflite", images(40, seed=2)
    report = faq_keras.export_tflite(quantized, path, "int4", verify=x, fully_connected_1x1=True)
    print(f"\n{report}")
    assert [run.runtime for run in report.runs] == ["xnnpack", STOCK]
    assert report.mismatches == 0 and report.runs[0].values == report.runs[1].values > 200_000
    again = faq_keras.verify(quantized, path, x)
    assert [run.runtime for run in again.runs] == ["xnnpack", STOCK] and again.mismatches == 0
    np.testing.assert_array_equal(loader.load(path)(x), quantized.predict(x, verbose=0))


def test_the_file_and_its_card_say_so(quantized, tmp_path):
    path = tmp_path / "m.tflite"
    sizes = {}
    for flag in (True, False):
        faq_keras.export_tflite(quantized, path, "int4", verify=None, fully_connected_1x1=flag)
        card = json.loads(path.with_suffix(".model_card.json").read_text())
        assert model_file.read(path).metadata.get("fully_connected_1x1", False) is flag
        assert card.get("fully_connected_1x1", False) is flag
        assert card["audit"]["operators"]["FULLY_CONNECTED"] == (4 if flag else 1)
        sizes[flag] = card["audit"]["packed_tensors"]
    assert sizes == {True: 3, False: 4}  # the depthwise kernel stays int8


def test_an_unpacked_file_is_recognised(quantized, tmp_path):
    path, unpacked = tmp_path / "m.tflite", tmp_path / "m8.tflite"
    faq_keras.export_tflite(quantized, path, "int4", verify=None, fully_connected_1x1=True)
    loader.unpack(path, unpacked)
    report = faq_keras.verify(quantized, unpacked, images(8), RUNTIMES)
    assert [run.runtime for run in report.runs] == list(RUNTIMES)  # nothing packed to run
    assert report.mismatches == 0, str(report)


def test_a_runtime_that_rounds_packed_kernels_in_another_way_is_found_out(
    quantized, tmp_path, monkeypatch
):
    """As LiteRT 1.2 does, which runs them without the delegate."""
    honest = loader.Runner.tensors

    def undelegated(self, x):
        other = loader.load(tmp_path / "copy.tflite", "builtin", keep_packed=True)
        return honest(other if self.packed else self, x)

    faq_keras.export_tflite(
        quantized, tmp_path / "copy.tflite", "int4", verify=None, fully_connected_1x1=True
    )
    monkeypatch.setattr(loader.Runner, "tensors", undelegated)
    with pytest.raises(faq_keras.ParityError, match=r"on xnnpack \(packed\), op 'conv2d"):
        faq_keras.export_tflite(
            quantized, tmp_path / "m.tflite", "int4", images(40), fully_connected_1x1=True
        )
    assert not (tmp_path / "m.tflite").exists()


def test_int8_weights_are_refused(quantized, tmp_path):
    with pytest.raises(ValueError, match="weights is 'int8': pass weights='int4'"):
        faq_keras.export_tflite(quantized, tmp_path / "m.tflite", fully_connected_1x1=True)
    assert list(tmp_path.iterdir()) == []


def test_networks_without_1x1_convolutions_are_refused(tmp_path):
    q = faq_keras.apply(tiny_resnet(), 4, calibration_data=images(8))  # its only 1x1 has stride 2
    with pytest.raises(ValueError, match=r"'tiny_resnet' has no 1x1 convolution .* pack nothing"):
        faq_keras.export_tflite(q, tmp_path / "m.tflite", "int4", fully_connected_1x1=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, (4, 8)], ids=["W4A4", "W4A8"])
def test_a_whole_mobilenet_v2(bits, tmp_path):
    """34 packed convolutions at native resolution, every tensor."""
    model = randomize(keras.applications.MobileNetV2(weights=None))
    x = images(4, (224, 224, 3))
    q = faq_keras.apply(model, bits, calibration_data=x)
    path = tmp_path / "m.tflite"
    report = faq_keras.export_tflite(q, path, "int4", verify=x, fully_connected_1x1=True)
    print(f"\n{report}")
    assert [run.runtime for run in report.runs] == ["xnnpack", STOCK]
    assert report.mismatches == 0
    operators = model_file.read(path).operators
    assert (operators.count("FULLY_CONNECTED"), operators.count("CONV_2D")) == (35, 1)
