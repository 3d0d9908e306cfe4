"""ResNet-18 on ImageNet, W4A4, batches of 256 growing to 2,048.

    faq train --config=configs/imagenet_resnet18_w4a4_large_batch.py
        --workdir=runs/imagenet_resnet18_w4a4_large_batch
        --config.data.data_dir=IMAGENET --config.weights=resnet18.pth

Expected: top-1 69.96 % (paper, Table 2). Standard: 69.82.
Time: 59 h of training steps on a machine that takes 1,000 images per second.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.imagenet("resnet18", "w4a4_large_batch", bits=4)
