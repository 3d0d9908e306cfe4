"""Every field of a configuration with its default; a config file states only what differs.

    from faq_keras.configs import base

    def get_config():
        config = base.config()
        config.bits = 4
        config.data.source = "cifar10"
        return config

A `placeholder` is a field without a value; on the command line `--config.epochs=4` sets it.
"""

from __future__ import annotations

from ml_collections import config_dict

from faq_keras.policy import Policy

placeholder = config_dict.placeholder


def config() -> config_dict.ConfigDict:
    """All fields with their defaults.

    What they mean:

    | field | meaning |
    |---|---|
    | model | small_resnet, keras:NAME (keras.applications), zoo:NAME (`converters.zoo`), a .keras or .h5 file, or pkg.module:function |
    | weights | weights file: a PyTorch checkpoint for zoo:NAME, else a Keras one; or a .keras file of the whole network |
    | from_scratch | start from random weights, with activation ranges by the paper's rule |
    | bits, activation_bits | weights' and activations' bits (the latter as the former); 0: float |
    | logits_bits, percentile, calibration_batches | as for `faq_keras.apply`; 0 batches: the rule |
    | policy | as `faq_keras.Policy`; overrides are pairs: ((name or regex, bits), ...) |
    | frozen_statistics | train with the moving statistics instead of each batch's; None: as the recipe |
    | recipe | a recipe of `faq_keras.recipe`; the fields below it replace its own |
    | final_learning_rate | with learning_rate: an exponential course between the two |
    | learning_rate_per | "epoch" or "step": how often the rate is set |
    | pretraining | a float training that comes first; epochs = 0: none |
    | data.source, data.data_dir, data.options | as for `faq_keras.data.sources.load_source` |
    | data.transform, data.size, data.channels, data.transform_options | as for `transform` |
    | data.mean, data.std | normalization of the pixels, put into the network as a layer |
    | data.corrupt | corrupt images: "error" or "skip" |
    | data.classes, data.images | what is known of the data, for --dry_run without them |
    | expected_float_accuracy | of the float network, 0..1: a run that starts far below it warns |
    | deterministic | ops that give the same bits in every run, on GPUs too |
    | checkpoint_steps | batches between two checkpoints |
    | gradient_noise_steps | batches between two looks at the gradient noise (Figure 1); 0: none |
    """  # noqa: E501 - a table
    return config_dict.ConfigDict(
        {
            "model": "small_resnet",
            "weights": placeholder(str),
            "from_scratch": False,
            "bits": 8,
            "activation_bits": placeholder(int),
            "logits_bits": 16,
            "percentile": placeholder(float),
            "calibration_batches": 5,
            "policy": {
                "scales": Policy.scales,
                "first_last_bits": Policy.first_last_bits,
                "bn_exponent": Policy.bn_exponent,
                "clip_reading": Policy.clip_reading,
                "overrides": (),
            },
            "recipe": "w8a8",
            "epochs": placeholder(int),
            "batch_size": placeholder(int),
            "learning_rate": placeholder(float),
            "final_learning_rate": placeholder(float),
            "weight_decay": placeholder(float),
            "virtual_batches": placeholder(int),
            "frozen_statistics": placeholder(bool),
            "learning_rate_per": "epoch",
            "label_smoothing": 0.0,
            "pretraining": {
                "epochs": 0,
                "recipe": "from_scratch",
                "learning_rate": placeholder(float),
                "final_learning_rate": placeholder(float),
            },
            "data": {
                "source": "mnist5k",
                "data_dir": placeholder(str),
                "options": {},
                "transform": "none",
                "transform_options": {},
                "size": 28,
                "channels": 1,
                "mean": (0.0,),
                "std": (255.0,),
                "corrupt": "error",
                "classes": 10,
                "images": (4500, 500),
            },
            "expected_float_accuracy": placeholder(float),
            "seed": 1,
            "deterministic": True,
            "checkpoint_steps": 1000,
            "gradient_noise_steps": 0,
        }
    )
