"""ResNet-20 on CIFAR-10-JPEG, W8A8, one epoch at 1e-4.

    faq train --config=configs/cifar10_jpeg_resnet20_w8a8.py
        --workdir=runs/cifar10_jpeg_resnet20_w8a8
        --config.data.data_dir=cifar-10-batches-py --config.weights=FILE.pth

Expected: 88.64 % (measured here, seed 1; 88.57 before the epoch; fp32 88.69).
Time: 4 min on 2 CPU cores.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.cifar10_jpeg("w8a8", bits=8)
