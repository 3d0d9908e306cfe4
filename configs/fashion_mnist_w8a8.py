"""A small ResNet on Fashion-MNIST, W8A8: pretrained for 5 epochs, then one at 1e-4.

    faq train --config=configs/fashion_mnist_w8a8.py
        --workdir=runs/fashion_mnist_w8a8
        --config.data.data_dir=fashion-mnist

Expected: about 90 %, as its float network.
Time: about 6 min on 2 CPU cores.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.fashion_mnist("w8a8", bits=8)
