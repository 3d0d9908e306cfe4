"""ResNet-18 on ImageNet, W4A4, not pretrained, rate in steps.

    faq train --config=configs/imagenet_resnet18_w4a4_from_scratch.py
        --workdir=runs/imagenet_resnet18_w4a4_from_scratch
        --config.data.data_dir=IMAGENET

Expected: top-1 69.24 % (paper, Table 2). Standard: 69.82.
Time: 39 h of training steps on a machine that takes 1,000 images per second.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.imagenet_from_scratch("resnet18", "from_scratch_step", bits=4)
