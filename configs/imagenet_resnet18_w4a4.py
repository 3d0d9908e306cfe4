"""ResNet-18 on ImageNet, W4A4, 110 epochs: a row of Table 1 of the paper.

    faq train --config=configs/imagenet_resnet18_w4a4.py
        --workdir=runs/imagenet_resnet18_w4a4
        --config.data.data_dir=IMAGENET --config.weights=resnet18.pth

Expected: top-1 69.78 %, top-5 89.11 % (paper: mean of 3 runs, +-0.04 and 0.03, so repeat it with
--config.seed=2 and 3; fp32 69.76 / 89.08).
Time: 39 h of training steps on a machine that takes 1,000 images per second.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.imagenet("resnet18", "w4a4", bits=4)
