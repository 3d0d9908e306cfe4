"""What the fields of a `Policy` may hold, checked when the policy is made.

A policy is written by hand, and its values reach the plan layer by layer, much later: a wrong one
is refused here, where its field can still be named.

    check_overrides({"block3_.*": 8, "conv5": (4, None)})
    check_clip_stds({4: 4.5})
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from faq_keras.fixed_point import KERNEL_CLIP_STDS
from faq_keras.plan_parts import EXPONENTS

SCALES = ("fitted", "paper")
BN_EXPONENTS = ("per_channel", "calibrated", "paper")
CLIP_READINGS = ("total", "plus_minus")
# A wider clip than this would round all weights to zero; "plus_minus" doubles it.
_WIDEST_CLIP = 500


def check_bits(bits: object, what: str) -> int:
    """Returns `bits` if it is a width that the deployment knows.

    Raises:
        ValueError: If it is not an int from 2 to 8.
    """
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 2 <= bits <= 8:
        raise ValueError(f"{what} must be an integer from 2 to 8, received {bits!r}.")
    return int(bits)


def check_scales(scales: object) -> None:
    """Checks how exponents are chosen.

    Raises:
        ValueError: If it is no known way.
    """
    if not isinstance(scales, str) or scales not in SCALES:
        raise ValueError(f"scales must be 'fitted' or 'paper', received {scales!r}.")


def check_overrides(overrides: Any) -> None:
    """Checks the bits by name or regular expression; whether names match, only the graph tells.

    Raises:
        ValueError: If a key is no regular expression or a value neither bits nor a pair of them.
    """
    if not isinstance(overrides, Mapping):
        raise ValueError(
            f"overrides must be a dictionary of bits by layer name, received {overrides!r}."
        )
    for name, bits in overrides.items():
        try:
            re.compile(name)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"The policy override {name!r} is neither a layer name nor a regular expression "
                f"({error}): re.escape(name) makes one of any name."
            ) from error
        _check_override(name, bits)


def _check_override(name: str, bits: Any) -> None:
    what = f"the override of '{name}'"
    if not isinstance(bits, Sequence) or isinstance(bits, str):
        check_bits(bits, what)
        return
    if len(bits) != 2:
        raise ValueError(
            f"{what} must be one width or (weight_bits, activation_bits), received {bits!r}."
        )
    for value in bits:
        if value is not None or tuple(bits) == (None, None):
            check_bits(value, what)


def check_bn_exponent(exponent: Any) -> None:
    """Checks the rule for multipliers.

    Raises:
        ValueError: If it is neither a known rule nor an exponent that kernels can compute with.
    """
    if isinstance(exponent, str) and exponent in BN_EXPONENTS:
        return
    if isinstance(exponent, bool) or not isinstance(exponent, int) or exponent not in EXPONENTS:
        raise ValueError(
            f"bn_exponent must be 'per_channel', 'calibrated', 'paper' or an int from "
            f"{EXPONENTS[0]} to {EXPONENTS[-1]}, received {exponent!r}."
        )


def check_clip_stds(clip_stds: Any) -> None:
    """Checks the constants of the kernels' steps by weight bits.

    Raises:
        ValueError: If a key is no width of weights or a value no positive number.
    """
    if not isinstance(clip_stds, Mapping):
        raise ValueError(
            f"clip_stds must be a dictionary of standard deviations by bits, received "
            f"{clip_stds!r}."
        )
    for bits, deviations in clip_stds.items():
        if isinstance(bits, bool) or bits not in KERNEL_CLIP_STDS:
            raise ValueError(
                f"clip_stds has the key {bits!r}: keys are the weight bits, integers from 2 to 8."
            )
        number = isinstance(deviations, numbers.Real) and not isinstance(deviations, bool)
        if not (number and math.isfinite(deviations) and 0 < deviations < _WIDEST_CLIP):
            raise ValueError(
                f"clip_stds of {bits} bits must be a number of standard deviations above 0 and "
                f"below {_WIDEST_CLIP}, received {deviations!r}."
            )


def check_clip_reading(reading: Any) -> None:
    """Checks how `clip_stds` is read.

    Raises:
        ValueError: If it is no known reading.
    """
    if not isinstance(reading, str) or reading not in CLIP_READINGS:
        raise ValueError(f"clip_reading must be 'total' or 'plus_minus', received {reading!r}.")
