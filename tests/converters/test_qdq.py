"""QDQ ONNX: Keras = integer reference = onnxruntime, layer by layer, at both optimization levels.

The networks are those of `tests/test_exactness.py`, one around each layer kind and geometry.
"""

import json

import keras
import numpy as np
import onnx
import pytest

import faq_keras
from faq_keras.cli.main import dispatch
from faq_keras.integer import reference
from faq_keras.integer.lowering import lower
from tests import material, networks
from tests.integer import programs
from tests.test_exactness import CASES, WIDTHS, dense_net, quantized

ort = pytest.importorskip("onnxruntime", reason="needs the extra [torch]")

from faq_keras.converters import ConversionError, qdq, qdq_parity  # noqa: E402

layers = keras.layers
LEVELS = ["onnxruntime ORT_DISABLE_ALL", "onnxruntime ORT_ENABLE_ALL"]


def exact(report):
    print(report)
    assert [run.runtime for run in report.runs] == LEVELS
    assert report.mismatches == 0
    assert report.values > 0


@pytest.mark.parametrize("name", CASES)
def test_network_equals_its_file(name, tmp_path):
    """Widths alternate over the cases: every layer at two of them; all codes of the input."""
    index = list(CASES).index(name)
    for bits in (WIDTHS[index % 4], WIDTHS[(index + 1 + index // 4 % 3) % 4]):
        q, x = quantized(CASES[name], bits)
        path = tmp_path / "m.onnx"
        exact(faq_keras.export_onnx(q, path))
        exact(faq_keras.export_onnx(q, path, verify=x))


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7, (8, 2), (3, 8), (8, 4)])
def test_every_width(bits, tmp_path):
    q, x = quantized(networks.tiny_resnet, bits)
    exact(faq_keras.export_onnx(q, tmp_path / "m.onnx", verify=x))


@pytest.mark.parametrize("name", ["max_pool", "average_pool_3_same", "dense", "conv_relu6"])
@pytest.mark.parametrize("bits", [3, 4])
def test_narrow_tensors_through_every_pool(name, bits, tmp_path):
    """onnxruntime has no 4-bit kernels: what it moves across a pool or reshape must stay valid."""
    q, x = quantized(CASES[name], bits)
    exact(faq_keras.export_onnx(q, tmp_path / "m.onnx", verify=x))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [4, 8])
def test_program_of_every_op_kind_equals_the_reference(bits, seed, tmp_path):
    """Built without Keras: zero points, halves and saturation as random programs have them."""
    b = programs.Builder(seed)
    act = programs.unsigned(bits, -1 if bits == 4 else -5)
    x = b.quantize(b.input((16, 16, 3), dtype="float32"), programs.signed(-6))
    x = b.conv(b.pad(x, 1, 1, 1, 1), 8, padding="valid", out=act)
    x = b.pool(x, "max_pool_2d", (3, 3), padding="same")
    for exponent in (-5, -3):
        y = b.conv(x, 8, bits=bits, out=programs.signed(exponent), activation=None)
        x = b.add(x, y, out=act)
    x = b.pool(b.quantize(x, programs.signed(-2)), "average_pool_2d")
    x = b.conv(x, 0, bits=bits, depthwise=True, strides=(2, 2), out=programs.unsigned(8, -6))
    x = b.pool(x, "average_pool_2d", (2, 3), (1, 1), "same")
    program = b.build(b.dense(b.global_pool(x, programs.unsigned(8, -7)), 10))
    feed = b.images(program, 32)
    path = tmp_path / "m.onnx"
    qdq.write(program, path)
    exact(qdq_parity.compare([feed], program, path))
    for name, codes in reference.run(program, feed).items():
        assert len(np.unique(codes)) > 3, name  # or the comparison shows nothing


@pytest.mark.parametrize("logits_bits", [8, 16])
def test_onnxruntime_gives_kerass_logits(logits_bits, tmp_path):
    """As a user runs it: NCHW in, logits out, default session."""
    q, x = quantized(networks.tiny_resnet, 4, logits_bits=logits_bits)
    path = tmp_path / "m.onnx"
    exact(faq_keras.export_onnx(q, path, verify=x))
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["batch", 3, 8, 8])
    assert (logits.type, logits.shape) == ("tensor(float)", ["batch", 5])
    for batch in (x, x[:1]):
        (got,) = session.run(None, {"image": batch.transpose(0, 3, 1, 2)})
        assert np.array_equal(got, q.predict(batch, verbose=0))


def test_types_are_the_plans(tmp_path):
    """W4A4: UINT4 activations, INT4 weights, INT8 and UINT8 ends, INT16 logits, INT32 biases."""
    q, _ = quantized(networks.tiny_resnet, 4)
    path = tmp_path / "m.onnx"
    faq_keras.export_onnx(q, path, verify=None)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    program = lower(q, "float32")
    for op in program.ops:
        if op.kind in ("conv_2d", "fully_connected"):
            kernel = program.tensors[op.inputs[1]]
            stored = constants[f"{kernel.name}/codes"]
            assert stored.dtype.name == ("int4" if kernel.bits <= 4 else "int8")
            assert sorted(stored.ravel().astype(int)) == sorted(kernel.data.ravel())
            assert constants[f"{op.inputs[2]}/codes"].dtype.name == "int32"
    quantizers = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    zeros = {n.output[0]: constants[n.input[2]] for n in quantizers}
    assert {value.item() for value in zeros.values()} == {0}
    types = [value.dtype.name for value in zeros.values()]
    assert types[0] == "int8" and types[-1] == "int16" and "uint4" in types
    scales = [v for n, v in constants.items() if n.endswith("/scale") and "ones" not in n]
    assert all((np.frexp(v)[0] == 0.5).all() for v in scales)


