"""Lowering of the pools: windows as they are, a global mean as the op that rounds alike anywhere.

`lowering` calls these with the layer and the name of the tensor that it reads:

    name = global_pool(builder, q.get_layer("pool"), ["conv5"])     # MEAN, or ones and 1 / area
"""

from __future__ import annotations

from typing import Any

import numpy as np

from faq_keras.integer import limits
from faq_keras.integer.builder import ProgramBuilder, activation_tensor, layout_tensor
from faq_keras.integer.program import Tensor


def average_pool(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    """AVERAGE_POOL_2D, whose output has its input's grid."""
    output = builder.like(inputs[0], layer.name, (None, *layer.output.shape[1:]))
    return builder.op(
        "average_pool_2d", layer.name, inputs, output, **_window(layer.float_layers[0])
    )


def global_pool(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    """MEAN where all runtimes agree on it, else a depthwise convolution with ones."""
    _, height, width, channels = layer.input.shape
    keepdims = layer.float_layers[0].keepdims
    read, step = builder.tensors[inputs[0]], layer.plan.output.step
    # As many ones as there are pixels: their sum in one, as an absurd size would fill the memory.
    ones = np.full((channels, 1), height * width, np.int64)
    builder.bound(layer, inputs[0], ones, np.zeros(channels, np.int64))
    if not limits.has_exact_mean(height * width, read.scale[0], step):
        return _pool_with_ones(builder, layer, inputs[0])
    name = f"{layer.name}/pooled" if keepdims else layer.name
    pooled = builder.tensor(activation_tensor(name, (None, channels), layer.plan.output))
    axes = builder.tensor(layout_tensor(f"{layer.name}/axes", np.array([1, 2], np.int32)))
    result = builder.op("mean", layer.name, [inputs[0], axes], pooled)
    return builder.reshape(layer.name, result, (1, 1, channels)) if keepdims else result


def _pool_with_ones(builder: ProgramBuilder, layer: Any, source: str) -> str:
    """A depthwise convolution with ones of scale 1/area, whose rounding is known everywhere."""
    _, height, width, channels = layer.input.shape
    scale, input_scale = float(np.float32(1.0 / (height * width))), builder.tensors[source].scale[0]
    kernel = Tensor(
        f"{layer.name}/ones", (1, height, width, channels), "int8", (scale,) * channels, 0, 3, 8,
        1, 1, np.ones((1, height, width, channels), np.int8),
    )  # fmt: skip
    bias = Tensor(
        f"{layer.name}/bias", (channels,), "int32", (input_scale * scale,) * channels, 0, 0,
        32, 0, 0, np.zeros(channels, np.int32),
    )  # fmt: skip
    keepdims = layer.float_layers[0].keepdims
    name = layer.name if keepdims else f"{layer.name}/pooled"
    pooled = activation_tensor(name, (None, 1, 1, channels), layer.plan.output)
    limits.check_multipliers(layer.name, np.array([input_scale * scale / pooled.scale[0]]))
    result = builder.op(
        "depthwise_conv_2d", layer.name,
        [source, builder.tensor(kernel), builder.tensor(bias)], builder.tensor(pooled),
        strides=(1, 1), dilations=(1, 1), padding="valid", activation=None, depth_multiplier=1,
    )  # fmt: skip
    return result if keepdims else builder.reshape(layer.name, result, (channels,))


def _window(pool: Any) -> dict[str, Any]:
    return {
        "pool_size": tuple(pool.pool_size),
        "strides": tuple(pool.strides),
        "padding": pool.padding,
    }


def max_pool(builder: ProgramBuilder, layer: Any, inputs: list[str]) -> str:
    """MAX_POOL_2D, which compares codes."""
    output = builder.like(inputs[0], layer.name, (None, *layer.output.shape[1:]))
    return builder.op("max_pool_2d", layer.name, inputs, output, **_window(layer))
