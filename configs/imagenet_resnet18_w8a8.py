"""ResNet-18 on ImageNet, W8A8, one epoch at 1e-4: a row of Table 1 of the paper.

    faq train --config=configs/imagenet_resnet18_w8a8.py
        --workdir=runs/imagenet_resnet18_w8a8
        --config.data.data_dir=IMAGENET --config.weights=resnet18.pth

Expected: top-1 70.02 %, top-5 89.32 % (paper; fp32 69.76 / 89.08).
Time: 21 min of training steps on a machine that takes 1,000 images per second.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.imagenet("resnet18", "w8a8", bits=8)
