"""Which trainings each table and figure of the paper consists of, on each scale.

    plan = PLANS["table2"]("small")
    [row.name for row in plan]            # ["pretrained", "standard", "batch_400_110_epochs", ...]

Rows have the same name wherever they are the same training: in one folder, figure 2 uses the runs
that table 2 left.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping

from ml_collections.config_dict import ConfigDict

from faq_keras.converters.zoo import ZOO
from faq_keras.reproduction import published
from faq_keras.reproduction.scales import SCALES, STANDARD, Scale, config_named

FULL = "full"
PRETRAINED = "pretrained"
NOISE_BITS = (8, 4, 2)
NOISE_STEPS = 100
"""Updates per record of the gradient noise."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One training, run once for each seed, by the paper's rules for scales and statistics.

    Attributes:
        name: Its folder's name.
        title: What readers call it.
        config: Its configuration.
        start: Name of the row whose trained network it starts from, or None.
        published: The paper's figures in percent (`top1`, `top5`), empty if it has none.
        network: Name of the network, where a table has several.
        shown: Whether it is a row of the table, not only the start of others.
    """

    name: str
    title: str
    config: ConfigDict
    start: str | None = None
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    network: str = ""
    shown: bool = True

    def __post_init__(self) -> None:
        self.config.policy.scales, self.config.frozen_statistics = "paper", False


def table1(scale: str) -> list[Row]:
    """Every network at 8 and at 4 bits."""
    if scale == FULL:
        return [
            _imagenet_row(network, kind)
            for network, entry in ZOO.items()
            for kind in ("w8a8", "w4a4")
            if kind in entry.published
        ]
    small = SCALES[scale]
    return [
        _pretrained(small),
        Row("w8a8", "FAQ W8A8", small.eight_bits(), PRETRAINED, network=small.task),
        Row("standard", "FAQ W4A4", _standard(small), PRETRAINED, network=small.task),
    ]


def table2(scale: str) -> list[Row]:
    """ResNet-18 at 4 bits in many ways, or the small network in the same ways."""
    rows = []
    for name, top1 in published.TABLE_2.items():
        paper = _paper(name)
        config = paper if scale == FULL else SCALES[scale].scaled(paper)
        start = None if scale == FULL or paper.from_scratch else PRETRAINED
        rows.append(Row(name, _TITLES[name], config, start, {"top1": top1}))
    return rows if scale == FULL else [_pretrained(SCALES[scale]), *rows]


def cifar10(scale: str) -> list[Row]:
    """Section 4.9: float, 8 and 4 bits on CIFAR-10."""
    if scale == FULL:
        names = {kind: f"cifar10_resnet18_{kind}" for kind in published.CIFAR10}
    elif SCALES[scale].cifar10:
        names = dict(SCALES[scale].cifar10 or {})
    else:
        small = SCALES[scale]
        float_row = dataclasses.replace(_pretrained(small), name="fp32", title="fp32", shown=True)
        rows = [
            float_row,
            Row("w8a8", "FAQ W8A8", small.eight_bits(), "fp32"),
            Row("w4a4", "FAQ W4A4", _standard(small), "fp32"),
        ]
        return [_with_published(row) for row in rows]
    starts = {"w8a8": "fp32", "w4a4": "fp32"} if scale == FULL else {}
    return [
        _with_published(Row(kind, _KINDS[kind], config_named(name), starts.get(kind)))
        for kind, name in names.items()
    ]


def figure1(scale: str) -> list[Row]:
    """Gradient noise at three precisions, after several hundred updates at the first rate."""
    start = None
    rows, epochs = [], 1  # 5,004 updates on ImageNet, 390 on CIFAR-10
    if scale == FULL:
        standard = config_named(STANDARD)
    elif names := SCALES[scale].cifar10:
        standard = config_named(names["w4a4"])
    else:
        rows, start, epochs = [_pretrained(SCALES[scale])], PRETRAINED, 2
        standard = _standard(SCALES[scale])
    for bits in NOISE_BITS:
        config = copy.deepcopy(standard)
        config.bits, config.epochs = bits, epochs
        config.final_learning_rate = config.learning_rate  # it does not fall yet
        config.gradient_noise_steps = NOISE_STEPS
        rows.append(Row(f"noise_{bits}_bits", f"{bits} bits", config, start))
    return rows


def figure2(scale: str) -> list[Row]:
    """Distance from the start: rows of Table 2; on a small task with the paper's total decay."""
    rows = [row for row in table2(scale) if row.name in (PRETRAINED, *published.FIGURE_2)]
    if scale != FULL and SCALES[scale].total_decay:
        rows = [row if row.name == PRETRAINED else _decayed(row, SCALES[scale]) for row in rows]
    return [dataclasses.replace(row, published={}) for row in rows]


PLANS: Mapping[str, Callable[[str], list[Row]]] = {
    "table1": table1,
    "table2": table2,
    "figure1": figure1,
    "figure2": figure2,
    "cifar10": cifar10,
}
"""The rows of each table and figure, by its name, for the name of a scale."""

_TITLES = {
    "standard": "standard: pretrained, calibrated, 110 epochs",
    "batch_400_110_epochs": "110 epochs, batches of 400",
    "batch_400_60_epochs": "60 epochs, batches of 400",
    "batch_400_30_epochs": "30 epochs, batches of 400",
    "from_scratch": "not pretrained",
    "large_batch": "165 epochs, batches growing from 256 to 2,048",
    "step": "learning rate in steps",
    "weight_decay": "weight decay 1e-4",
    "uncalibrated": "no activation calibration",
}
_KINDS = {"fp32": "fp32", "w8a8": "FAQ W8A8", "w4a4": "FAQ W4A4"}


def _decayed(row: Row, scale: Scale) -> Row:
    config = scale.with_total_decay(_paper(row.name))
    return dataclasses.replace(row, name=f"{row.name}_total_decay", config=config)


def _paper(name: str) -> ConfigDict:
    """The configuration of a row of Table 2."""
    return config_named(STANDARD if name == "standard" else f"{STANDARD}_{name}")


def _standard(scale: Scale) -> ConfigDict:
    return scale.scaled(config_named(STANDARD))


def _pretrained(scale: Scale) -> Row:
    return Row(PRETRAINED, "float network", scale.pretrained(), shown=False)


def _imagenet_row(network: str, kind: str) -> Row:
    top1, top5 = ZOO[network].published[kind]
    config = config_named(f"imagenet_{network}_{kind}")
    name = "standard" if network == "resnet18" and kind == "w4a4" else f"{network}_{kind}"
    return Row(name, _KINDS[kind], config, None, {"top1": top1, "top5": top5}, network)


def _with_published(row: Row) -> Row:
    return dataclasses.replace(row, published={"top1": published.CIFAR10[row.name]})
