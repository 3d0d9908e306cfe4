"""Real pretrained networks: 0 mismatches of N over all tensors, on every runtime."""

import numpy as np
import pytest

import faq_keras
from tests import material

WIDTHS = {
    "W8A8 int8": (8, "int8"),
    "W4A4 int8": (4, "int8"),
    "W4A4 packed": (4, "int4"),
    "W4A8 packed": ((4, 8), "int4"),
    "W2A4 packed": ((2, 4), "int4"),
}
RUNTIMES = ("xnnpack", "builtin", "reference", "tflm")


@pytest.fixture(scope="module")
def networks(data_dir):
    fashion, data = material.fashion_mnist(data_dir)
    cifar, _ = material.cifar10_images(data_dir, "test", 2280)
    return {
        "Fashion-MNIST ResNet": (fashion, data.x_train[:1280], data.x_test[:1000]),
        "MLPerf Tiny ResNet-8": (material.resnet8(data_dir), cifar[1000:], cifar[:1000]),
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["Fashion-MNIST ResNet", "MLPerf Tiny ResNet-8"])
def test_keras_equals_reference_equals_xnnpack(networks, name, width, tmp_path):
    model, calibration, images = networks[name]
    bits, weights = WIDTHS[width]
    q = faq_keras.apply(model, bits, calibration_data=calibration)
    report = faq_keras.export_tflite(q, tmp_path / "m.tflite", weights, verify=images)
    print(f"{name} {width}: {report}")
    assert report.mismatches == 0
    assert report.values > 20_000_000


@pytest.mark.slow
@pytest.mark.parametrize("width", ["W8A8 int8", "W4A4 packed"])
@pytest.mark.parametrize("name", ["resnet20", "efficientnet_lite0"])
def test_pytorch_networks_on_every_runtime(data_dir, name, width, tmp_path):
    """And what each runtime's rounding means for the accuracy."""
    model, images, labels = getattr(material, name)(data_dir)
    bits, weights = WIDTHS[width]
    q = faq_keras.apply(model, bits, calibration_data=images)
    path = tmp_path / "m.tflite"
    report = faq_keras.export_tflite(q, path, weights, verify=images)
    report = faq_keras.verify(q, path, images, RUNTIMES, labels=labels)
    floats = np.argmax(model.predict(images, verbose=0), axis=-1) == labels
    print(f"{name} {width}, float top-1 {floats.mean():.4f}: {report}")
    assert report.mismatches == 0
    assert [run.runtime for run in report.runs] == list(RUNTIMES)
    assert all(run.values > 1_000_000 for run in report.runs)
