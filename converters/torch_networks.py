"""Torch modules that are not on PyPI: the ResNets of the CIFAR literature, and random weights.

Names of the parameters are those of the public checkpoints, so that these load:
`resnet20_cifar10` takes those of akamaster/pytorch_resnet_cifar10 (shortcuts of option A: every
second pixel, new channels zero), `resnet18_cifar10` those of kuangliu/pytorch-cifar.

    module = load_module("resnet20_cifar10", weights="resnet20-12fca82f.th")
    module = randomised(load_module("resnet18"), seed=1)    # for tests: no checkpoint needed
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from faq_keras.converters.errors import ConversionError


class _PadShortcut(nn.Module):
    """Option A: every second row and column, and as many zero channels on either side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels, self.channels))


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, channels: int, width: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Sequential()
        if channels != width and option == "A":
            self.shortcut = _PadShortcut((width - channels) // 2)
        elif channels != width or stride != 1:
            projection = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A ResNet of basic blocks for images of 32 x 32.

    Args:
        widths: Channels of each stage; all but the first halve the image.
        blocks: Blocks in each stage.
        option: "A" for shortcuts without parameters, "B" for 1 x 1 convolutions.
        classes: Number of logits.
    """

    def __init__(self, widths: tuple[int, ...], blocks: int, option: str, classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = []
        channels = widths[0]
        for number, width in enumerate(widths, 1):
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 2 if number > 1 and block == 0 else 1
                stage.append(_Block(channels, width, stride, option))
                channels = width
            self.add_module(f"layer{number}", stage)
            self.stages.append(f"layer{number}")
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of images [batch, 3, height, width]."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.linear(functional.avg_pool2d(x, x.shape[-1]).flatten(1))


def resnet20_cifar10() -> nn.Module:
    """ResNet-20 of He et al. 2016, section 4.2: 0.27 million parameters."""
    return CifarResNet((16, 32, 64), blocks=3, option="A")


def resnet18_cifar10() -> nn.Module:
    """The ResNet-18 for CIFAR-10 of the paper's section 4.5: 11.2 million parameters."""
    return CifarResNet((64, 128, 256, 512), blocks=2, option="B")


def efficientnet_lite0() -> Any:
    """EfficientNet-Lite0 of the PyPI package `efficientnet-lite-pytorch`, without weights.

    Raises:
        ConversionError: The package is not installed.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise ConversionError(
            "efficientnet_lite0 needs its package: pip install efficientnet-lite-pytorch."
        ) from error
    return EfficientNet.from_name("efficientnet-lite0")


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every BatchNorm random weights and statistics, so that a lost one shows; in place."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            with torch.no_grad():
                part.weight.uniform_(0.7, 1.3, generator=generator)
                part.bias.normal_(0.0, 0.2, generator=generator)
                part.running_mean.normal_(0.0, 0.2, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
    return module
