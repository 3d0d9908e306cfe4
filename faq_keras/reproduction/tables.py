"""The result tables of the paper, measured beside published.

section = table2(runs, task="a ResNet of 78k parameters on Fashion-MNIST")
"""

from __future__ import annotations

from typing import Any

from faq_keras.converters.zoo import ZOO
from faq_keras.report.document import Section, Table
from faq_keras.reproduction import published
from faq_keras.reproduction.cells import change, measured, notices, state
from faq_keras.reproduction.experiments import PRETRAINED, Row
from faq_keras.reproduction.runs import Runs

_ELSEWHERE = "not run at this scale"
_KINDS = {"fp32": "32, 32", "w8a8": "8, 8", "w4a4": "4, 4"}
_TABLE_1 = (
    "network",
    "method",
    "bits (W, A)",
    "published top-1",
    "published top-5",
    "measured top-1",
    "measured top-5",
    "state",
)
Cells = tuple[str, ...]


def table1(runs: Runs) -> Section:
    """Table 1: every network at 8 and 4 bits, and the competitors' published rows."""
    rows: list[Cells] = []
    for row in runs.shown:
        if row.network not in ZOO:
            rows += _small_rows(runs, row)
    for network, entry in ZOO.items():
        if entry.published:
            rows += _network_rows(runs, network)
    return Section(
        "table-1",
        "Table 1: accuracy at 8 and 4 bits",
        notices=tuple(_notices(runs)),
        tables=(Table("Accuracy in percent, mean ± standard deviation", _TABLE_1, tuple(rows)),),
        data=_data(runs),
    )


def table2(runs: Runs) -> Section:
    """Table 2: what pretraining, calibration, batches, epochs and schedules are worth."""
    standard = measured(runs.outcomes("standard"), "trained", "accuracy").mean
    rows = []
    for row in runs.shown:
        outcomes = runs.outcomes(row.name)
        found = measured(outcomes, "trained", "accuracy")
        rows.append(
            (
                row.title,
                f"{row.published['top1']:.2f}",
                change(row.published["top1"], published.TABLE_2["standard"]),
                found.text,
                change(found.mean, standard),
                measured(outcomes, "quantized", "accuracy").text,
                state(outcomes),
            )
        )
    columns = (
        "training (the paper's, scaled)",
        "published top-1",
        "change",
        "measured top-1",
        "change",
        "before training",
        "state",
    )
    text = (
        "Rows are named by the paper's epochs and batches; a smaller scale keeps their ratios to "
        "the standard row. Changes are against the standard row. The paper prints -0.22 beside 60 "
        "epochs in batches of 400, but its figures differ by -0.42.",
    )
    return Section(
        "table-2",
        "Table 2: one change at a time",
        text=text,
        notices=tuple(_notices(runs)),
        tables=(Table("Top-1 accuracy in percent at W4A4", columns, tuple(rows)),),
        data=_data(runs),
    )


def cifar10(runs: Runs) -> Section:
    """Section 4.9: CIFAR-10."""
    columns = ("network", "published top-1", "measured top-1", "start", "before training", "state")
    rows = []
    for row in runs.shown:
        outcomes = runs.outcomes(row.name)
        rows.append(
            (
                row.title,
                f"{row.published['top1']:.2f}",
                measured(outcomes, "trained", "accuracy").text,
                measured(outcomes, "float", "accuracy").text,
                measured(outcomes, "quantized", "accuracy").text if row.config.bits else "is float",
                state(outcomes),
            )
        )
    return Section(
        "cifar10",
        "Section 4.9: CIFAR-10",
        notices=tuple(_notices(runs)),
        tables=(Table("Top-1 accuracy in percent", columns, tuple(rows)),),
        data=_data(runs),
    )


def _small_rows(runs: Runs, row: Row) -> list[Cells]:
    """The rows of a network that is not the paper's: it has no published figures."""
    outcomes = runs.outcomes(row.name)
    cells = [
        (
            row.network,
            row.title,
            _KINDS["w8a8" if row.config.bits == 8 else "w4a4"],
            "",
            "",
            *(measured(outcomes, "trained", metric).text for metric in ("accuracy", "top5")),
            state(outcomes),
        )
    ]
    if row == runs.shown[0]:
        start = runs.outcomes(PRETRAINED)
        figures = (measured(start, "trained", metric).text for metric in ("accuracy", "top5"))
        cells.insert(0, (row.network, "fp32", _KINDS["fp32"], "", "", *figures, state(start)))
    return cells


def _network_rows(runs: Runs, network: str) -> list[Cells]:
    own = {row.title: row for row in runs.shown if row.network == network}
    rows = []
    for kind, (top1, top5) in ZOO[network].published.items():
        title = "fp32" if kind == "fp32" else f"FAQ {kind.upper()}"
        row = own.get(title) or (next(iter(own.values()), None) if kind == "fp32" else None)
        cells: tuple[str, ...] = ("", "", _ELSEWHERE)
        if row is not None:
            outcomes = runs.outcomes(row.name)
            stage = "float" if kind == "fp32" else "trained"
            figures = (measured(outcomes, stage, metric).text for metric in ("accuracy", "top5"))
            cells = (*figures, state(outcomes))
        rows.append((network, title, _KINDS[kind], f"{top1:.2f}", f"{top5:.2f}", *cells))
    for other in published.COMPETITORS.get(network, ()):
        bits = f"{other.weight_bits}, {other.activation_bits}"
        figure = f"{other.top1:.2f}"
        rows.append((network, other.method, bits, figure, "", "", "", "published only"))
    return rows


def _notices(runs: Runs) -> list[str]:
    return [text for row in runs.rows for text in notices(row.title, runs.outcomes(row.name))]


def _data(runs: Runs) -> dict[str, Any]:
    """Every row for programs."""
    return {
        row.name: {
            "title": row.title,
            "published": dict(row.published),
            "seeds": {str(o.seed): {"status": o.status, "reason": o.reason} for o in outcomes},
            **{
                stage: measured(outcomes, stage, "accuracy").to_dict()
                for stage in ("float", "quantized", "trained")
            },
        }
        for row in runs.rows
        for outcomes in [runs.outcomes(row.name)]
    }
