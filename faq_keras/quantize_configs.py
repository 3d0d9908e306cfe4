"""Which tensors of a layer are quantized: tfmot `QuantizeConfig` subclasses, one per role.

A quantize config is made from the layer's entry in the plan and hands out the quantizers of
`quantizers.py`. The Keras 3 layers of this package take them by name (`config.kernel_quantizer`);
tfmot's wrapper asks for them through the methods of its own interface, so a user can annotate a
single `tf_keras` layer with them:

    config = quantize_config(plan["conv1"], plan.input_specs("conv1"))
    tfmot.quantization.keras.quantize_annotate_layer(layer, config)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tf_keras

from faq_keras import fixed_point
from faq_keras.compat import QuantizeConfig
from faq_keras.plan import LayerPlan, TensorSpec
from faq_keras.quantizers import (
    ActivationQuantizer,
    BiasQuantizer,
    KernelQuantizer,
    MultiplierQuantizer,
)

# How the kernel behind each node kind rounds its output (XNNPACK; `integer.rounding` holds the
# other runtimes).
_ROUNDING = {"add": fixed_point.HALF_UP, "requantize": fixed_point.HALF_UP}
_HEAD_ROUNDING = fixed_point.HALF_AWAY  # the int16 fully connected kernel
# tfmot clones the layers that are annotated with a config.
_register = tf_keras.saving.register_keras_serializable("faq_keras")


@_register
class OutputQuantizeConfig(QuantizeConfig):
    """A layer whose output tensor alone is quantized: the input, additions, pools.

    Attributes:
        plan: The layer's entry in the plan.
        input_specs: The tensors it reads.
        output_quantizer: Quantizer of the output.
    """

    def __init__(self, plan: LayerPlan, input_specs: tuple[TensorSpec, ...]) -> None:
        self.plan = plan
        self.input_specs = tuple(input_specs)
        rounding = _ROUNDING.get(plan.kind, fixed_point.HALF_EVEN)
        if plan.output.bits == 16:
            rounding = _HEAD_ROUNDING
        self.output_quantizer = ActivationQuantizer(plan.output, rounding)

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """No weights (tfmot's interface)."""
        return []

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """No inner activations: the output quantizer is the ReLU (tfmot's interface)."""
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Nothing to set (tfmot's interface)."""

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """Nothing to set (tfmot's interface)."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """The output's quantizer (tfmot's interface)."""
        return [self.output_quantizer]

    def get_config(self) -> dict[str, Any]:
        """The plan entry and the input tensors as plain JSON types."""
        return {
            "plan": self.plan.to_dict(),
            "input_specs": [dataclasses.asdict(spec) for spec in self.input_specs],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OutputQuantizeConfig:
        """The inverse of `get_config`."""
        specs = tuple(TensorSpec(**spec) for spec in config["input_specs"])
        return cls(LayerPlan.from_dict(config["plan"]), specs)


@_register
class AffineQuantizeConfig(OutputQuantizeConfig):
    """A layer that multiplies and adds per channel: a batch normalization that stands alone.

    Attributes:
        multiplier_quantizer: Quantizer of the batch normalization multipliers, or None.
        bias_quantizer: Quantizer of the additive constants.
    """

    def __init__(self, plan: LayerPlan, input_specs: tuple[TensorSpec, ...]) -> None:
        super().__init__(plan, input_specs)
        multiplier = plan.multiplier
        self.multiplier_quantizer = MultiplierQuantizer(multiplier) if multiplier else None
        self.bias_quantizer = BiasQuantizer()


@_register
class KernelQuantizeConfig(AffineQuantizeConfig):
    """A layer with a kernel: convolutions and dense layers, with their batch normalization.

    Attributes:
        kernel_quantizer: Quantizer of the weights.
    """

    def __init__(self, plan: LayerPlan, input_specs: tuple[TensorSpec, ...]) -> None:
        super().__init__(plan, input_specs)
        if plan.kernel is None:
            raise ValueError(f"Layer '{plan.name}' ({plan.kind}) has no kernel entry in its plan.")
        self.kernel_quantizer = KernelQuantizer(plan.kernel)

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """The kernel and its quantizer (tfmot's interface)."""
        return [(getattr(layer, kernel_attribute(layer)), self.kernel_quantizer)]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Gives the layer its quantized kernel (tfmot's interface)."""
        setattr(layer, kernel_attribute(layer), quantize_weights[0])


def kernel_attribute(layer: Any) -> str:
    """Where a layer keeps its kernel: tf_keras' DepthwiseConv2D has a name of its own for it."""
    return "depthwise_kernel" if hasattr(layer, "depthwise_kernel") else "kernel"


class LayerQuantizeConfig(OutputQuantizeConfig):
    """A user's own layer (`faq_keras.register`), which reads one tensor.

    A subclass says what the layer computes, with its weights quantized by `kernel_quantizer`. It
    may replace `output_quantizer`, whose rounding is that of convolutions, half to even.

    Attributes:
        kernel_quantizer: Quantizer of weights as the plan says; None if the layer has no weights.
    """

    def __init__(self, plan: LayerPlan, input_specs: tuple[TensorSpec, ...]) -> None:
        super().__init__(plan, input_specs)
        self.kernel_quantizer = KernelQuantizer(plan.kernel) if plan.kernel else None

    def compute(self, layer: Any, inputs: Any) -> Any:
        """What the integer ops compute before they round: values that float32 holds exactly.

        Args:
            layer: The user's layer.
            inputs: The quantized tensor that it reads.
        """
        return layer(inputs)


# The config of each node kind without a kernel of the library's own; `custom_layers.register` adds
# those of users' layers. All other kinds quantize their output alone.
QUANTIZE_CONFIGS: dict[str, type[OutputQuantizeConfig]] = {"affine": AffineQuantizeConfig}


def quantize_config(plan: LayerPlan, input_specs: tuple[TensorSpec, ...]) -> OutputQuantizeConfig:
    """The quantize config of a layer.

    Args:
        plan: The layer's entry in the plan.
        input_specs: The tensors it reads, `QuantPlan.input_specs(name)`.
    """
    default = KernelQuantizeConfig if plan.kernel else OutputQuantizeConfig
    return QUANTIZE_CONFIGS.get(plan.kind, default)(plan, input_specs)
