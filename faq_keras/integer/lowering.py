"""Lowering: a quantized Keras model becomes an IntegerProgram, layer by layer, op by op.

This is the one place where the constants of training turn into the constants of a device. Nothing
is derived anew: weights, biases and multipliers are the very tensors that the layers' inference
uses (`QuantizedFoldedLayer.fold`), divided by their power-of-two steps. Each accumulating op gets a
proof that its accumulator cannot overflow.

    program = lower(q)
    for bound in program.bounds:
        print(bound.op, bound.bound, bound.exact_in_float32)
    codes = KerasCodes(q, program)({"image": x})    # what Keras computes, as integers
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from faq_keras import layers as quantized_layers
from faq_keras.fixed_point import code_range
from faq_keras.graph import layer_calls
from faq_keras.integer import limits, pools
from faq_keras.integer.builder import ProgramBuilder, activation_tensor, layout_tensor
from faq_keras.integer.constants import LayerConstants, layer_constants
from faq_keras.integer.program import IntegerProgram, Tensor
from faq_keras.rewrite.bridge import to_keras3
from faq_keras.rewrite.keras3 import plan_of

INPUT_TYPES = ("int8", "uint8", "float32")


def lower(model: Any, input_type: str = "int8", softmax: bool = False) -> IntegerProgram:
    """Lowers a quantized model.

    Args:
        model: A model that `faq_keras.apply` made, of either Keras.
        input_type: "int8" (the network's own codes), or "uint8" / "float32": a QUANTIZE op at the
            input converts.
        softmax: Appends the integer SOFTMAX op to the outputs that end in a softmax in Keras; to
            all of them if none does (a classifier that was trained from logits).

    Returns:
        The program; it ends at the logits (a final softmax stays in Keras).

    Raises:
        ValueError: If the model is not quantized, an accumulator could exceed 31 bits, or a
            constant lies outside what the kernels can represent, or a softmax is asked for where
            Keras has a sigmoid; the layer is named.
    """
    if input_type not in INPUT_TYPES:
        raise ValueError(
            f"input_type must be one of {', '.join(INPUT_TYPES)}, received {input_type!r}."
        )
    model = to_keras3(model)
    calls = list(layer_calls(model)) if hasattr(model, "_nodes_by_depth") else []
    _check_layers(model, [call.operation for call in calls])
    plan = plan_of(model)
    builder = ProgramBuilder(input_type)
    names: dict[int, str] = {}
    for call in calls:
        read = [names[id(tensor)] for tensor in call.input_tensors]
        result = _handler(call.operation)(builder, call.operation, read)
        names.update({id(tensor): result for tensor in call.outputs})
    outputs = [names[id(tensor)] for tensor in model.outputs]
    if softmax:
        ends = [_activation(tensor._keras_history.operation) for tensor in model.outputs]
        outputs = _with_softmax(builder, outputs, ends)
    return IntegerProgram(
        name=model.name,
        tensors=builder.tensors,
        ops=tuple(builder.ops),
        inputs=tuple(
            builder.inputs[tensor._keras_history.operation.name] for tensor in model.inputs
        ),
        outputs=tuple(outputs),
        numerics=plan.settings.numerics,
        bounds=tuple(builder.bounds),
    )


def _check_layers(model: keras.Model, layers: list[Any]) -> None:
    """Raises one error that lists the layers of a quantized model without an integer op."""
    unknown = [layer for layer in layers if _handler(layer) is None]
    quantized = any(isinstance(layer, quantized_layers.QuantizedLayer) for layer in layers)
    if unknown and quantized:
        listed = "\n  - ".join(f"Layer '{la.name}' ({type(la).__name__})" for la in unknown)
        raise ValueError(
            f"Model '{model.name}' has layers without an integer op:\n  - {listed}\n"
            "Models made by faq_keras.apply have one for every layer. Quantize the float model "
            "with these layers in it, without other quantize configs, or remove them."
        )


def _handler(layer: Any) -> Any:
    """The function that adds what a layer computes and gives the name of its tensor, or None."""
    if getattr(layer, "activation", None) in (keras.activations.relu, keras.activations.relu6):
        return None  # a float layer: quantized ones clip in their output's quantizer
    return next((add for cls, add in HANDLERS.items() if isinstance(layer, cls)), None)


def _input(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    return ""  # the InputLayer; the tensor comes with the QuantizedInput behind it


def _quantized_input(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    codes = activation_tensor(layer.plan.name, layer.output.shape, layer.plan.output)
    if builder.input_type == "int8":
        builder.inputs[codes.name] = builder.tensor(codes)
        return codes.name
    source = dataclasses.replace(
        codes, name=f"{codes.name}/{builder.input_type}", dtype=builder.input_type
    )
    if builder.input_type == "uint8":
        source = dataclasses.replace(
            source,
            zero_point=codes.zero_point + 128,
            lowest=codes.lowest + 128,
            highest=codes.highest + 128,
        )
    else:
        source = dataclasses.replace(source, scale=(), zero_point=0)
    builder.inputs[codes.name] = builder.tensor(source)
    return builder.op("quantize", codes.name, [source.name], builder.tensor(codes))


def _kernel_layer(
    builder: ProgramBuilder,
    layer: Any,
    source: str,
    constants: LayerConstants,
    weights: npt.NDArray[Any],
    axis: int | None,
    kind: str,
    output: Tensor | None = None,
    **attributes: Any,
) -> str:
    """Adds kernel, bias, output and op of a layer that multiplies, adds and requantizes."""
    scale = constants.scale if axis is not None else constants.scale[:1]
    read = builder.tensors[source]
    output = output or activation_tensor(layer.name, layer.output.shape, layer.plan.output)
    limits.check_multipliers(layer.name, read.scale[0] * scale / output.scale[0])
    bits = layer.plan.kernel.bits if layer.plan.kernel else 8
    low, high = code_range(bits, signed=True)
    kernel = Tensor(
        f"{layer.name}/kernel", weights.shape, "int8", tuple(scale.tolist()), 0, axis,
        bits, low, high, np.ascontiguousarray(weights, np.int8),
    )  # fmt: skip
    bias_type = np.int64 if output.dtype == "int16" else np.int32
    limit = np.iinfo(np.int32).max
    bias = Tensor(
        f"{layer.name}/bias", constants.bias.shape, np.dtype(bias_type).name,
        tuple((read.scale[0] * scale).tolist()), 0, None if axis is None else 0,
        32, -limit, limit, constants.bias.astype(bias_type),
    )  # fmt: skip
    builder.bound(layer, source, constants.codes.reshape(len(constants.bias), -1), constants.bias)
    activation = None
    if not layer.plan.output.signed:
        activation = "relu" if layer.plan.output.limit is None else "relu6"
    inputs = [source, builder.tensor(kernel), builder.tensor(bias)]
    return builder.op(
        kind, layer.name, inputs, builder.tensor(output), activation=activation, **attributes
    )


def _geometry(conv: Any) -> dict[str, Any]:
    return {
        "strides": tuple(conv.strides),
        "dilations": tuple(conv.dilation_rate),
        "padding": conv.padding,
    }


def _conv(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    constants = layer_constants(layer, channel_axes=1)  # codes: [out, height, width, in]
    geometry = _geometry(layer.kernel_layer)
    return _kernel_layer(
        builder, layer, inputs[0], constants, constants.codes, 0, "conv_2d", **geometry
    )


def _depthwise(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    constants = layer_constants(layer, channel_axes=2)  # codes: [channels, height, width]
    weights = np.moveaxis(constants.codes, 0, -1)[None]
    return _kernel_layer(
        builder, layer, inputs[0], constants, weights, 3, "depthwise_conv_2d",
        depth_multiplier=layer.kernel_layer.depth_multiplier, **_geometry(layer.kernel_layer),
    )  # fmt: skip


def _dense(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    """A head with 16-bit logits widens its input first: int8 -> int16 with the same step, exact."""
    constants = layer_constants(layer, channel_axes=1)
    source = inputs[0]
    if layer.plan.output.bits == 16:
        narrow = builder.tensors[source]
        wide = dataclasses.replace(
            narrow,
            name=f"{layer.name}/input16",
            dtype="int16",
            zero_point=0,
            lowest=narrow.lowest - narrow.zero_point,
            highest=narrow.highest - narrow.zero_point,
        )
        source = builder.op("quantize", layer.name, [source], builder.tensor(wide))
    return _kernel_layer(
        builder, layer, source, constants, constants.codes, None, "fully_connected"
    )


def _affine(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    return channelwise(builder, layer, inputs[0], layer_constants(layer, channel_axes=2))


def channelwise(builder: ProgramBuilder, layer: Any, source: str, constants: LayerConstants) -> str:
    """Adds what multiplies every channel by a number of its own, and adds one.

    A 1x1 depthwise convolution; a vector becomes an image of one pixel for it.

    Args:
        builder: The program so far.
        layer: The quantized layer, which reads `[batch, height, width, channels]` or
            `[batch, channels]`.
        source: Name of the tensor that it reads.
        constants: Codes `[channels, 1, 1]`, and bias and scale `[channels]`.

    Returns:
        The name of the tensor that it gives: the layer's.
    """
    weights = np.moveaxis(constants.codes, 0, -1)[None]
    shape = layer.output.shape
    name, is_vector = layer.name, len(shape) == 2
    if is_vector:
        source = builder.reshape(f"{layer.name}/pixel", source, (1, 1, shape[-1]))
        name, shape = f"{layer.name}/affine", (None, 1, 1, shape[-1])
    output = activation_tensor(name, shape, layer.plan.output)
    result = _kernel_layer(
        builder, layer, source, constants, weights, 3, "depthwise_conv_2d", output,
        strides=(1, 1), dilations=(1, 1), padding="valid", depth_multiplier=1,
    )  # fmt: skip
    return builder.reshape(layer.name, result, (shape[-1],)) if is_vector else result


def _concat(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    """DenseNet's long lists begin with those of earlier layers, whose joined tensor is read."""
    known = (n for n in range(len(inputs), 1, -1) if tuple(inputs[:n]) in builder.joined)
    first = next(known, 0)
    parts = [builder.joined[tuple(inputs[:first])], *inputs[first:]] if first else inputs
    shape, count = layer.output.shape, 0
    while len(parts) > limits.JOINED_TENSORS:
        group, parts = parts[: limits.JOINED_TENSORS], parts[limits.JOINED_TENSORS :]
        channels = sum(int(builder.tensors[name].shape[-1] or 0) for name in group)
        part = f"{layer.name}/part_{count}", (*shape[:-1], channels)
        parts, count = [_join(builder, layer, group, *part), *parts], count + 1
    builder.joined[tuple(inputs)] = layer.name
    return _join(builder, layer, parts, layer.name, shape)


def _join(
    builder: ProgramBuilder, layer: Any, parts: list[str], name: str, shape: tuple[int | None, ...]
) -> str:
    output = builder.tensor(activation_tensor(name, shape, layer.plan.output))
    return builder.op("concatenation", layer.name, parts, output, axis=len(shape) - 1)


def _requantize(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    spec = layer.plan.output
    limits.check_quantize(layer.name, builder.tensors[inputs[0]].scale[0], spec.step)
    output = builder.tensor(activation_tensor(layer.name, layer.output.shape, spec))
    return builder.op("quantize", layer.name, inputs, output)


def _add(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    spec = layer.plan.output
    output = activation_tensor(layer.name, layer.output.shape, spec)
    scales = [builder.tensors[name].scale[0] for name in inputs]
    limits.check_add(layer.name, scales, spec.step)
    activation = None if spec.signed else "relu" if spec.limit is None else "relu6"
    return builder.op("add", layer.name, inputs, builder.tensor(output), activation=activation)


def _pad(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    paddings = np.array([(0, 0), *layer.padding, (0, 0)], np.int32)
    constant = builder.tensor(layout_tensor(f"{layer.name}/paddings", paddings))
    output = builder.like(inputs[0], layer.name, (None, *layer.output.shape[1:]))
    return builder.op("pad", layer.name, [inputs[0], constant], output)


def _reshape(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    return builder.reshape(layer.name, inputs[0], tuple(layer.output.shape[1:]))


def _activation(layer: Any) -> str | None:
    """The name of the activation that a layer of the float head is."""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(layer, "activation", None), "__name__", None)


def _with_softmax(builder: ProgramBuilder, outputs: list[str], ends: list[str | None]) -> list[str]:
    """Appends softmax ops, and gives the names of the program's outputs then.

    Args:
        builder: The program so far.
        outputs: Names of the logits.
        ends: The activation behind each of them in Keras.
    """
    for name, end in zip(outputs, ends, strict=True):
        if end == "sigmoid":
            raise ValueError(
                f"Output '{name}' ends in a sigmoid in Keras, which softmax=True would replace: "
                "export without softmax=True, and apply the activations to the logits yourself."
            )
    everywhere = "softmax" not in ends
    chosen = [
        name for name, end in zip(outputs, ends, strict=True) if everywhere or end == "softmax"
    ]
    shares = {name: _softmax(builder, name) for name in dict.fromkeys(chosen)}
    return [
        shares[name] if everywhere or end == "softmax" else name
        for name, end in zip(outputs, ends, strict=True)
    ]


def _softmax(builder: ProgramBuilder, logits: str) -> str:
    """TFLite fixes the output's scale: 2^-15 for int16, 2^-8 (zero point -128) for int8."""
    source = builder.tensors[logits]
    if len(source.shape) != 2:
        raise ValueError(
            f"Output '{logits}' of shape {source.shape} is no vector of logits: export without "
            "softmax=True."
        )
    wide = source.dtype == "int16"
    output = dataclasses.replace(
        source,
        name=f"{logits}/softmax",
        scale=(2.0**-15 if wide else 2.0**-8,),
        zero_point=0 if wide else -128,
        lowest=0 if wide else -128,
    )
    return builder.op("softmax", logits, [logits], builder.tensor(output))


def same(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    """Dropout and the float head: nothing to compute on the device."""
    return inputs[0]


def _custom(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    result = CUSTOM_HANDLERS[layer.plan.kind](builder, layer, inputs)
    if result != layer.name:
        raise ValueError(
            f"The lowering of layer '{layer.name}' ({layer.plan.kind}) gives the tensor "
            f"'{result}': the tensor with the layer's result must have the layer's name, so that "
            "it is compared with what Keras computes."
        )
    return result


Handler = Callable[[ProgramBuilder, Any, list[str]], str]
# Of users' own layers by kind, and of those that leave codes alone below: `custom_layers.register`.
CUSTOM_HANDLERS: dict[str, Handler] = {}
HANDLERS: dict[type, Handler] = {
    keras.layers.InputLayer: _input,
    quantized_layers.QuantizedInput: _quantized_input,
    quantized_layers.QuantizedConv2D: _conv,
    quantized_layers.QuantizedDepthwiseConv2D: _depthwise,
    quantized_layers.QuantizedDense: _dense,
    quantized_layers.QuantizedAffine: _affine,
    quantized_layers.QuantizedConcatenate: _concat,
    quantized_layers.QuantizedRequantize: _requantize,
    quantized_layers.QuantizedAdd: _add,
    quantized_layers.QuantizedAveragePooling2D: pools.average_pool,
    quantized_layers.QuantizedGlobalAveragePooling2D: pools.global_pool,
    quantized_layers.QuantizedCustomLayer: _custom,
    keras.layers.MaxPooling2D: pools.max_pool,
    keras.layers.ZeroPadding2D: _pad,
    keras.layers.Flatten: _reshape,
    keras.layers.Reshape: _reshape,
    keras.layers.Dropout: same,
    keras.layers.SpatialDropout2D: same,
    keras.layers.Identity: same,
    keras.layers.Activation: same,
    keras.layers.Softmax: same,
}
