"""What the integer kernels can represent: checked when a network is lowered, so that no file depends on an untested path.

XNNPACK takes an op only if its scales lie in these ranges; otherwise TFLite falls back to the built-in kernel, whose rounding
differs (integer-deployment, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# input scale * kernel scale / output scale of convolutions and fully connected layers.
MULTIPLIER_MIN, MULTIPLIER_MAX = 2.0**-32, 2.0**8
# input scale / output scale of an addition.
ADD_RATIO_MIN, ADD_RATIO_MAX = 2.0**-10, 2.0**8


def check_multipliers(layer: str, multipliers: npt.NDArray[np.floating]) -> None:
    """Checks the requantization multipliers of a layer.

    Raises:
        ValueError: If one lies outside `[2^-32, 2^8)`.
    """
    low, high = float(np.min(multipliers)), float(np.max(multipliers))
    if low < MULTIPLIER_MIN or high >= MULTIPLIER_MAX:
        raise ValueError(
            f"Layer '{layer}' needs requantization multipliers from {low:g} to {high:g}; the TFLite kernels take "
            f"{MULTIPLIER_MIN:g} to {MULTIPLIER_MAX:g}. Its output exponent does not fit its weights: calibrate again, or change "
            "the exponent in the plan."
        )


def check_add(layer: str, input_scales: Sequence[float], output_scale: float) -> None:
    """Checks the scale ratios of an addition.

    Raises:
        ValueError: If one lies outside `[2^-10, 2^8)`.
    """
    ratios = [scale / output_scale for scale in input_scales]
    if min(ratios) < ADD_RATIO_MIN or max(ratios) >= ADD_RATIO_MAX:
        raise ValueError(
            f"Layer '{layer}' adds tensors whose steps are {', '.join(f'{r:g}' for r in ratios)} times the output's; the TFLite "
            f"kernel takes {ADD_RATIO_MIN:g} to {ADD_RATIO_MAX:g}. Calibrate again, or bring the exponents in the plan closer."
        )
