"""The integer constants of a kernel layer: the tensors of its inference, divided by their steps.

Nothing is derived anew. `QuantizedFoldedLayer.fold` gives the weights, biases and multipliers that
Keras' inference computes with; each lies on a power-of-two grid, so the division is exact, and a
remainder is an error.

    constants = layer_constants(q.get_layer("conv1"), channel_axes=1)
    constants.codes.shape, constants.scale.shape         # (out, height, width, in), (out,)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class LayerConstants:
    """The integer constants of a kernel layer, channels first: `[channels, ...]`."""

    codes: npt.NDArray[np.int64]
    bias: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float64]


def layer_constants(layer: Any, channel_axes: int) -> LayerConstants:
    """Turns the layer's inference tensors into integers (integer-deployment, section 2).

    Per channel the weight scale is `2**lw * abs(c)`; a negative multiplier flips the signs of
    weights and bias.
    """
    folded = layer.fold()
    exponent = int(folded.kernel_exponent)
    kernel = np.asarray(folded.kernel, np.float64)
    if not np.isfinite(kernel).all():
        raise ValueError(
            f"Layer '{layer.name}' has NaN or infinite weights: the training diverged."
        )
    channels = int(np.prod(kernel.shape[-channel_axes:]))
    codes = np.moveaxis(kernel.reshape(*kernel.shape[:-channel_axes], channels), -1, 0)
    multiplier = (
        np.ones(channels)
        if folded.multiplier is None
        else np.asarray(folded.multiplier, np.float64)
    )
    bias = np.zeros(channels) if folded.bias is None else np.asarray(folded.bias, np.float64)
    if not (np.isfinite(bias).all() and np.isfinite(multiplier).all()):
        raise ValueError(
            f"Layer '{layer.name}' has NaN or infinite biases or batch normalization statistics: "
            f"the training diverged."
        )
    grid = 2.0 ** (layer.input_specs[0].exponent + exponent)
    sign = np.sign(multiplier)
    return LayerConstants(
        codes=_whole(layer, codes / 2.0**exponent * sign.reshape(-1, *[1] * (codes.ndim - 1))),
        bias=_whole(layer, bias / grid * sign),
        scale=2.0**exponent * np.abs(multiplier),
    )


def _whole(layer: Any, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    whole = values.astype(np.int64)
    if (whole != values).any():
        raise ValueError(
            f"Layer '{layer.name}': its inference constants do not lie on the plan's grid."
        )
    return whole
