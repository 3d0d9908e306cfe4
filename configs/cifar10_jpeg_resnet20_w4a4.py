"""ResNet-20 on CIFAR-10-JPEG, W4A4, 20 epochs from 0.01 to 1e-6.

    faq train --config=configs/cifar10_jpeg_resnet20_w4a4.py
        --workdir=runs/cifar10_jpeg_resnet20_w4a4
        --config.data.data_dir=cifar-10-batches-py --config.weights=FILE.pth

Expected: 87.9 % (fp32 88.69; a laboratory version reached 87.92 in 9 epochs).
Time: 1 h on 2 CPU cores, from the time of one epoch.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.cifar10_jpeg(
        "w4a4", bits=4, epochs=20, learning_rate=0.01, final_learning_rate=1e-6
    )
