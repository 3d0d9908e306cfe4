"""What is done to one tensor: subclasses of tfmot's `Quantizer`, in pure TensorFlow ops.

The same objects run in the Keras 3 layers of this package and under tfmot's `quantize_apply` for
`tf_keras` models.

    kernel_quantizer = KernelQuantizer(KernelSpec(bits=4, clip_stds=4.12))
    kernel_quantizer(kernel, training=True, weights={})       # values on the grid, straight-through
    gradient

| tensor | quantizer | exponent |
|---|---|---|
| kernel | `KernelQuantizer` | from the weights, in every step |
| activation | `ActivationQuantizer` | fixed by the plan |
| batch normalization multiplier | `MultiplierQuantizer` | fixed by the plan |
| bias | `BiasQuantizer` | the accumulator grid, given at each call |
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras import fixed_point
from faq_keras.compat import Quantizer
from faq_keras.plan import KernelSpec, MultiplierSpec, TensorSpec


class _StatelessQuantizer(Quantizer):
    """A quantizer without variables of its own, described by a spec of the plan."""

    spec: Any

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Creates no variables (tfmot's hook)."""
        return {}

    def get_config(self) -> dict[str, Any]:
        """The spec as plain JSON types."""
        config = dataclasses.asdict(self.spec)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in config.items()}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.__dict__.items())))


class KernelQuantizer(_StatelessQuantizer):
    """Weights: symmetric, one exponent per tensor, recomputed in every step (paper 3.1.1).

    With channel scales the exponent is that of the scaled weights, so each channel of the weights
    has a real step of its own, `2**exponent / scale`.
    """

    def __init__(self, spec: KernelSpec) -> None:
        self.spec = spec

    def scales(self, kernel: Any) -> npt.NDArray[np.float32] | None:
        """The channel scales in a shape that broadcasts to the weights, or None.

        Args:
            kernel: Weights whose last axis, or last two axes (depthwise), hold the output channels.

        Raises:
            ValueError: If there is another number of channels than of scales.
        """
        if self.spec.channel_scales is None:
            return None
        scales = np.array(self.spec.channel_scales, np.float32)
        shape = tuple(kernel.shape)
        for channels in (shape[-1:], shape[-2:]):
            if math.prod(channels) == scales.size:
                return scales.reshape(channels)
        raise ValueError(f"{scales.size} channel scales do not fit weights of the shape {shape}.")

    def scaled(self, kernel: Any) -> tf.Tensor:
        """The weights whose codes are stored: times the channel scales, if there are any."""
        scales = self.scales(kernel)
        kernel = tf.convert_to_tensor(kernel)
        return kernel if scales is None else kernel * scales

    def exponent(self, kernel: tf.Tensor) -> tf.Tensor:
        """`l` of the float weights, scaled, an int32 scalar."""
        scaled = self.scaled(kernel)
        return fixed_point.tf_kernel_exponent(scaled, self.spec.bits, self.spec.clip_stds)

    def quantize_scaled(self, kernel: Any, exponent: tf.Tensor) -> tf.Tensor:
        """The scaled weights on their grid, `code * 2**exponent`."""
        lowest, highest = fixed_point.code_range(self.spec.bits, signed=True)
        return fixed_point.tf_quantize(self.scaled(kernel), exponent, lowest, highest)

    def __call__(
        self, inputs: tf.Tensor, training: bool = False, weights: Any = None, **kwargs: Any
    ) -> tf.Tensor:
        """Quantizes float weights of any shape; `exponent=` skips its computation.

        The result is in the units of the weights, so channel scales are divided out again.
        """
        exponent = kwargs.get("exponent")
        exponent = self.exponent(inputs) if exponent is None else exponent
        quantized = self.quantize_scaled(inputs, exponent)
        scales = self.scales(inputs)
        return quantized if scales is None else quantized / scales

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> KernelQuantizer:
        """The inverse of `get_config`."""
        return cls(KernelSpec(**config))


