"""The networks of the paper and a few more: how to build them and what they want to eat.

The one idea: a wrong preprocessing costs up to ten points of accuracy and raises no error, so it
belongs to the network. It is a table entry here, travels inside the converted `.keras` file, and
can be put in front of the network as a layer:

    entry = ZOO["resnet18"]
    entry.published["fp32"]                     # (69.76, 89.08): top-1, top-5 of Table 1
    x = entry.preprocessing.apply(pixels)       # uint8 RGB [batch, 224, 224, 3] -> float32
    model = with_preprocessing(model, entry.preprocessing)   # takes pixels 0..255
    attach("m.keras", entry.preprocessing)
    preprocessing_of("m.keras")
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from typing import Any

import keras
import numpy as np

from faq_keras.archives import read_json_member
from faq_keras.converters.errors import ConversionError

MEMBER = "faq_preprocessing.json"
"""Name of the metadata inside a `.keras` file, which is a zip archive; Keras ignores it."""


@dataclass(frozen=True)
class Preprocessing:
    """What happens to RGB pixels 0..255 before the network: `(pixel - mean) / std`.

    Attributes:
        mean: Per channel, in pixel units; one number stands for all channels.
        std: Per channel, in pixel units; one number stands for all channels.
        resize: The short side is resized to this first; None: images are used as they are.
        interpolation: How it is resized.
        crop: Then the central square of this size is taken; None: images are used as they are.
        in_model: The network contains the normalisation and takes pixels 0..255.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: str = "bilinear"
    crop: int | None = None
    in_model: bool = False

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std)
        if not all(isinstance(v, Real) and math.isfinite(v) for v in numbers):
            raise ValueError(
                f"The normalisation by mean {self.mean} and std {self.std} needs finite numbers."
            )
        if min(self.std, default=0) <= 0:
            raise ValueError(
                f"The normalisation divides by std {self.std}: every value has to be above 0 (1 "
                "leaves the pixels as they are)."
            )
        self.of_channels(max(len(self.mean), len(self.std)))

    def of_channels(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std with one number per channel.

        Raises:
            ValueError: There is neither one number nor one per channel.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(
                    f"The normalisation's {name} {values} has {len(values)} numbers for images of "
                    f"{channels} channels: give one for each, or a single one for all."
                )
        repeat = [v * channels if len(v) == 1 else v for v in (self.mean, self.std)]
        return repeat[0], repeat[1]

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Normalises pixels 0..255 [..., channels] to float32; does not resize."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (pixels.astype(np.float32) - mean) / std

    def to_json(self) -> str:
        """The metadata as they lie in the `.keras` file, with layout and colour order."""
        return json.dumps({**asdict(self), "layout": "NHWC", "colour_order": "RGB"}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """The inverse of `to_json`."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """From what `to_json` wrote, read as JSON."""
        values = {key: values[key] for key in cls.__dataclass_fields__}
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


@dataclass(frozen=True)
class ZooEntry:
    """A known architecture.

    Attributes:
        factory: `pkg.module:function` that builds it without weights.
        input_shape: `(height, width, channels)`.
        preprocessing: What its published weights were trained with.
        licence: Licence of the published weights or, without any, of the code.
        arguments: Keyword arguments of the factory.
        published: Top-1 and top-5 in percent of the paper's Table 1: `fp32`, `w8a8`, `w4a4`.
    """

    factory: str
    input_shape: tuple[int, int, int]
    preprocessing: Preprocessing
    licence: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def _imagenet(resize: int, crop: int, interpolation: str = "bilinear") -> Preprocessing:
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    return Preprocessing(mean, std, resize, interpolation, crop)


def _torchvision(
    name: str,
    size: int = 224,
    resize: int = 256,
    interpolation: str = "bilinear",
    arguments: Mapping[str, Any] | None = None,
    **published: tuple[float, float],
) -> ZooEntry:
    return ZooEntry(
        factory=f"torchvision.models:{name}",
        input_shape=(size, size, 3),
        preprocessing=_imagenet(resize, size, interpolation),
        licence="BSD-3-Clause (torchvision); weights trained on ImageNet, research terms",
        arguments=arguments or {},
        published=published,
    )


_PORTED = {"init_weights": False, "transform_input": True, "aux_logits": False}
"""These two were ported from TensorFlow: they change the normalisation of the input themselves."""

ZOO: Mapping[str, ZooEntry] = {
    # The seven of the paper's Table 1.
    "resnet18": _torchvision(
        "resnet18", fp32=(69.76, 89.08), w8a8=(70.02, 89.32), w4a4=(69.78, 89.11)
    ),
    "resnet34": _torchvision(
        "resnet34", fp32=(73.30, 91.42), w8a8=(73.71, 91.63), w4a4=(73.31, 91.32)
    ),
    "resnet50": _torchvision(
        "resnet50", fp32=(76.15, 92.87), w8a8=(76.52, 93.09), w4a4=(76.27, 92.89)
    ),
    "resnet152": _torchvision("resnet152", fp32=(78.31, 94.06), w8a8=(78.54, 94.07)),
    "inception_v3": _torchvision(
        "inception_v3", 299, 342, arguments=_PORTED, fp32=(77.45, 93.56), w8a8=(77.60, 93.59)
    ),
    "densenet161": _torchvision("densenet161", fp32=(77.65, 93.80), w8a8=(77.84, 93.91)),
    "vgg16_bn": _torchvision("vgg16_bn", fp32=(73.36, 91.50), w8a8=(73.66, 91.56)),
    # Others, without figures in the paper.
    "googlenet": _torchvision("googlenet", arguments=_PORTED),
    "mobilenet_v2": _torchvision("mobilenet_v2"),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small"),
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large"),
    "efficientnet_b0": _torchvision("efficientnet_b0", interpolation="bicubic"),
    "squeezenet1_1": _torchvision("squeezenet1_1"),
    "resnext50_32x4d": _torchvision("resnext50_32x4d"),
    "shufflenet_v2_x1_0": _torchvision("shufflenet_v2_x1_0"),
    "mnasnet1_0": _torchvision("mnasnet1_0"),
    "regnet_y_400mf": _torchvision("regnet_y_400mf"),
    "efficientnet_lite0": ZooEntry(
        factory="faq_keras.converters.torch_networks:efficientnet_lite0",
        input_shape=(224, 224, 3),
        preprocessing=Preprocessing((127.0,), (128.0,), 256, "bicubic", 224),
        licence="Apache-2.0",
    ),
    "resnet18_cifar10": ZooEntry(
        factory="faq_keras.converters.torch_networks:resnet18_cifar10",
        input_shape=(32, 32, 3),
        preprocessing=Preprocessing((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)),
        licence="MIT (kuangliu/pytorch-cifar)",
    ),
    "resnet20_cifar10": ZooEntry(
        factory="faq_keras.converters.torch_networks:resnet20_cifar10",
        input_shape=(32, 32, 3),
        preprocessing=Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        licence="BSD-2-Clause (akamaster/pytorch_resnet_cifar10)",
    ),
}


def with_preprocessing(model: keras.Model, preprocessing: Preprocessing) -> keras.Model:
    """The model behind a layer that normalises: its input is RGB pixels 0..255.

    Raises:
        ValueError: The preprocessing is for another number of channels.
    """
    mean, std = preprocessing.of_channels(model.input_shape[-1])
    scale = [1.0 / s for s in std]
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    pixels = keras.Input(model.input_shape[1:], name="pixels")
    normalised = keras.layers.Rescaling(scale, offset, name="preprocessing")(pixels)
    return keras.Model(pixels, model(normalised), name=model.name)


def attach(
    path: str | os.PathLike[str], preprocessing: Preprocessing, in_model: bool = False
) -> None:
    """Writes the preprocessing into a `.keras` file (as a zip member that Keras ignores).

    Args:
        path: The file, as Keras has saved it.
        preprocessing: What images need.
        in_model: The model contains the normalisation (`with_preprocessing`).
    """
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, replace(preprocessing, in_model=in_model).to_json())


def preprocessing_of(path: str | os.PathLike[str]) -> Preprocessing | None:
    """The preprocessing that lies in a `.keras` file; None if there is none.

    Raises:
        ConversionError: The file is not a `.keras` file, or its preprocessing is damaged.
    """
    try:
        values = read_json_member(path, MEMBER)
        return None if values is None else Preprocessing.from_dict(values)
    except (KeyError, TypeError, ValueError) as error:
        raise ConversionError(f"{os.fspath(path)} is not a .keras file ({error}).") from error
