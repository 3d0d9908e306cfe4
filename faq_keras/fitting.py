"""Fits: the power-of-two step, and the channel scales, of least squared quantization error.

Rules such as "so many standard deviations" or "the 99.9th percentile, rounded up" know nothing of a
tensor's tails. Here a few candidates are tried on the values themselves, and the one with the least
mean squared error is taken. Nothing about the deployed format changes: every step stays a power of
two.

    fit_values(sample, largest=5.3, bits=4, signed=False)      # activations: Fit(exponents, errors)
    fit_kernel(kernel, bits=8)                                 # weights, one step per tensor
    steps = channel_steps(matrix, bits=4)                      # weights, a real step per channel

A channel's real step `D` is free on the device: the kernel is stored as `kernel * s` with `s =
2**l / D`, and the multiplier after the sum, which is a float32 number per channel in the file,
takes `s` back. That is the exact rescaling of weight equalization (Nagel et al. 2019, section 4),
here within one layer, and the search of a step by squared error is that of Banner et al. 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from faq_keras.fixed_point import ceil_log2, code_range, range_exponent
from faq_keras.plan_parts import Fit

Array = npt.NDArray[np.float64]

CANDIDATES = 6  # exponents tried: from the one that covers the largest value down
# Steps tried for a channel, as shares of the one that covers its largest weight.
STEP_SHARES = np.linspace(1.0, 0.25, 61)
_BLOCK = 1 << 16  # weights at a time: they stay in the cache


def fit_values(
    values: npt.NDArray[np.floating],
    largest: float,
    bits: int,
    signed: bool,
    highest: Callable[[int], int] | None = None,
    exponents: Sequence[int] | None = None,
) -> Fit:
    """The exponent of an activation tensor of least squared error.

    Args:
        values: A sample of the tensor, of any shape.
        largest: The largest magnitude of the whole tensor; positive and finite.
        bits: Its precision.
        signed: Whether codes may be negative; then the whole container is used.
        highest: Largest code at an exponent, where it is lower than the width's own (ReLU6).
        exponents: Candidates; None: from the one that covers `largest`, the next five finer ones.

    Raises:
        ValueError: If `largest` is not positive and finite.
    """
    if exponents is None:
        top = range_exponent(largest, bits, signed)
        exponents = range(top, top - CANDIDATES, -1)
    sample = np.asarray(values, np.float64).ravel()
    lowest, most = code_range(bits, signed, symmetric=False)
    power = float(np.mean(np.square(sample))) or 1.0
    errors = []
    for exponent in exponents:
        high = most if highest is None else min(most, highest(exponent))
        errors.append(float(np.mean(_squared_errors(sample, 2.0**exponent, lowest, high))) / power)
    return _least(exponents, errors)


def fit_kernel(kernel: npt.NDArray[np.floating], bits: int) -> Fit:
    """The exponent of a weight tensor of least squared error, one for all channels.

    Args:
        kernel: Weights of any shape, not all zero.
        bits: Precision of the codes.
    """
    weights = np.asarray(kernel, np.float64).ravel()
    high = code_range(bits, signed=True)[1]
    top = ceil_log2(float(np.max(np.abs(weights))) / high)
    exponents = range(top, top - CANDIDATES, -1)
    power = float(np.mean(np.square(weights)))
    errors = [
        float(np.mean(_squared_errors(weights, 2.0**exponent, -high, high))) / power
        for exponent in exponents
    ]
    return _least(exponents, errors)


def channel_steps(matrix: npt.NDArray[np.floating], bits: int) -> Array:
    """The real step of each channel of least squared error.

    Args:
        matrix: Weights `[weights per channel, channels]`.
        bits: Precision of the codes.

    Returns:
        `[channels]`, zero for channels of zeros.
    """
    high = code_range(bits, signed=True)[1]
    columns = np.ascontiguousarray(np.asarray(matrix, np.float32).T)
    rows = max(1, _BLOCK // max(1, columns.shape[1]))
    blocks = [columns[start : start + rows] for start in range(0, len(columns), rows)]
    with ThreadPoolExecutor() as pool:
        return np.concatenate(list(pool.map(lambda block: _block_steps(block, high), blocks)))


def _block_steps(columns: npt.NDArray[np.float32], high: int) -> Array:
    """The steps of some channels, `[channels, weights per channel]`."""
    top = np.max(np.abs(columns), axis=1, keepdims=True) / np.float32(high)
    inverse = np.divide(1.0, top, where=top > 0, out=np.zeros_like(top))
    scaled = columns * inverse  # from -high to high
    codes = np.empty_like(scaled)
    best = np.full(len(columns), np.inf, np.float32)
    share = np.ones(len(columns))
    for candidate in STEP_SHARES.astype(np.float32):
        np.multiply(scaled, 1 / candidate, out=codes)
        np.rint(codes, out=codes)
        np.clip(codes, -high, high, out=codes)
        codes *= candidate
        codes -= scaled
        error = np.einsum("ij,ij->i", codes, codes)
        better = error < best
        best[better], share[better] = error[better], candidate
    return share * top[:, 0].astype(np.float64)


def channel_error(matrix: npt.NDArray[np.floating], scales: Array, bits: int, step: float) -> float:
    """The squared error of weights whose channels are scaled, relative to their mean square.

    Args:
        matrix: Weights `[weights per channel, channels]`.
        scales: `[channels]`.
        bits: Precision of the codes.
        step: The step of the scaled weights.
    """
    high = code_range(bits, signed=True)[1]
    weights = np.asarray(matrix, np.float64)
    errors = _squared_errors(weights * scales, step, -high, high) / np.square(scales)
    return float(np.sum(errors) / np.sum(np.square(weights)))


def _squared_errors(values: Array, step: float, lowest: int, highest: int) -> Array:
    codes = np.clip(np.rint(values / step), lowest, highest)
    return np.square(codes * step - values)


def _least(exponents: Iterable[int], errors: Sequence[float]) -> Fit:
    """The fit with the least error; of equal ones the first, which clips less."""
    exponents = tuple(int(exponent) for exponent in exponents)
    rounded = tuple(float(f"{error:.4g}") for error in errors)
    return Fit(exponents, rounded, exponents[int(np.argmin(errors))])
