"""The float preprocessing that a file leaves to its caller, as its metadata states it.

Layers in front of the input quantizer (Rescaling, Normalization) stay in float; the exported file
begins behind them. The loader applies them, so that it takes what the Keras model takes:

    preprocess(x, [{"op": "rescale", "scale": 1 / 255, "offset": 0.0}])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def preprocess(x: npt.ArrayLike, steps: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float32]:
    """Applies preprocessing steps in float32, in the order of operations of the Keras layers.

    Args:
        x: `[batch, ..., channels]`.
        steps: Entries of the metadata's `preprocessing`: "rescale" (`x * scale + offset`) or
            "normalize" (`(x - mean) / std`). Their numbers broadcast against `x`: one number, one
            per channel, `[height, 1, 1]` ... up to one per pixel and channel.

    Raises:
        ValueError: If a step is of another kind, or the values are no real numbers.
    """
    given = np.asarray(x)
    if given.dtype.kind == "c":
        raise ValueError(f"It holds {given.dtype.name} values, not real numbers.")
    values = np.asarray(given, np.float32)
    for step in steps:
        numbers = {key: np.float32(value) for key, value in step.items() if key != "op"}
        if step["op"] == "rescale":
            values = values * numbers["scale"] + numbers["offset"]
        elif step["op"] == "normalize":
            values = (values - numbers["mean"]) / numbers["std"]
        else:
            raise ValueError(
                f"The file asks for the unknown preprocessing {step['op']!r}; known are rescale "
                "and normalize. Preprocess by yourself and call run_int8 with codes."
            )
    return values
