"""The ways to quantize a network without labels and training, under the names of the tables.

Each is the one before and one step more, with the arguments that users get by default:

    paper        c * std and the percentile: Policy(scales="paper")
    fitted       scales of least squared error: the default of `apply`
    reconstruct  fitted, then `faq_keras.reconstruct` on unlabelled images
    distill      reconstruct, then `faq_keras.distill`

    result = quantized(model, (4, 8), "fitted", images)
    result.model, result.seconds["apply"], result.peak_mb
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import numpy.typing as npt

METHODS = ("paper", "fitted", "reconstruct", "distill")


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantized network and what it cost.

    Attributes:
        model: The network.
        seconds: Elapsed, by step ("apply", "reconstruct", "distill").
        images: Calibration images used, by step.
        peak_mb: By how much the memory of the process rose, from model and images in memory.
    """

    model: Any
    seconds: dict[str, float]
    images: dict[str, int]
    peak_mb: float


def quantized(
    model: Any,
    bits: tuple[int, int],
    method: str,
    images: npt.NDArray[Any],
    distill_images: npt.NDArray[Any] | None = None,
) -> Quantized:
    """Quantizes a network.

    Args:
        model: The float network.
        bits: Of weights and activations.
        method: One of `METHODS`.
        images: Unlabelled inputs for calibration and reconstruction.
        distill_images: Inputs for distillation; None: the same.

    Raises:
        ValueError: If the method is unknown or this faq_keras does not have it.
    """
    import faq_keras

    check(method)
    more = images if distill_images is None else distill_images
    seconds: dict[str, float] = {}
    used: dict[str, int] = {}
    made: list[Any] = []

    def step(name: str, data: npt.NDArray[Any], run: Callable[[], object]) -> None:
        start = time.perf_counter()
        run()
        seconds[name], used[name] = time.perf_counter() - start, len(data)

    def run() -> None:
        policy = faq_keras.Policy(scales="paper" if method == "paper" else "fitted")
        step(
            "apply",
            images,
            lambda: made.append(faq_keras.apply(model, bits, images, policy=policy)),
        )
        if METHODS.index(method) >= METHODS.index("reconstruct"):
            step("reconstruct", images, lambda: faq_keras.reconstruct(made[0], images))
        if method == "distill":
            step("distill", more, lambda: faq_keras.distill(made[0], more))

    peak_mb = measure.peak_memory_above_now(run)
    return Quantized(made[0], seconds, used, peak_mb)


def check(method: str) -> None:
    """Raises where a method cannot run.

    Raises:
        ValueError: If it is unknown or this faq_keras does not have it.
    """
    import faq_keras

    if method not in METHODS:
        raise ValueError(f"There is no method '{method}'; there are {', '.join(METHODS)}.")
    needed = METHODS[2 : METHODS.index(method) + 1]
    missing = [name for name in needed if not hasattr(faq_keras, name)]
    if missing:
        raise ValueError(
            f"Method '{method}' needs faq_keras.{missing[0]}, which this version of faq_keras does "
            "not have; measure the methods before it."
        )


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
