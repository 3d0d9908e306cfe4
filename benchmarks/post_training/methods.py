"""The ways to quantize a network without labels and training, under the names of the tables.

Each is the one before and one step more, with the arguments that users get by default:

    paper        c * std and the percentile: Policy(scales="paper")
    fitted       scales of least squared error: the default of `apply`
    reconstruct  fitted, then `faq_keras.reconstruct` on unlabelled images
    distill      reconstruct, then `faq_keras.distill`

    for result in quantized(model, (4, 8), ("fitted", "reconstruct"), images):
        result.method, result.model, result.seconds, result.peak_mb
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import measure
import numpy as np
import numpy.typing as npt

METHODS = ("paper", "fitted", "reconstruct", "distill")


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantized network and what it cost.

    Attributes:
        method: Its name in `METHODS`.
        model: The network, until the next method changes it.
        seconds: Elapsed, by step ("apply", "reconstruct", "distill").
        images: Calibration images used, by step.
        peak_mb: By step: how far the memory of the process rose above what it was before.
    """

    method: str
    model: Any
    seconds: dict[str, float]
    images: dict[str, int]
    peak_mb: dict[str, float]


def quantized(
    model: Any,
    bits: tuple[int, int],
    wanted: Sequence[str],
    images: npt.NDArray[Any],
    distill_images: npt.NDArray[Any] | None = None,
    augment: bool = True,
) -> Iterator[Quantized]:
    """Quantizes a network in several ways; each is the one before and a step more.

    Args:
        model: The float network.
        bits: Of weights and activations.
        wanted: Some of `METHODS`.
        images: Unlabelled inputs for calibration and reconstruction.
        distill_images: Inputs for distillation; None: the same.
        augment: Whether distillation may flip and shift them.

    Raises:
        ValueError: If a method is unknown.
    """
    import faq_keras

    check(wanted)
    more = images if distill_images is None else distill_images
    if "paper" in wanted:
        policy = faq_keras.Policy(scales="paper")
        paper = _Chain()
        paper.step("apply", images, lambda _: faq_keras.apply(model, bits, images, policy=policy))
        yield paper.result("paper")
    steps: dict[str, tuple[str, Any, Callable[[Any], Any]]] = {
        "fitted": ("apply", images, lambda _: faq_keras.apply(model, bits, images)),
        "reconstruct": ("reconstruct", images, lambda q: faq_keras.reconstruct(q, images)),
        "distill": ("distill", more, lambda q: faq_keras.distill(q, more, augment=augment)),
    }
    chain, todo = _Chain(), set(wanted) - {"paper"}
    for method, step in steps.items():
        if not todo:
            return
        chain.step(*step)
        if method in todo:
            todo.remove(method)
            yield chain.result(method)


class _Chain:
    """Steps that change one model in place, measured."""

    def __init__(self) -> None:
        self._model: Any = None
        self._seconds: dict[str, float] = {}
        self._images: dict[str, int] = {}
        self._peak_mb: dict[str, float] = {}

    def step(self, name: str, data: npt.NDArray[Any], run: Callable[[Any], Any]) -> None:
        """Runs a step on the model; the first one (on None) makes it."""

        def timed() -> None:
            start = time.perf_counter()
            made = run(self._model)
            self._seconds[name] = time.perf_counter() - start
            self._model = made if self._model is None else self._model

        self._peak_mb[name] = measure.peak_memory_above_now(timed)
        self._images[name] = len(data)

    def result(self, method: str) -> Quantized:
        """What the steps so far made."""
        costs = (dict(self._seconds), dict(self._images), dict(self._peak_mb))
        return Quantized(method, self._model, *costs)


def check(wanted: Sequence[str]) -> None:
    """Raises where a method is unknown.

    Raises:
        ValueError: There is no such method.
    """
    for method in wanted:
        if method not in METHODS:
            raise ValueError(f"There is no method '{method}'; there are {', '.join(METHODS)}.")


def parse_bits(text: str) -> tuple[int, int]:
    """`"8"` is (8, 8), `"4x8"` is 4-bit weights and 8-bit activations.

    Raises:
        ValueError: If it is neither.
    """
    parts = text.lower().removeprefix("w").replace("a", "x").split("x")
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise ValueError(f"--bits has {text!r}; write 8 for W8A8, 4x8 for W4A8.")
    return int(parts[0]), int(parts[-1])


def title(bits: tuple[int, int]) -> str:
    """`W4A8` for (4, 8)."""
    return f"W{bits[0]}A{bits[1]}"


def top_of(values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """The first images, as many as there are and at most `count`."""
    return np.ascontiguousarray(values[:count])
