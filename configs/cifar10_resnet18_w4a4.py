"""ResNet-18 on CIFAR-10, W4A4, 110 epochs: section 4.9 of the paper.

Starts from the network that cifar10_resnet18_fp32.py leaves.

    faq train --config=configs/cifar10_resnet18_w4a4.py
        --workdir=runs/cifar10_resnet18_w4a4
        --config.data.data_dir=cifar-10-batches-py

Expected: 94.63 % (paper; fp32 94.65).
Time: 92 min of training steps on a machine that takes 1,000 images per second.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.cifar10(
        "resnet18_cifar10",
        "cifar10_w4a4",
        bits=4,
        weights="runs/cifar10_resnet18_fp32/model.keras",
        expected_float_accuracy=0.9465,
    )
