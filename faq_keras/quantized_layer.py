"""The base of all quantized layers: it holds float layers, and what the plan says of them.

The float layers are ordinary sublayers: their weights, initializers, regularizers and `trainable`
flags stay what they were. What happens to them is decided by a quantize config, made from the
layer's entry in the plan. The class knows no Keras; `layers.QUANTIZED_LAYERS` has its subclasses
with the base class of either.

    layer.float_layers, layer.plan, layer.input_specs, layer.quantize_config
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from faq_keras.activity_regularizers import of_last
from faq_keras.compat import check_backend, keras_of
from faq_keras.plan import LayerPlan, TensorSpec
from faq_keras.quantize_configs import quantize_config

if TYPE_CHECKING:
    from keras.layers import Layer as KerasLayer  # of either Keras
else:
    KerasLayer = object


class QuantizedLayer(KerasLayer):
    """Base of the quantized layers.

    Args:
        plan: The layer's entry in the plan (a `LayerPlan` or its dict).
        input_specs: The tensors it reads (`TensorSpec`s or their dicts).
        float_layers: The float layers it replaces, in order; built with this layer. Empty for the
            input quantizer.
        **kwargs: As for any Keras layer.
    """

    def __init__(
        self,
        plan: LayerPlan | dict[str, Any],
        input_specs: Sequence[TensorSpec | dict[str, Any]],
        float_layers: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        check_backend()
        super().__init__(**{"dtype": "float32", **kwargs})
        self.plan = LayerPlan.from_dict(plan) if isinstance(plan, dict) else plan
        specs = tuple(TensorSpec(**s) if isinstance(s, dict) else s for s in input_specs)
        self.quantize_config = quantize_config(self.plan, specs)
        load = keras_of(self).layers.deserialize
        self.float_layers = [
            load(layer) if isinstance(layer, dict) else layer for layer in float_layers
        ]
        if self.plan.kind != "input":  # preprocessing layers are called, with their own
            self.activity_regularizer = of_last(self.float_layers)

    @property
    def trainable(self) -> bool:
        """Whether anything in it learns: setting it on a frozen layer reaches the float layers."""
        layers = getattr(self, "float_layers", ())
        return super().trainable and (not layers or any(layer.trainable for layer in layers))

    @trainable.setter
    def trainable(self, value: bool) -> None:
        super(QuantizedLayer, type(self)).trainable.fset(self, value)

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """The quantized tensors that the layer reads."""
        return self.quantize_config.input_specs

    def build(self, input_shape: Any) -> None:
        """Builds the float layers one after the other."""
        for layer in self.float_layers:
            if not layer.built:
                layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape that the float layers would give."""
        for layer in self.float_layers:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The plan entry and the float layers, as plain types."""
        own = self.quantize_config.get_config() | {"trainable": self._trainable}
        layers = [keras_of(self).layers.serialize(layer) for layer in self.float_layers]
        return super().get_config() | own | {"float_layers": layers}
