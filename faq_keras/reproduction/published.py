"""What the paper published, for the column beside the measured one.

McKinstry et al., "Discovering Low-Precision Networks Close to Full-Precision Networks for Efficient
Embedded Inference" (2018). Table 1's own rows (fp32, W8A8, W4A4) stand with their networks in
`converters.zoo`; here is the rest, in percent:

    COMPETITORS["resnet18"][0]            # Competitor("Apprentice", 4, 8, 70.40)
    TABLE_2["large_batch"]                # 69.96
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Competitor:
    """A row of Table 1 by other authors.

    Attributes:
        method: Its name in the paper.
        weight_bits: Bits of the weights.
        activation_bits: Bits of the activations.
        top1: Top-1 accuracy in percent.
    """

    method: str
    weight_bits: int
    activation_bits: int
    top1: float


COMPETITORS: Mapping[str, tuple[Competitor, ...]] = {
    "resnet18": (
        Competitor("Apprentice", 4, 8, 70.40),
        Competitor("Joint Training", 4, 4, 69.3),
        Competitor("UNIQ", 4, 8, 67.02),
        Competitor("Distillation", 4, 32, 64.20),
    ),
    "resnet34": (
        Competitor("UNIQ", 4, 32, 73.1),
        Competitor("Apprentice", 4, 8, 73.1),
        Competitor("UNIQ", 4, 8, 71.09),
    ),
    "resnet50": (
        Competitor("EL-Net", 4, 4, 75.9),
        Competitor("IOA", 8, 8, 74.9),
        Competitor("Apprentice", 4, 8, 74.7),
        Competitor("UNIQ", 4, 8, 73.37),
    ),
    "inception_v3": (Competitor("IOA", 8, 8, 74.2),),
}
"""Table 1's rows of other methods, by the network's name in the zoo."""

TABLE_2: Mapping[str, float] = {
    "standard": 69.82,
    "batch_400_110_epochs": 69.68,
    "batch_400_60_epochs": 69.40,
    "batch_400_30_epochs": 69.30,
    "from_scratch": 69.24,
    "large_batch": 69.96,
    "step": 69.90,
    "weight_decay": 69.59,
    "uncalibrated": 69.19,
}
"""Top-1 of ResNet-18 at W4A4, Table 2 and (batches of 400) section 4.2."""

CIFAR10: Mapping[str, float] = {"fp32": 94.65, "w8a8": 94.65, "w4a4": 94.63}
"""Top-1 of ResNet-18 on CIFAR-10, section 4.9."""

FIGURE_2: Mapping[str, float] = {"standard": 0.994, "from_scratch": 0.023}
"""Mean over all neurons of the cosine between initial and final weights, section 4.8."""
