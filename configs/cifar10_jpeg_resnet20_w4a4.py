"""ResNet-20 on CIFAR-10-JPEG, W4A4, 20 epochs from 0.01 to 1e-6.

    faq train --config=configs/cifar10_jpeg_resnet20_w4a4.py
        --workdir=runs/cifar10_jpeg_resnet20_w4a4
        --config.data.data_dir=cifar-10-batches-py --config.weights=FILE.pth

Expected: 87.86 % (measured here, seed 1; 56.56 before; fp32 88.69, control 88.67).
Time: 21 min on 2 CPU cores, from the time of an epoch with nothing else running.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.cifar10_jpeg(
        "w4a4", bits=4, epochs=20, learning_rate=0.01, final_learning_rate=1e-6
    )
