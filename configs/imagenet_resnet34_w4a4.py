"""ResNet-34 on ImageNet, W4A4, 110 epochs: a row of Table 1 of the paper.

    faq train --config=configs/imagenet_resnet34_w4a4.py
        --workdir=runs/imagenet_resnet34_w4a4
        --config.data.data_dir=IMAGENET --config.weights=resnet34.pth

Expected: top-1 73.31 %, top-5 91.32 % (paper; fp32 73.30 / 91.42).
Time: 39 h of training steps on a machine that takes 1,000 images per second.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.imagenet("resnet34", "w4a4", bits=4, weight_decay=1e-4)
