"""VGG-16-BN on ImageNet, W8A8, one epoch at 1e-4: a row of Table 1 of the paper.

    faq train --config=configs/imagenet_vgg16_bn_w8a8.py
        --workdir=runs/imagenet_vgg16_bn_w8a8
        --config.data.data_dir=IMAGENET --config.weights=vgg16_bn.pth

Expected: top-1 73.66 %, top-5 91.56 % (paper; fp32 73.36 / 91.50).
Time: 21 min of training steps on a machine that takes 1,000 images per second.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.imagenet("vgg16_bn", "w8a8", bits=8)