class ActivationQuantizer(_StatelessQuantizer):
    """Activations: fixed exponent; clipping an unsigned tensor at 0 *is* the ReLU (paper 3.2).

    Args:
        spec: The tensor in the plan.
        rounding: Where exact halves go: what the tensor's integer kernel does.
    """

    def __init__(self, spec: TensorSpec, rounding: str = fixed_point.HALF_EVEN) -> None:
        self.spec = spec
        self.rounding = rounding

    def __call__(
        self, inputs: tf.Tensor, training: bool = False, weights: Any = None, **kwargs: Any
    ) -> tf.Tensor:
        """Quantizes a float activation tensor of any shape; exact rounding in inference only."""
        spec = self.spec
        if training:
            return fixed_point.tf_quantize_training(
                inputs, spec.exponent, spec.lowest, spec.highest
            )
        return fixed_point.tf_quantize(
            inputs, spec.exponent, spec.lowest, spec.highest, self.rounding
        )

    def get_config(self) -> dict[str, Any]:
        """The spec and the rounding as plain JSON types."""
        return super().get_config() | {"rounding": self.rounding}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ActivationQuantizer:
        """The inverse of `get_config`."""
        spec = {key: value for key, value in config.items() if key != "rounding"}
        return cls(TensorSpec(**spec), config["rounding"])


class MultiplierQuantizer(_StatelessQuantizer):
    """Batch normalization multipliers: symmetric 8 bits (paper 2.1, 3.1.1).

    The paper has one exponent for all channels. Multipliers of depthwise networks differ by orders
    of magnitude, and the small ones would vanish; so a channel may take a finer step, as far as its
    multiplier still fits and the spec allows.
    """

    def __init__(self, spec: MultiplierSpec) -> None:
        self.spec = spec

    def __call__(
        self, inputs: tf.Tensor, training: bool = False, weights: Any = None, **kwargs: Any
    ) -> tf.Tensor:
        """Quantizes a vector of multipliers."""
        lowest, highest = fixed_point.code_range(self.spec.bits, signed=True)
        exponent = kwargs.get("exponent")
        exponent = self.exponent(inputs) if exponent is None else exponent
        return fixed_point.tf_quantize(inputs, exponent, lowest, highest)

    def exponent(self, inputs: tf.Tensor) -> tf.Tensor:
        """The exponent of each multiplier, int32; comparisons only, so exact everywhere.

        Multipliers that no allowed step represents are zero, on the coarsest one: biases are stored
        in these steps.
        """
        _, highest = fixed_point.code_range(self.spec.bits, signed=True)
        magnitude = tf.abs(inputs)
        exponent = tf.fill(tf.shape(inputs), self.spec.exponent)
        for halvings in range(1, self.spec.finer + 1):
            fits = magnitude <= highest * 2.0 ** (self.spec.exponent - halvings)
            exponent -= tf.cast(fits, tf.int32)
        vanishes = magnitude <= 2.0 ** (self.spec.exponent - self.spec.finer - 1)
        return tf.where(vanishes, self.spec.exponent, exponent)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MultiplierQuantizer:
        """The inverse of `get_config`."""
        return cls(MultiplierSpec(**config))


@dataclasses.dataclass(frozen=True)
class BiasSpec:
    """An additive constant: 32 bits (paper section 2.1) on the accumulator grid."""

    bits: int = 32


class BiasQuantizer(_StatelessQuantizer):
    """Biases: on the accumulator grid `2**(input exponent + kernel exponent)`."""

    def __init__(self, spec: BiasSpec | None = None) -> None:
        self.spec = spec or BiasSpec()

    def __call__(
        self, inputs: tf.Tensor, training: bool = False, weights: Any = None, **kwargs: Any
    ) -> tf.Tensor:
        """Quantizes a vector of biases.

        Args:
            inputs: Float32 or float64 vector.
            training: Unused.
            weights: Unused.
            **kwargs: `exponent`, an int32 scalar: the accumulator grid.
        """
        lowest, highest = fixed_point.code_range(self.spec.bits, signed=True)
        return fixed_point.tf_quantize(inputs, kwargs["exponent"], lowest, highest)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BiasQuantizer:
        """The inverse of `get_config`."""
        return cls(BiasSpec(**config))
