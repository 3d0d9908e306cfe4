"""The guarded import of tensorflow-model-optimization, and which Keras a model belongs to.

Importing tfmot sets `TF_USE_LEGACY_KERAS=1` and turns a `tf.keras` that nobody has touched yet into
Keras 2. Everything in this package that needs tfmot imports it from here; the environment and
`tf.keras` are as they were afterwards.

    from faq_keras.compat import Quantizer, QuantizeConfig
    keras_of(model).layers.Conv2D         # Keras 3's or tf_keras', as the model is
"""

from __future__ import annotations

import importlib
import os
import types
from typing import Any

import keras
import tensorflow as tf
import tf_keras

_FLAG = "TF_USE_LEGACY_KERAS"


def _import_tfmot() -> types.ModuleType:
    tf.keras.layers  # noqa: B018 - resolves the lazy loader to the Keras that the user asked for
    before = os.environ.get(_FLAG)
    try:
        import tensorflow_model_optimization as tfmot
    finally:
        if before is None:
            os.environ.pop(_FLAG, None)
        else:
            os.environ[_FLAG] = before
    return tfmot


def _internal(name: str) -> types.ModuleType:
    """A module of tfmot with a base class for schemes that its public API does not name."""
    package = "tensorflow_model_optimization.python.core.quantization.keras"
    return importlib.import_module(f"{package}.{name}")


tfmot = _import_tfmot()
Quantizer = tfmot.quantization.keras.quantizers.Quantizer
QuantizeConfig = tfmot.quantization.keras.QuantizeConfig
QuantizeScheme = tfmot.quantization.keras.QuantizeScheme
QuantizeLayoutTransform = _internal("quantize_layout_transform").QuantizeLayoutTransform
QuantizeRegistry = _internal("quantize_registry").QuantizeRegistry


def is_tf_keras(part: Any) -> bool:
    """Whether a model or layer belongs to Keras 2 (the `tf_keras` package)."""
    return any(base.__module__.split(".")[0] == "tf_keras" for base in type(part).__mro__)


def keras_of(part: Any) -> types.ModuleType:
    """The Keras that a model or layer belongs to: `keras` (3) or `tf_keras` (2)."""
    return tf_keras if is_tf_keras(part) else keras


def check_backend() -> None:
    """Raises a ValueError if Keras 3 runs on another backend than TensorFlow."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"faq_keras computes in TensorFlow, but Keras runs on the {backend!r} backend: set "
            "KERAS_BACKEND=tensorflow before keras is imported."
        )
