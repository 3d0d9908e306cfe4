"""ResNet-18 on CIFAR-10, W8A8, 10 epochs: section 4.9 of the paper.

Starts from the network that cifar10_resnet18_fp32.py leaves.

    faq train --config=configs/cifar10_resnet18_w8a8.py
        --workdir=runs/cifar10_resnet18_w8a8
        --config.data.data_dir=cifar-10-batches-py

Expected: 94.65 % (paper; fp32 94.65).
Time: 8 min of training steps on a machine that takes 1,000 images per second.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.cifar10(
        "resnet18_cifar10",
        "cifar10_w8a8",
        bits=8,
        weights="runs/cifar10_resnet18_fp32/model.keras",
        expected_float_accuracy=0.9465,
    )
