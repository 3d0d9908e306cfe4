"""Layers of your own: say once how one is computed in integers, and networks with it are exact.

Two kinds can be registered. A layer that *computes* gets a tensor of its own in the plan; a
`LayerQuantizeConfig` says what it computes with quantized weights, and a lowering adds the integer
ops that compute the same. A layer that *leaves codes alone* on the device (DropPath, noise) needs
a lowering only:

    faq_keras.register(LayerScale, quantize_config=LayerScaleConfig, lowering=lower_layer_scale)
    faq_keras.register(DropPath, lowering=faq_keras.custom_layers.same)
    q = faq_keras.apply(model, bits=4, calibration_data=x)
    faq_keras.export_tflite(q, "m.tflite")       # compares the new layers, too

`examples/custom_layer.py` has both in full. Registering only extends the library's own tables: of
layers (`graph_reader`), of quantize configs and of lowerings.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras

from faq_keras.graph_reader import LAYER_KINDS
from faq_keras.integer.lowering import CUSTOM_HANDLERS, HANDLERS, Handler, same
from faq_keras.plan import CUSTOM_PREFIX
from faq_keras.quantize_configs import QUANTIZE_CONFIGS, LayerQuantizeConfig

__all__ = ["register", "same"]

# Nodes of this kind hand their input's codes on.
_PASSING = "identity"


def register(
    layer: type,
    *,
    quantize_config: type[LayerQuantizeConfig] | None = None,
    lowering: Handler,
) -> None:
    """Makes a layer class of your own known, until the end of the process.

    Call it before `apply`, and before a quantized model with such a layer is loaded. The output of
    a layer with a quantize config is a signed 8-bit tensor with a calibrated step. Its weights, if
    it has any, have the bits of `Policy` like any other layer's. Registering a class again
    replaces what was said of it before.

    Args:
        layer: A subclass of `keras.layers.Layer` that reads one tensor, registered with Keras by
            `@keras.saving.register_keras_serializable(package)`.
        quantize_config: What it computes with quantized weights, for a layer that computes
            something on the device. None for one that leaves codes alone there.
        lowering: `lowering(builder, quantized_layer, inputs)` adds integer ops
            (`integer.program.OP_KINDS`) to a `ProgramBuilder` and gives the name of the tensor with
            the result, which has to be the layer's. `quantized_layer` has `float_layers` (your
            layer), `quantize_config`, `plan` and `input_specs`; without a quantize config it is
            your layer itself. `inputs` names the tensor that it reads. `same` adds nothing.

    Raises:
        ValueError: It is no layer class, not registered with Keras, or supported already, or the
            arguments are of another kind.
    """
    name = _checked_name(layer)
    if quantize_config is not None and not (
        inspect.isclass(quantize_config) and issubclass(quantize_config, LayerQuantizeConfig)
    ):
        raise ValueError(
            f"The quantize config of {layer.__name__} must be a subclass of "
            f"faq_keras.quantize_configs.LayerQuantizeConfig, received {quantize_config!r}."
        )
    if not callable(lowering):
        raise ValueError(
            f"The lowering of {layer.__name__} must be a function (builder, layer, inputs), "
            f"received {lowering!r}."
        )
    kind = CUSTOM_PREFIX + name
    _forget(layer, kind)
    if quantize_config is None:
        LAYER_KINDS[layer] = _PASSING
        HANDLERS[layer] = lowering
    else:
        LAYER_KINDS[layer] = kind
        QUANTIZE_CONFIGS[kind] = quantize_config
        CUSTOM_HANDLERS[kind] = lowering
    _OWN.add(layer)


_OWN: set[type] = set()


def _checked_name(layer: Any) -> str:
    """The name by which Keras finds the class."""
    if not (inspect.isclass(layer) and issubclass(layer, keras.layers.Layer)):
        raise ValueError(f"Only classes of Keras 3 layers can be registered, received {layer!r}.")
    if layer in LAYER_KINDS and layer not in _OWN:
        raise ValueError(f"{layer.__name__} is supported already and cannot be registered again.")
    name: str = keras.saving.get_registered_name(layer)
    if keras.saving.get_registered_object(name) is not layer:
        raise ValueError(
            f"{layer.__name__} is unknown to Keras, so saved models with it could not be loaded: "
            "put @keras.saving.register_keras_serializable(package='mine') before the class."
        )
    return name


def _forget(layer: type, kind: str) -> None:
    HANDLERS.pop(layer, None)
    QUANTIZE_CONFIGS.pop(kind, None)
    CUSTOM_HANDLERS.pop(kind, None)
