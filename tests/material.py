"""The real networks and images of the `data_dir` fixture."""

import io
import pathlib

import keras
import numpy as np
from PIL import Image

from faq_keras.data import datasets


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


def resnet8(data_dir: pathlib.Path) -> keras.Model:
    """MLPerf Tiny's ResNet-8, which takes raw 0-255 pixels and ends in a softmax."""
    path = data_dir / "mlperf-tiny" / "pretrainedResnet.h5"
    return keras.models.load_model(path, compile=False)
