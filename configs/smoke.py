"""A complete training on embedded data in about a minute: 5,000 MNIST images, W4A4.

Trains a small float ResNet (78k parameters) for 8 epochs, quantizes it with calibration, fine-tunes
it for 3 epochs, and leaves models, checkpoints and logs.

    faq train --config=configs/smoke.py --workdir=runs/smoke

Expected: 96.8 % for the float network, 96.8 % at 4 bits (one standard error of 500 images: 0.8).
Time: about a minute on 2 CPU cores.
"""

from ml_collections.config_dict import ConfigDict

from faq_keras.configs import base


def get_config() -> ConfigDict:
    """The configuration."""
    config = base.config()
    config.bits = 4
    config.recipe = "w4a4"
    config.epochs = 3
    config.batch_size = 128
    # The paper's rates fall to 1e-6: so few epochs would spend that standing still.
    config.learning_rate, config.final_learning_rate = 0.002, 1e-4
    config.pretraining.epochs = 8
    config.pretraining.learning_rate, config.pretraining.final_learning_rate = 0.1, 1e-3
    config.checkpoint_steps = 20
    return config
