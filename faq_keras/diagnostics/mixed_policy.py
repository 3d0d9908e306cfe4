"""A mixed policy under a size budget: bits go where they buy the most.

    s = sensitivity(model, data, bits=(2, 3, 4, 5, 6), parts="weights")
    policy = suggest_policy(s, budget_bytes=s.uniform_bytes(4))
    q = faq_keras.apply(model, bits=4, calibration_data=x, policy=policy)

The rule is greedy. All measured layers begin at 8 bits; first and last layers stay there. While the
kernels are larger than the budget, that layer goes down to that width which adds the least
divergence per byte saved. What the last, perhaps large step left of the budget is then spent the
other way round, on what takes away the most divergence per byte. The divergences of single layers
are taken to add up, which is roughly true while they are small.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from faq_keras.diagnostics.layer_sensitivity import WIDE, Sensitivity, kernel_bytes
from faq_keras.policy import Bits, Policy

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
) -> Policy:
    """The bits of each layer under a size budget.

    Args:
        sensitivity: Measured with `parts="weights"`, or "layer": then the width of a layer's
            weights is also that of its output.
        budget_bytes: Bytes that all kernels may take together (biases and the file's structure not
            counted); never exceeded.
        average_bits: The budget as bits per weight, instead of bytes.
        storage: What a weight takes: "packed" its own width; "tflite" 4 bits up to a width of 4,
            else 8, which is what the exported file has.

    Returns:
        A policy with an override for every layer below 8 bits; with `parts="weights"` the
        activations are left to the other rules.

    Raises:
        ValueError: Not exactly one budget is given, it is too small even for the lowest widths
            measured (the smallest possible is named), or only activations were measured.
    """
    if (budget_bytes is None) == (average_bits is None):
        raise ValueError("Give either budget_bytes or average_bits.")
    if sensitivity.parts == "activations":
        raise ValueError(
            "The sensitivity of activations says nothing about the size of the weights: measure "
            "with parts='weights' or parts='layer'."
        )
    if storage not in STORAGE:
        raise ValueError(f"storage has to be one of {', '.join(STORAGE)}. Received: {storage!r}.")
    weights = sensitivity.weights
    if budget_bytes is None:
        assert average_bits is not None
        budget_bytes = average_bits * sum(weights.values()) / 8
    choice = _Choice(sensitivity, STORAGE[storage])
    choice.lower_to(budget_bytes)
    choice.raise_within(budget_bytes)
    only_weights = sensitivity.parts == "weights"
    overrides: dict[str, Bits] = {
        re.escape(name): (bits, None) if only_weights else bits
        for name, bits in choice.bits.items()
        if bits < WIDE
    }
    return Policy(overrides=overrides)


class _Choice:
    """Bits of the layers that may change, with the costs and sizes of all widths.

    Attributes:
        bits: The present bits of these layers.
    """

    def __init__(self, sensitivity: Sensitivity, stored: Callable[[int], int]) -> None:
        counts, fixed = sensitivity.weights, set(sensitivity.ends)
        self._cost: dict[str, dict[int, float]] = {}
        for row in sensitivity.layers:
            if row.name in counts and row.name not in fixed:
                added = max(0.0, row.divergence - sensitivity.divergence)
                self._cost.setdefault(row.name, {WIDE: 0.0})[row.bits] = added
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
        """`(divergence added, bytes added, layer, new bits)` of every single change."""
        return [
            (
                cost - self._cost[name][now],
                self._size[name][bits] - self._size[name][now],
                name,
                bits,
            )
            for name, now in self.bits.items()
            for bits, cost in self._cost[name].items()
            if bits != now
        ]
