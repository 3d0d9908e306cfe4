"""`faq export --fully_connected_1x1`, and `faq verify` of what it writes."""

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.tflite import model_file
from tests.networks import conv_bn_relu, images, randomize


@pytest.fixture(scope="module")
def pointwise(tmp_path_factory):
    """Paths of a W4A4 network with a 1x1 convolution, and of inputs for it."""
    folder = tmp_path_factory.mktemp("pointwise")
    inputs = keras.Input((8, 8, 3), name="image")
    x = conv_bn_relu(conv_bn_relu(conv_bn_relu(inputs, 8), 16, 1), 8)
    x = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))
    model = randomize(keras.Model(inputs, x, name="pointwise"))
    faq_keras.apply(model, 4, calibration_data=images(8)).save(folder / "model.keras")
    np.savez(folder / "x.npz", x=images(8))
    return folder / "model.keras", folder / "x.npz"


def test_export_and_verify_run_the_file_packed_too(faq, pointwise, tmp_path):
    model, data = pointwise
    target = tmp_path / "m.tflite"
    flags = ("--weights=int4", "--fully_connected_1x1", f"--verify_data={data}")
    exported = faq("export", model, f"--output={target}", *flags)
    assert exported.status == 0, exported.err
    assert model_file.read(target).operators.count("FULLY_CONNECTED") == 2
    verified = faq("verify", model, target, f"--data={data}", "--runtimes=xnnpack,tflm")
    assert verified.status == 0, verified.err
    for outcome in (exported, verified):
        assert "xnnpack: 0 mismatches of " in outcome.out
        assert "xnnpack (packed): 0 mismatches of " in outcome.out
    assert "tflm: 0 mismatches of " in verified.out


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("m.tflite", "pass weights='int4'"),
        ("m.onnx", "--fully_connected_1x1 apply to .tflite files only"),
    ],
)
def test_it_needs_packed_weights_in_a_tflite_file(refused, pointwise, tmp_path, output, message):
    flags = (f"--output={tmp_path / output}", "--fully_connected_1x1")
    assert message in refused("export", pointwise[0], *flags)
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_1x1_convolutions_is_refused(refused, files, tmp_path):
    flags = (f"--output={tmp_path / 'm.tflite'}", "--weights=int4", "--fully_connected_1x1")
    assert "would pack nothing" in refused("export", files["model"], *flags)
    assert list(tmp_path.iterdir()) == []
