"""How large an experiment is: the paper's own, or the same one scaled down to a small task.

A scale is a few ratios, no list of settings: whatever distinguishes a row of the paper from its
standard row (recipe, epochs, batch, weight decay, calibration) is read from that row's
configuration and distinguishes the small rows alike.

    paper = config_named("imagenet_resnet18_w4a4_large_batch")      # 165 epochs, 256 to 2,048
    SCALES["small"].scaled(paper).epochs                            # 6 where the standard row has 4
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping

from ml_collections.config_dict import ConfigDict

from faq_keras.training.recipes import Recipe, recipe
from faq_keras.training.schedules import Exponential

STANDARD = "imagenet_resnet18_w4a4"
_COPIED = ("recipe", "bits", "activation_bits", "calibration_batches", "from_scratch")


def config_named(name: str) -> ConfigDict:
    """The installed configuration of this name, with nothing changed."""
    config: ConfigDict = importlib.import_module(f"faq_keras.configs.{name}").get_config()
    return config


@dataclasses.dataclass(frozen=True)
class Scale:
    """A small task on which the paper's experiments are repeated.

    Attributes:
        name: Its name on the command line.
        task: What is trained on what, for readers.
        standard: Configuration of the standard W4A4 row on this task.
        epochs: Epochs of the standard row, for the paper's 110.
        seeds: Seeds of every row, unless others are asked for.
        total_decay: Whether Figure 2 is run with as much weight decay in all as in the paper.
        cifar10: Configurations of the CIFAR-10 experiment on this scale, by row, of which Figure 1
            takes the last; None to derive them from `standard`.
        cifar10_task: What these train.
    """

    name: str
    task: str
    standard: str
    epochs: int
    seeds: tuple[int, ...]
    total_decay: bool
    cifar10: Mapping[str, str] | None = None
    cifar10_task: str = ""

    def pretrained(self) -> ConfigDict:
        """The float training that gives the network which the other rows start from."""
        config = config_named(self.standard)
        first = config.pretraining
        with config.ignore_type():
            config.update({name: first[name] for name in first})
        config.bits = first.epochs = 0
        return config

    def scaled(self, paper: ConfigDict) -> ConfigDict:
        """A configuration of the paper on this task.

        Epochs, batch size and first rate keep their ratio to those of the standard row. The rate is
        set in every step, because so few epochs would make a schedule per epoch coarse. Random
        weights keep the paper's rates.
        """
        config = config_named(self.standard)
        course, reference = _course(paper), _course(config_named(STANDARD))
        rates = config.learning_rate, config.final_learning_rate
        with config.ignore_type():
            config.update({name: paper[name] for name in _COPIED})
            config.policy.update(paper.policy)
            config.weight_decay = course.weight_decay
        config.pretraining.epochs = 0
        config.epochs = max(1, round(self.epochs * course.epochs / reference.epochs))
        config.batch_size = config.batch_size * course.batch_size // reference.batch_size
        config.learning_rate_per = "step"
        config.learning_rate = config.final_learning_rate = None
        if not paper.from_scratch:
            config.learning_rate = rates[0] * course.learning_rate(0) / reference.learning_rate(0)
            if isinstance(course.learning_rate, Exponential):
                config.final_learning_rate = rates[1]
        return config

    def with_total_decay(self, paper: ConfigDict) -> ConfigDict:
        """The same with as much weight decay in all its updates as the paper's in its own.

        What random weights were is forgotten by decay: by `exp(-7.5)` in the first 30 epochs of the
        paper's training, and hardly at all in a thousand updates with the same coefficient.
        """
        config = self.scaled(paper)
        config.weight_decay *= _updates(paper) / _updates(config)
        return config

    def eight_bits(self) -> ConfigDict:
        """The W8A8 row: the paper's single epoch at its own constant rate."""
        config = config_named(self.standard)
        config.recipe, config.bits, config.epochs = "w8a8", 8, None
        config.learning_rate = config.final_learning_rate = None
        config.pretraining.epochs = 0
        return config


def _course(config: ConfigDict) -> Recipe:
    overrides = {
        name: config[name] for name in ("batch_size", "weight_decay") if config[name] is not None
    }
    return recipe(config.recipe, config.epochs, **overrides)


def _updates(config: ConfigDict) -> int:
    course = _course(config)
    return course.epochs * (config.data.images[0] // course.batch_size)


SCALES: Mapping[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(
            "smoke",
            "a ResNet of 78k parameters on 5,000 MNIST images",
            standard="smoke",
            epochs=2,
            seeds=(1,),
            total_decay=False,  # so few updates would have to lose everything at once
        ),
        Scale(
            "small",
            "a ResNet of 78k parameters on Fashion-MNIST",
            standard="fashion_mnist_w4a4",
            epochs=4,
            seeds=(1, 2),
            total_decay=True,
            cifar10={
                "fp32": "cifar10_jpeg_resnet20_control",
                "w8a8": "cifar10_jpeg_resnet20_w8a8",
                "w4a4": "cifar10_jpeg_resnet20_w4a4",
            },
            cifar10_task="ResNet-20 on CIFAR-10",
        ),
    )
}
"""The scales below the paper's own, `full`."""
