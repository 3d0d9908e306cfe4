"""What XNNPACK accepts: ratios of scales outside of these never reach its kernels.

Inside them the integer reference equals XNNPACK exactly. Outside, LiteRT either refuses the file
(convolutions: the delegate fails and takes the interpreter with it) or silently runs another kernel
with another rounding (ADD, QUANTIZE; from 2^8 on that kernel even overflows). Lowering checks:

    check_multipliers("conv1", input_scale * kernel_scales / output_scale)
    check_add("add3", [2.0**-4, 2.0**-9], 2.0**-4)

Measured with ai-edge-litert 2.3; `tests/integer/test_limits.py` measures again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# input scale * kernel scale / output scale of convolutions and int8 dense layers is below this.
MULTIPLIER_END = 2.0**8
# input scale / output scale of an ADD, for either input: the first is allowed, the second is not.
ADD_RATIO_START, ADD_RATIO_END = 2.0**-10, 2.0**8
# The same for a QUANTIZE between int8 tensors. From uint8, only equal scales are exact.
QUANTIZE_RATIO_START, QUANTIZE_RATIO_END = 2.0**-8, 2.0**8
# How many tensors one CONCATENATION joins: XNNPACK leaves longer ones to slower kernels, and TFLM
# refuses more than ten.
JOINED_TENSORS = 5

# Input scale / output scale / count of a MEAN is within this.
MEAN_START, MEAN_END = 2.0**-16, 2.0**8


def has_exact_mean(count: int, input_scale: float, output_scale: float) -> bool:
    """Whether every runtime with float arithmetic rounds the mean of `count` codes alike.

    That is so if the factor is a power of two, and if no sum of codes lies half way between two
    codes of the output: an odd count onto a grid no coarser, for example. Then the nearest mean is
    1 / (2 * odd factor) of a step away from a half, far more than float32 errs.

    Args:
        count: How many codes are summed.
        input_scale: A power of two.
        output_scale: A power of two.
    """
    odd, twos = count, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    coarser = round(np.log2(output_scale / input_scale))
    factor = input_scale / output_scale / count
    no_halves = twos + coarser <= 0 and odd < 1024
    return (odd == 1 or no_halves) and MEAN_START <= factor < MEAN_END


def check_multipliers(layer: str, multipliers: npt.NDArray[np.floating]) -> None:
    """Checks the requantization of a convolution or dense layer.

    Args:
        layer: Its name, for the message.
        multipliers: Output steps per accumulator step, one per channel.

    Raises:
        ValueError: If one of them is too large for XNNPACK.
    """
    largest = float(np.max(multipliers))
    if not largest < MULTIPLIER_END:
        raise ValueError(
            f"Layer '{layer}': one step of its accumulator would be {largest:g} steps of its "
            f"output, XNNPACK's kernels allow less than {MULTIPLIER_END:g}. Its output range is "
            "far too small for its weights: calibrate with data that is typical of its inputs."
        )


def check_add(layer: str, input_scales: Sequence[float], output_scale: float) -> None:
    """Checks the scales of an addition.

    Args:
        layer: Its name, for the message.
        input_scales: Scales of what is added.
        output_scale: Scale of the sum.

    Raises:
        ValueError: If XNNPACK would leave the addition to a kernel with another rounding.
    """
    for scale in input_scales:
        ratio = scale / output_scale
        if not ADD_RATIO_START <= ratio < ADD_RATIO_END:
            raise ValueError(
                f"Layer '{layer}' adds a tensor whose step is {ratio:g} times its output's; "
                f"XNNPACK adds from {ADD_RATIO_START:g} to below {ADD_RATIO_END:g}. The ranges of "
                "the branches are too far apart: calibrate with data that is typical of the "
                "model's inputs."
            )


def check_quantize(layer: str, input_scale: float, output_scale: float) -> None:
    """Checks the scales of a QUANTIZE between int8 tensors.

    Args:
        layer: Its name, for the message.
        input_scale: Scale of what it reads.
        output_scale: Scale of what it gives.

    Raises:
        ValueError: If XNNPACK would leave it to a kernel with another rounding.
    """
    ratio = input_scale / output_scale
    if not QUANTIZE_RATIO_START <= ratio < QUANTIZE_RATIO_END:
        raise ValueError(
            f"Layer '{layer}' moves a tensor to a step that is {1 / ratio:g} times its own; "
            f"XNNPACK does from {QUANTIZE_RATIO_START:g} to below {QUANTIZE_RATIO_END:g}. The "
            "tensors that are concatenated have ranges too far apart: calibrate with data that is "
            "typical of the model's inputs."
        )