def test_metadata_tells_how_to_feed_the_file(tmp_path):
    q, _ = quantized(CASES["preprocessing"], 4)
    path = tmp_path / "m.onnx"
    faq_keras.export_onnx(q, path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["faq_keras"])
    plan = faq_keras.plan_of(q)
    assert facts["plan_hash"] == plan.hash
    assert facts["layout"] == "NCHW"
    assert [step["op"] for step in facts["preprocessing"]] == ["rescale", "normalize"]
    image, logits = facts["tensors"]
    assert image["name"] == session.get_inputs()[0].name
    assert image["shape"] == [1, *session.get_inputs()[0].shape[1:]]
    assert image["scale"] == plan["image"].output.step
    assert logits["name"] == session.get_outputs()[0].name
    assert set(facts["versions"]) == {"faq_keras", "tensorflow", "keras", "onnx"}


def test_faq_export_writes_it(tmp_path):
    q, x = quantized(networks.tiny_resnet, 4)
    q.save(tmp_path / "q.keras")
    np.savez(tmp_path / "x.npz", x=x)
    target = tmp_path / "m.onnx"
    arguments = [f"--output={target}", f"--verify_data={tmp_path / 'x.npz'}"]
    assert dispatch(["export", str(tmp_path / "q.keras"), *arguments]) == 0
    assert target.is_file()
    target.unlink()
    assert dispatch(["export", str(tmp_path / "q.keras"), *arguments, "--weights=int4"]) == 1
    assert not target.exists()


def test_equal_models_give_equal_files(tmp_path):
    q, _ = quantized(networks.tiny_resnet, 4)
    for name in ("a.onnx", "b.onnx"):
        faq_keras.export_onnx(q, tmp_path / name, verify=None)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


# ----------------------------------------------------------------------------------------- refusals


def test_a_wrong_file_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    """One bias differs from the model's."""
    q, x = quantized(networks.tiny_resnet, 4)
    honest = qdq.to_model

    def off_by_one(program):
        model = honest(program)
        for constant in model.graph.initializer:
            if constant.name == "conv2d_1/bias/codes":
                codes = onnx.numpy_helper.to_array(constant).copy()
                codes[2] += 100
                constant.CopyFrom(onnx.numpy_helper.from_array(codes, constant.name))
        return model

    monkeypatch.setattr(qdq, "to_model", off_by_one)
    with pytest.raises(faq_keras.ParityError, match="op 'conv2d_1'"):
        faq_keras.export_onnx(q, tmp_path / "m.onnx", verify=x)
    assert not list(tmp_path.iterdir())


def test_float_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="carries no quantization plan"):
        faq_keras.export_onnx(networks.tiny_resnet(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verify", ["sometimes", np.zeros((0, 8, 8, 3), np.float32)])
def test_bad_verification_is_refused(verify, tmp_path):
    q, _ = quantized(networks.tiny_resnet, 4)
    with pytest.raises(ValueError):
        faq_keras.export_onnx(q, tmp_path / "m.onnx", verify=verify)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    q, _ = quantized(networks.tiny_resnet, 4)
    with pytest.raises(OSError, match="does not exist"):
        faq_keras.export_onnx(q, tmp_path / "nowhere" / "m.onnx", verify=None)
    assert not list(tmp_path.iterdir())


def test_everything_without_a_qdq_form_is_listed(tmp_path):
    q, _ = quantized(dense_net, 8)
    with pytest.raises(ConversionError) as error:
        qdq.write(lower(q, softmax=True), tmp_path / "m.onnx")
    assert "(softmax) has no QDQ form" in str(error.value)
    assert "input_type='float32'" in str(error.value)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------- real networks


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["Fashion-MNIST ResNet", "MLPerf Tiny ResNet-8"])
def test_real_networks_on_1000_images(name, bits, data_dir, tmp_path):
    if name == "Fashion-MNIST ResNet":
        model, data = material.fashion_mnist(data_dir)
        calibration, images = data.x_train[:1280], data.x_test[:1000]
    else:
        model = material.resnet8(data_dir)
        cifar, _ = material.cifar10_images(data_dir, "test", 2280)
        calibration, images = cifar[1000:], cifar[:1000]
    q = faq_keras.apply(model, bits, calibration_data=calibration)
    report = faq_keras.export_onnx(q, tmp_path / "m.onnx", verify=images)
    print(f"{name} W{bits}A{bits}, {(tmp_path / 'm.onnx').stat().st_size:,} bytes")
    exact(report)
    assert report.values > 40_000_000
