"""A mixed policy under a size budget: bits go where they buy the most.

    s = sensitivity(model, data, bits=(2, 3, 4, 5, 6), parts="weights")
    policy = suggest_policy(s, budget_bytes=s.uniform_bytes(4))
    q = faq_keras.apply(model, bits=4, calibration_data=x, policy=policy)

For a network that is going to be reconstructed, measured as such, and with a floor for the accuracy
in the place of a budget:

    s = sensitivity(model, data, bits=(2, 3, 4, 5, 6), parts="weights", after="reconstruct")
    policy = suggest_policy(s, least_accuracy=s.accuracy - 0.01, after="reconstruct")

The rule is greedy. All measured layers begin at 8 bits; first and last layers stay there. While the
kernels are larger than the budget, that layer goes down to that width which adds the least
divergence per byte saved. What the last, perhaps large step left of the budget is then spent the
other way round, on what takes away the most divergence per byte. The divergences of single layers
are taken to add up, which is roughly true while they are small.

Under a floor the same steps are made as long as the predicted accuracy allows: that at 8 bits minus
the measured drops of all lowered layers. A drop below zero is the chance of a few images, and
counts as none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from faq_keras.diagnostics.layer_sensitivity import AFTER, WIDE, Sensitivity, kernel_bytes
from faq_keras.policy import Bits, Policy

_ROUNDING = 1e-9  # of sums of shares: far below one image
# Bits that a weight takes: packed at its own width, or in the exported .tflite's int4 and int8.
STORAGE: Mapping[str, Callable[[int], int]] = {
    "packed": lambda bits: bits,
    "tflite": lambda bits: 4 if bits <= 4 else 8,
}


def suggest_policy(
    sensitivity: Sensitivity,
    budget_bytes: float | None = None,
    average_bits: float | None = None,
    storage: str = "packed",
    after: str | None = None,
    least_accuracy: float | None = None,
) -> Policy:
    """The bits of each layer under a size budget, or above an accuracy floor.

    Args:
        sensitivity: Measured with `parts="weights"`, or "layer": then the width of a layer's
            weights is also that of its output.
        budget_bytes: Bytes that all kernels may take together (biases and the file's structure not
            counted); never exceeded.
        average_bits: The budget as bits per weight, instead of bytes.
        storage: What a weight takes: "packed" its own width; "tflite" 4 bits up to a width of 4,
            else 8, which is what the exported file has.
        after: For what network: "reconstruct" demands a sensitivity that was measured so, "apply"
            one that was not. None accepts both.
        least_accuracy: Instead of a budget: the share of images (0..1) that the network shall still
            classify rightly by prediction, or without labels, as the float network does. The
            kernels become as small as that allows. It is a prediction for the images of the
            sensitivity, and for activations as they were there.

    Returns:
        A policy with an override for every layer below 8 bits; with `parts="weights"` the
        activations are left to the other rules.

    Raises:
        ValueError: Not exactly one budget or floor is given; a budget that is too small even for
            the lowest widths measured (the smallest possible is named); a floor above the accuracy
            at 8 bits; a sensitivity of activations, or one of another `after`.
    """
    limits = (budget_bytes, average_bits, least_accuracy)
    if sum(limit is not None for limit in limits) != 1:
        raise ValueError("Give either budget_bytes or average_bits or least_accuracy.")
    if storage not in STORAGE:
        raise ValueError(f"storage has to be one of {', '.join(STORAGE)}. Received: {storage!r}.")
    _check_measured(sensitivity, after)
    if average_bits is not None:
        budget_bytes = average_bits * sum(sensitivity.weights.values()) / 8
    choice = _Choice(sensitivity, STORAGE[storage], _checked_floor(sensitivity, least_accuracy))
    if budget_bytes is None:
        choice.lower_to_floor()
    else:
        choice.lower_to(budget_bytes)
        choice.raise_within(budget_bytes)
    only_weights = sensitivity.parts == "weights"
    overrides: dict[str, Bits] = {
        re.escape(name): (bits, None) if only_weights else bits
        for name, bits in choice.bits.items()
        if bits < WIDE
    }
    return Policy(overrides=overrides)


def _check_measured(sensitivity: Sensitivity, after: str | None) -> None:
    """Whether it was measured for what it is used for."""
    if sensitivity.parts == "activations":
        raise ValueError(
            "The sensitivity of activations says nothing about the size of the weights: measure "
            "with parts='weights' or parts='layer'."
        )
    if after not in (None, *AFTER):
        raise ValueError(f"after has to be one of {', '.join(AFTER)}, or None. Received: {after!r}")
    if after is not None and after != sensitivity.after:
        parts = "parts='weights', " if after == "reconstruct" else ""
        raise ValueError(
            f"This sensitivity was measured after {sensitivity.after!r}, not after {after!r}: "
            f"measure it with sensitivity(model, data, bits, {parts}after={after!r})."
        )


def _checked_floor(sensitivity: Sensitivity, least_accuracy: float | None) -> float:
    """The floor; that of no floor is below every prediction."""
    if least_accuracy is None:
        return -math.inf
    if not 0 <= least_accuracy <= 1:
        raise ValueError(
            f"least_accuracy is a share of images from 0 to 1. Received: {least_accuracy!r}."
        )
    if least_accuracy > sensitivity.accuracy:
        raise ValueError(
            f"least_accuracy={least_accuracy:.4g} cannot be kept: with all layers at 8 bits the "
            f"network has {sensitivity.accuracy:.4g} on the {sensitivity.images:,} images. Give a "
            "lower one."
        )
    return least_accuracy


class _Choice:
    """Bits of the layers that may change, with the costs and sizes of all widths.

    Args:
        sensitivity: What was measured.
        stored: Bits that a weight of a width takes.
        floor: The least predicted accuracy; no step goes below it.

    Attributes:
        bits: The present bits of these layers.
    """

    def __init__(
        self, sensitivity: Sensitivity, stored: Callable[[int], int], floor: float
    ) -> None:
        counts, fixed = sensitivity.weights, set(sensitivity.ends)
        self._slack = sensitivity.accuracy - floor + _ROUNDING
        self._cost: dict[str, dict[int, float]] = {}
        self._drop: dict[str, dict[int, float]] = {}
        for row in sensitivity.layers:
            if row.name in counts and row.name not in fixed:
                added = max(0.0, row.divergence - sensitivity.divergence)
                self._cost.setdefault(row.name, {WIDE: 0.0})[row.bits] = added
                self._drop.setdefault(row.name, {WIDE: 0.0})[row.bits] = max(0.0, row.drop)
        self._size = {
            name: {bits: kernel_bytes(counts[name], stored(bits)) for bits in costs}
            for name, costs in self._cost.items()
        }
        self._fixed_bytes = sum(
            kernel_bytes(count, WIDE) for name, count in counts.items() if name not in self._cost
        )
        self.bits = dict.fromkeys(self._cost, WIDE)

    def lower_to(self, budget: float) -> None:
        """Lowers widths until the budget is kept."""
        smallest = self._fixed_bytes + sum(min(sizes.values()) for sizes in self._size.values())
        if smallest > budget:
            raise ValueError(
                f"The budget of {budget:,.0f} bytes is too small: with the lowest widths measured "
                f"the kernels take {smallest:,} bytes. Measure lower widths, or allow more."
            )
        while self._bytes() > budget:
            steps = [step for step in self._steps() if step[1] < 0]
            _, _, name, bits = min(steps, key=lambda step: (step[0] / -step[1], step[1]))
            self.bits[name] = bits

    def lower_to_floor(self) -> None:
        """Lowers widths while there is a step that keeps the floor."""
        while steps := [step for step in self._steps() if step[1] < 0]:
            _, _, name, bits = min(steps, key=lambda step: (step[0] / -step[1], step[1]))
            self.bits[name] = bits
        self.raise_within(self._bytes())  # wider weights that take no more room

    def raise_within(self, budget: float) -> None:
        """Spends what is left of the budget."""
        while True:
            left = budget - self._bytes()
            steps = [step for step in self._steps() if step[0] < 0 and step[1] <= left]
            if not steps:
                return
            _, _, name, bits = min(steps, key=lambda step: (step[0] / max(step[1], 1e-9), step[0]))
            self.bits[name] = bits

    def _bytes(self) -> int:
        return self._fixed_bytes + sum(self._size[name][bits] for name, bits in self.bits.items())

    def _steps(self) -> list[tuple[float, int, str, int]]:
        """`(divergence added, bytes added, layer, new bits)` of each step above the floor."""
        lost = {name: self._drop[name][bits] for name, bits in self.bits.items()}
        left = self._slack - sum(lost.values())
        return [
            (
                cost - self._cost[name][now],
                self._size[name][bits] - self._size[name][now],
                name,
                bits,
            )
            for name, now in self.bits.items()
            for bits, cost in self._cost[name].items()
            if bits != now and self._drop[name][bits] - lost[name] <= left
        ]
