"""Float networks for training, by the name that a configuration gives them.

network = build("zoo:resnet18", "resnet18.pth", classes=1000, shape=(224, 224, 3))
network = build("keras:MobileNet", None, classes=10, shape=(32, 32, 3))
network = build("runs/first/model.keras", None, classes=10, shape=(28, 28, 1))
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import keras

from faq_keras.cli import common
from faq_keras.cli.quickstart import small_resnet
from faq_keras.converters.zoo import ZOO, Preprocessing, preprocessing_of, with_preprocessing
from faq_keras.saved_models import load_keras
from faq_keras.texts import reason_of

Shape = tuple[int, int, int]


def has_weights(model: str, weights: str | None) -> bool:
    """Whether a network of this name is trained, as far as can be told without building it."""
    built = model == "small_resnet" or model.startswith(("keras:", "zoo:"))
    return weights is not None or not built


def build(
    model: str, weights: str | None, classes: int, shape: Shape, checked: bool = True
) -> keras.Model:
    """A float network.

    Args:
        model: As in `configs.base`.
        weights: Its weights file, or None for what it comes with; of a `.keras` file the whole
            network is taken.
        classes: Number of scores, for networks that are built here.
        shape: `(height, width, channels)`.
        checked: Compare a converted network with its original.

    Raises:
        ValueError: There is no such network, or the weights do not fit.
    """
    if weights is not None and not Path(weights).is_file():
        raise ValueError(f"The weights file {weights} does not exist: set config.weights.")
    if weights is not None and weights.endswith(".keras"):
        return _file(weights)
    if model.startswith("zoo:"):
        return _zoo(model.removeprefix("zoo:"), weights, shape, checked)
    if Path(model).suffix in (".keras", ".h5"):
        network = _file(model)
    elif model == "small_resnet":
        network = small_resnet(shape, classes)
    elif model.startswith("keras:"):
        network = _application(model.removeprefix("keras:"), classes, shape)
    elif ":" in model:
        network = _function(model)
    else:
        raise ValueError(
            f"Unknown model {model!r}: name small_resnet, keras:NAME, zoo:NAME, a .keras or .h5 "
            "file, or pkg.module:function."
        )
    if weights is not None:
        try:
            network.load_weights(weights)
        except (ValueError, OSError, KeyError) as error:
            reason = reason_of(error)
            raise ValueError(f"The weights {weights} do not fit {model}: {reason}") from error
    return network


def normalized(
    network: keras.Model, mean: tuple[float, ...], std: tuple[float, ...]
) -> keras.Model:
    """The network behind `(pixel - mean) / std`, unless it scales its input itself already."""
    identity = set(mean) == {0.0} and set(std) == {1.0}
    if identity or scales_its_input(network):
        return network
    return with_preprocessing(network, Preprocessing(mean, std))


def scales_its_input(network: keras.Model) -> bool:
    """Whether a network contains its normalization as a layer."""
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    layers = network._flatten_layers(include_self=False)
    return any(isinstance(layer, kinds) for layer in layers)


def _zoo(name: str, weights: str | None, shape: Shape, checked: bool) -> keras.Model:
    from faq_keras import converters

    if name not in ZOO:
        raise ValueError(f"The zoo has no network {name!r}; it has {', '.join(ZOO)}.")
    if checked:
        return converters.from_torch(name, weights, shape)[0]
    from faq_keras.converters.torch_to_onnx import load_module, torch_to_onnx

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        torch_to_onnx(load_module(name, weights=weights), file, shape)
        network = converters.from_onnx(file)
    network.name = name
    return network


def _file(path: str) -> keras.Model:
    """A network from a file; a `.keras` file may say what normalization it needs."""
    if path.endswith(".keras"):
        network = common.load_model(path)
        preprocessing = preprocessing_of(path)
        if preprocessing is None or preprocessing.in_model:
            return network
        return with_preprocessing(network, preprocessing)
    return load_keras(path)


def _application(name: str, classes: int, shape: Shape) -> keras.Model:
    function = getattr(keras.applications, name, None)
    if not callable(function):
        names = sorted(n for n in dir(keras.applications) if n[0].isupper())
        raise ValueError(f"keras.applications has no {name!r}; it has {', '.join(names)}.")
    return function(weights=None, classes=classes, input_shape=shape)


def _function(model: str) -> keras.Model:
    module, _, name = model.partition(":")
    try:
        function: Any = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing a module runs it
        reason = reason_of(error).rstrip(".")
        raise ValueError(f"The model {model!r} cannot be imported: {reason}.") from error
    try:
        network = function()
    except Exception as error:  # it is anybody's function
        raise ValueError(
            f"The model {model!r} cannot be built, called without arguments: {reason_of(error)}. "
            "Name a function without arguments that gives a Keras model."
        ) from error
    if not isinstance(network, keras.Model):
        raise ValueError(f"{model} gives a {type(network).__name__}, not a Keras model.")
    return network
