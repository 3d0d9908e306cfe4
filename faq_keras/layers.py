"""The quantized layers: one layer is one integer op of the deployed network.

A quantized layer holds the float layers that it replaces (`float_layers`: a convolution, its batch
normalization, its ReLU) as ordinary sublayers, so their weights, initializers, regularizers and
`trainable` flags stay what they were, and the float model can be rebuilt from it (`to_float`). What
it does to them is decided by a quantize config, made from its entry in the plan. Training uses
batch statistics, inference the folded integer arithmetic (`arithmetic`).

    q = faq_keras.apply(model, bits=4, calibration_data=x)
    layer = q.get_layer("conv1")    # a QuantizedConv2D, named after the first float layer in it
    layer.float_layers              # [<Conv2D conv1>, <BatchNormalization bn1>, <ReLU relu1>]
    layer.plan.output               # 4 unsigned bits, step 2^-2

Both Kerases have the same layers: the classes below know no Keras, `QUANTIZED_LAYERS` holds what
they become with either's `layers.Layer` as base, registered so that saved models load. They compute
in float32 whatever the dtype policy: half precision does not hold the network's integers.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from faq_keras import arithmetic
from faq_keras.compat import keras_of
from faq_keras.plan import LayerPlan, PlanSettings, TensorSpec
from faq_keras.quantize_configs import (
    AffineQuantizeConfig,
    KernelQuantizeConfig,
    LayerQuantizeConfig,
    kernel_attribute,
)
from faq_keras.quantized_layer import QuantizedLayer


class QuantizedInput(QuantizedLayer):
    """Preprocesses the input and puts it on its 8-bit grid; holds the plan's settings."""

    def __init__(
        self,
        plan: LayerPlan | dict[str, Any],
        input_specs: Sequence[TensorSpec | dict[str, Any]] = (),
        float_layers: Sequence[Any] = (),
        *,
        settings: PlanSettings | dict[str, Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(plan, input_specs, float_layers, **kwargs)
        self.settings = PlanSettings(**settings) if isinstance(settings, dict) else settings

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Rounds half to even, as TFLite's float to int8 QUANTIZE does."""
        return self.quantize_config.output_quantizer(self.preprocess(inputs))

    def preprocess(self, inputs: Any) -> tf.Tensor:
        """The preprocessing layers of the float model (Rescaling, Normalization), in float32."""
        x = tf.cast(inputs, "float32")
        for layer in self.float_layers:
            x = layer(x)
        return x

    def get_config(self) -> dict[str, Any]:
        """The plan entry and the shared settings."""
        return super().get_config() | {"settings": self.settings.to_dict()}


class QuantizedFoldedLayer(QuantizedLayer):
    """Base of the layers `(accumulator + b) * c`: [kernel layer] [+ BatchNormalization] [+ ReLU].

    A subclass says what it accumulates, and gives its integer constants.

    Attributes:
        frozen_statistics: Whether training uses the moving statistics and leaves them alone; gamma
            and beta are trained all the same. A training sets it (`callbacks.FrozenStatistics`).
    """

    frozen_statistics = False

    @property
    def batch_norm_layer(self) -> Any:
        """The batch normalization, or None."""
        for layer in self.float_layers:
            if isinstance(layer, keras_of(self).layers.BatchNormalization):
                return layer
        return None

    def _batch_norm(self) -> arithmetic.BatchNorm | None:
        layer = self.batch_norm_layer
        if layer is None:
            return None
        return arithmetic.BatchNorm(
            gamma=layer.gamma if layer.scale else None,
            beta=layer.beta if layer.center else None,
            mean=layer.moving_mean,
            variance=layer.moving_variance,
            epsilon=layer.epsilon,
        )

    @abc.abstractmethod
    def fold(self) -> arithmetic.Folded:
        """The constants of the integer op, as inference uses them."""

    @abc.abstractmethod
    def accumulate(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """The sum of products of the op, without bias."""

    @abc.abstractmethod
    def before_batch_norm(self, inputs: tf.Tensor) -> tf.Tensor:
        """What the batch normalization reads while training."""

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Batch statistics while training, the folded integer form otherwise."""
        batch_norm = self.batch_norm_layer
        moves = batch_norm is not None and batch_norm.trainable and not self.frozen_statistics
        if training and moves:
            x = self._train_batch_norm(inputs)
        else:
            folded = self.fold()
            x = arithmetic.apply_folded(self.accumulate(inputs, folded.kernel), folded)
        return self.quantize_config.output_quantizer(x, training)

    def _train_batch_norm(self, inputs: tf.Tensor) -> tf.Tensor:
        layer, batch_norm = self.batch_norm_layer, self._batch_norm()
        assert batch_norm is not None
        y, mean, variance = arithmetic.batch_normalize(self.before_batch_norm(inputs), batch_norm)
        keep = layer.momentum
        for moving, batch in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            moving.assign(moving * keep + tf.stop_gradient(batch) * (1.0 - keep))
        return y


class QuantizedKernelLayer(QuantizedFoldedLayer):
    """Base of the layers with a kernel: convolutions and dense layers."""

    quantize_config: KernelQuantizeConfig

    @property
    def channel_shape(self) -> tuple[int, ...]:
        """Sizes of the kernel's last axes, the output channels."""
        return tuple(self.kernel.shape[-1:])

    @property
    def kernel_layer(self) -> Any:
        """The convolution or dense layer."""
        return self.float_layers[0]

    @property
    def kernel(self) -> Any:
        """Its float weights."""
        return getattr(self.kernel_layer, kernel_attribute(self.kernel_layer))

    @property
    def kernel_scales(self) -> Any:
        """The plan's channel scales in a shape that broadcasts to the kernel, or None."""
        return self.quantize_config.kernel_quantizer.scales(self.kernel)

    def fold(self) -> arithmetic.Folded:
        """Quantized weights; bias and batch normalization as bias and multiplier."""
        layer = self.kernel_layer
        return arithmetic.fold(
            self.quantize_config,
            kernel=self.kernel,
            bias=layer.bias if layer.use_bias else None,
            batch_norm=self._batch_norm(),
            channel_shape=self.channel_shape,
        )

    def before_batch_norm(self, inputs: tf.Tensor) -> tf.Tensor:
        """The layer with quantized weights and its float bias."""
        layer = self.kernel_layer
        x = self.accumulate(inputs, self.quantize_config.kernel_quantizer(self.kernel))
        return x + layer.bias if layer.use_bias else x


class QuantizedConv2D(QuantizedKernelLayer):
    """Conv2D [+ BatchNormalization] [+ ReLU] as one CONV_2D; grouped ones, too."""

    def accumulate(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """`[batch, height, width, in]` and `[height, width, in / groups, out]`."""
        conv = self.kernel_layer
        # oneDNN has no groups, and errs on one channel with two strides (`docs/reliability.md`).
        odd = inputs.shape[-1] == 1 and len(set(conv.strides)) > 1
        convolve = arithmetic.grouped_conv2d if conv.groups > 1 or odd else tf.nn.conv2d
        return convolve(
            inputs, kernel, conv.strides, conv.padding.upper(), dilations=conv.dilation_rate
        )


class QuantizedDepthwiseConv2D(QuantizedKernelLayer):
    """DepthwiseConv2D [+ BatchNormalization] [+ ReLU] as one DEPTHWISE_CONV_2D."""

    @property
    def channel_shape(self) -> tuple[int, ...]:
        """Input channels and depth multiplier: together the output channels."""
        return tuple(self.kernel.shape[-2:])

    def accumulate(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """`[batch, height, width, in]` and `[height, width, in, depth multiplier]`."""
        conv = self.kernel_layer
        strides = (1, *conv.strides, 1)
        return tf.nn.depthwise_conv2d(
            inputs, kernel, strides, conv.padding.upper(), dilations=conv.dilation_rate
        )


class QuantizedDense(QuantizedKernelLayer):
    """Dense [+ ReLU] as one FULLY_CONNECTED (16-bit logits: behind a widening QUANTIZE)."""

    def accumulate(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """`[batch, in]` and `[in, out]`."""
        return tf.matmul(inputs, kernel)


class QuantizedAffine(QuantizedFoldedLayer):
    """BatchNormalization [+ ReLU], or a ReLU, that stand alone: a 1x1 DEPTHWISE_CONV_2D.

    The kernel holds the 8-bit multipliers. With a BatchNormalization, `[batch, channels]` works as
    well as `[batch, height, width, channels]`.
    """

    quantize_config: AffineQuantizeConfig

    def fold(self) -> arithmetic.Folded:
        """Multipliers (ones, for a ReLU) as a depthwise kernel `[1, 1, channels, 1]`."""
        return arithmetic.fold_affine(self.quantize_config, self._batch_norm(), self._channels)

    def build(self, input_shape: Any) -> None:
        """Builds the float layers and notes the number of channels."""
        self._channels = int(input_shape[-1])
        super().build(input_shape)

    def before_batch_norm(self, inputs: tf.Tensor) -> tf.Tensor:
        """The input itself."""
        return inputs

    def accumulate(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """`[..., channels]` and `[1, 1, channels, 1]`."""
        return inputs * tf.reshape(kernel, [-1])


class QuantizedConcatenate(QuantizedLayer):
    """Concatenate along the channels as one CONCATENATION of tensors on one grid."""

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Joins `[..., channels]` tensors."""
        return tf.concat(list(inputs), axis=-1)


class QuantizedRequantize(QuantizedLayer):
    """Moves a tensor onto the grid of those that it is concatenated with: one QUANTIZE."""

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Rounds half up, as XNNPACK does; exact where the new step divides the old one."""
        return self.quantize_config.output_quantizer(inputs, training)


class QuantizedAdd(QuantizedLayer):
    """Add [+ ReLU] of two tensors as one ADD; rounds half up, as XNNPACK does."""

    def call(self, inputs: Sequence[tf.Tensor], training: bool = False) -> tf.Tensor:
        """Adds two tensors of one shape."""
        return self.quantize_config.output_quantizer(inputs[0] + inputs[1], training)


class QuantizedAveragePooling2D(QuantizedLayer):
    """AveragePooling2D as one AVERAGE_POOL_2D; input and output share their exponent."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Averages windows of `[batch, height, width, channels]`."""
        pool = self.float_layers[0]
        return arithmetic.average_pool(
            inputs, self.plan.output, pool.pool_size, pool.strides, pool.padding
        )


class QuantizedGlobalAveragePooling2D(QuantizedLayer):
    """GlobalAveragePooling2D as a DEPTHWISE_CONV_2D with ones: the mean has its own exponent."""

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Averages `[batch, height, width, channels]` over height and width."""
        pool = self.float_layers[0]
        y = self.quantize_config.output_quantizer(arithmetic.global_average(inputs), training)
        return y if pool.keepdims else tf.squeeze(y, axis=[1, 2])


class QuantizedCustomLayer(QuantizedLayer):
    """A user's own layer, computed and rounded as its quantize config says."""

    quantize_config: LayerQuantizeConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.quantize_config, LayerQuantizeConfig):
            raise ValueError(
                f"Layer '{self.name}' is one of your own ({self.plan.kind}): call "
                "faq_keras.register for it before a model with it is loaded."
            )

    def build(self, input_shape: Any) -> None:
        """Builds the user's layer."""
        if not self.float_layers[0].built:
            self.float_layers[0].build(input_shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape that the user's layer gives; it need not have this method itself."""
        return self.float_layers[0].compute_output_spec(keras.KerasTensor(input_shape)).shape

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Any tensor that the user's layer takes."""
        config = self.quantize_config
        return config.output_quantizer(config.compute(self.float_layers[0], inputs), training)


_BY_KIND: dict[str, type[QuantizedLayer]] = {
    "input": QuantizedInput,
    "conv": QuantizedConv2D,
    "depthwise": QuantizedDepthwiseConv2D,
    "dense": QuantizedDense,
    "affine": QuantizedAffine,
    "concat": QuantizedConcatenate,
    "requantize": QuantizedRequantize,
    "add": QuantizedAdd,
    "average_pool": QuantizedAveragePooling2D,
    "global_pool": QuantizedGlobalAveragePooling2D,
    "custom": QuantizedCustomLayer,
}


def _layers_of(library: ModuleType) -> dict[str, type[QuantizedLayer]]:
    """The classes above as layers of one Keras, registered with it under their names."""
    register = library.saving.register_keras_serializable(package="faq_keras")
    members = {"__module__": __name__}
    return {
        kind: register(
            type(cls.__name__, (cls, library.layers.Layer), {**members, "__doc__": cls.__doc__})
        )
        for kind, cls in _BY_KIND.items()
    }


# The quantized layer of each node kind of the graph, for each Keras.
QUANTIZED_LAYERS: dict[ModuleType, dict[str, type[QuantizedLayer]]] = {
    library: _layers_of(library) for library in (keras, tf_keras)
}
