"""A small ResNet on Fashion-MNIST, W4A4: pretrained for 5 epochs, then 3 epochs at 4 bits.

    faq train --config=configs/fashion_mnist_w4a4.py
        --workdir=runs/fashion_mnist_w4a4
        --config.data.data_dir=fashion-mnist

Expected: about 90 %, within a point of its float network.
Time: about 8 min on 2 CPU cores.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import families


def get_config() -> ConfigDict:
    """The configuration."""
    return families.fashion_mnist(
        "w4a4", bits=4, epochs=3, learning_rate=0.01, final_learning_rate=1e-4
    )
