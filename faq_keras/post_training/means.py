"""Corrections of channel means: what quantization shifts, a bias can shift back.

Two shifts add up. The first makes the mean of the pre-activation what it is in the float network,
shrunk where the images differ too much to know it. The second makes the mean *after* the ReLU right
as well: a ReLU rectifies noise, and turns it into an offset of the mean.

    shift = -shrunk_mean(quantized_means - float_means)            # [channels]
    shift += relu_shift(rows + shift, float_relu_means, limit=6.0)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_HALVINGS = 14
_REACH = 2.0  # standard deviations that a second shift may have
_DEAD = 1e-4  # a mean after the ReLU below which a channel says nothing

Values = npt.NDArray[np.floating]


def shrunk_mean(differences: Values) -> npt.NDArray[np.float64]:
    """The mean over the images, smaller the less certain it is: `m * max(0, 1 - (se / m)**2)`.

    Args:
        differences: `[images, channels]`.
    """
    differences = np.asarray(differences, np.float64)
    mean = differences.mean(axis=0)
    error = differences.std(axis=0) / np.sqrt(len(differences))
    ratio = error / np.maximum(np.abs(mean), np.finfo(np.float64).tiny)
    return mean * np.maximum(0.0, 1.0 - np.minimum(ratio, 1.0) ** 2)


def relu_shift(rows: Values, target: Values, limit: float) -> npt.NDArray[np.float64]:
    """What to add to a pre-activation so that its mean after the ReLU is a given one.

    Args:
        rows: Sampled pre-activations `[rows, channels]`.
        target: The wanted means `[channels]`; channels below 1e-4 are left alone.
        limit: Where the output is clipped.

    Returns:
        `[channels]`, by bisection within two standard deviations.
    """
    rows = np.asarray(rows, np.float32)
    high = _REACH * rows.std(axis=0, dtype=np.float64)
    low = -high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        clipped = np.clip(rows + middle.astype(np.float32), 0.0, np.float32(limit))
        above = clipped.mean(axis=0, dtype=np.float64) > target
        high, low = np.where(above, middle, high), np.where(above, low, middle)
    return np.where(np.asarray(target) > _DEAD, (low + high) / 2, 0.0)
