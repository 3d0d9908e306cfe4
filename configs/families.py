"""What the configurations of one data set share; each config file calls one of these functions.

    def get_config():
        return families.imagenet("resnet18", "w4a4", bits=4)

Architecture, normalization and sizes come from `converters.zoo`; courses from `faq_keras.recipe`.
Everything else can be given by name: `families.imagenet(..., weight_decay=1e-4)`.
"""

from __future__ import annotations

from typing import Any

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import base
from faq_keras.converters.zoo import ZOO, ZooEntry


def imagenet(network: str, recipe: str, bits: int, **fields: Any) -> ConfigDict:
    """A network of the zoo on ImageNet, an ImageFolder (`train/`, `val/`), by the paper's rules.

    Args:
        network: Its name in the zoo; its checkpoint is looked for as `NETWORK.pth`.
        recipe: The recipe.
        bits: Bits of weights and activations.
        **fields: Other fields of the configuration.
    """
    config = _of_zoo(network, recipe, bits)
    preprocessing = ZOO[network].preprocessing
    config.weights = f"{network}.pth"
    config.expected_float_accuracy = ZOO[network].published["fp32"][0] / 100
    config.data.source = "image_folder"
    config.data.options = ConfigDict({"classes": 1000})
    config.data.transform = "imagenet"
    config.data.transform_options = ConfigDict(
        {"resize": preprocessing.resize, "interpolation": preprocessing.interpolation}
    )
    config.data.classes, config.data.images = 1000, (1_281_167, 50_000)
    _as_in_the_paper(config)
    return _with(config, fields)


def imagenet_from_scratch(network: str, recipe: str, bits: int, **fields: Any) -> ConfigDict:
    """The control without a pretrained network: random weights, no calibration."""
    config = imagenet(network, recipe, bits)
    config.weights = config.expected_float_accuracy = None
    config.from_scratch = True
    # Multipliers of random weights are not those that the training will need.
    config.policy.bn_exponent = "paper"
    return _with(config, fields)


def cifar10(network: str, recipe: str, bits: int, **fields: Any) -> ConfigDict:
    """A network of the zoo on CIFAR-10 (`data.data_dir`: cifar-10-batches-py or -bin).

    By the paper's rules (section 4.9).
    """
    config = _of_zoo(network, recipe, bits)
    config.data.source = "cifar10"
    config.data.transform = "cifar"
    config.data.images = (50_000, 10_000)
    _as_in_the_paper(config)
    return _with(config, fields)


def cifar10_jpeg(recipe: str, bits: int, **fields: Any) -> ConfigDict:
    """ResNet-20 on CIFAR-10 whose images were once stored as JPEGs, from weights adapted to them.

    The schedule is the one that was found for this small network: 0.01 to 1e-6, batches of 128.
    """
    config = cifar10("resnet20_cifar10", recipe, bits)
    config.policy.scales, config.frozen_statistics = base.config().policy.scales, None
    config.weights = "resnet20_cifar10jpeg_fp32.pth"
    config.expected_float_accuracy = 0.8869
    config.batch_size = 128
    return _with(config, fields)


def fashion_mnist(recipe: str, bits: int, **fields: Any) -> ConfigDict:
    """A ResNet with 78k parameters on Fashion-MNIST, pretrained here for five epochs."""
    config = base.config()
    config.recipe, config.bits = recipe, bits
    config.batch_size = 128
    config.pretraining.epochs = 5
    config.pretraining.learning_rate, config.pretraining.final_learning_rate = 0.1, 1e-3
    config.data.source = "fashion_mnist"
    config.data.images = (60_000, 10_000)
    return _with(config, fields)


def _of_zoo(network: str, recipe: str, bits: int) -> ConfigDict:
    config = base.config()
    entry: ZooEntry = ZOO[network]
    config.model, config.recipe, config.bits = f"zoo:{network}", recipe, bits
    config.data.size, config.data.channels = entry.input_shape[0], entry.input_shape[2]
    config.data.mean, config.data.std = entry.preprocessing.mean, entry.preprocessing.std
    return config


def _as_in_the_paper(config: ConfigDict) -> None:
    """Scales by the rules of sections 3.1 and 3.2, batch statistics while training."""
    config.policy.scales = "paper"
    config.frozen_statistics = False


def _with(config: ConfigDict, fields: dict[str, Any]) -> ConfigDict:
    with config.ignore_type():
        config.update(fields)
    return config
