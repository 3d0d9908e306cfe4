"""ResNet-152 on ImageNet, W8A8, one epoch at 1e-4: a row of Table 1 of the paper.

    faq train --config=configs/imagenet_resnet152_w8a8.py
        --workdir=runs/imagenet_resnet152_w8a8
        --config.data.data_dir=IMAGENET --config.weights=resnet152.pth

Expected: top-1 78.54 %, top-5 94.07 % (paper; fp32 78.31 / 94.06).
Time: 21 min of training steps on a machine that takes 1,000 images per second.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.imagenet("resnet152", "w8a8", bits=8)
