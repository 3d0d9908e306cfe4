"""ResNet-18 on ImageNet, W4A4, 30 epochs in batches of 400.

    faq train --config=configs/imagenet_resnet18_w4a4_batch_400_30_epochs.py
        --workdir=runs/imagenet_resnet18_w4a4_batch_400_30_epochs
        --config.data.data_dir=IMAGENET --config.weights=resnet18.pth

Expected: top-1 69.30 % (paper, section 4.2). Standard: 69.82.
Time: 11 h of training steps on a machine that takes 1,000 images per second.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.imagenet("resnet18", "w4a4_short", bits=4, epochs=30)
