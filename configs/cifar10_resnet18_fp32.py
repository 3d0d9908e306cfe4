"""ResNet-18 on CIFAR-10, float: the baseline of section 4.9 of the paper.

    faq train --config=configs/cifar10_resnet18_fp32.py
        --workdir=runs/cifar10_resnet18_fp32
        --config.data.data_dir=cifar-10-batches-py

Expected: 94.65 % (paper).
Time: 5 h of training steps on a machine that takes 1,000 images per second.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.cifar10("resnet18_cifar10", "cifar10_fp32", bits=0)
