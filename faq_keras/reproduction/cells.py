"""Cells of the result tables: mean and spread over seeds, and what was not run.

measured([outcome1, outcome2], "trained", "accuracy").text      # "90.88 ± 0.06 (2 seeds)"
state([outcome1, outcome2])                                     # "finished"
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from faq_keras.report.runs import number
from faq_keras.reproduction.runs import Outcome


@dataclasses.dataclass(frozen=True)
class Measured:
    """A figure over several seeds.

    Attributes:
        values: One per seed, in the unit of the table.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Their mean; None without any."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Their standard deviation (n - 1); None with fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def text(self) -> str:
        """For a table; says how many seeds there were."""
        return self.shown(2)

    def shown(self, places: int) -> str:
        """The same with other decimal places."""
        if self.mean is None:
            return "not run"
        if self.std is None:
            return f"{self.mean:.{places}f} (1 seed)"
        return f"{self.mean:.{places}f} ± {self.std:.{places}f} ({len(self.values)} seeds)"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {"values": list(self.values), "mean": self.mean, "std": self.std}


def measured(outcomes: Sequence[Outcome], stage: str, metric: str) -> Measured:
    """An accuracy in percent, of the runs that are finished.

    Args:
        outcomes: A row's outcomes.
        stage: "float", "quantized" or "trained".
        metric: "accuracy" or "top5".
    """
    done = [outcome for outcome in outcomes if outcome.status == "finished"]
    values = [number((outcome.result.get(stage) or {}).get(metric)) for outcome in done]
    return Measured(tuple(100 * value for value in values if value is not None))


def state(outcomes: Sequence[Outcome]) -> str:
    """What is known of a row's runs, shortly."""
    states = [outcome.status for outcome in outcomes]
    if len(set(states)) == 1:
        return states[0]
    return ", ".join(f"seed {outcome.seed} {outcome.status}" for outcome in outcomes)


def notices(title: str, outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence for each run that is not finished."""
    return [
        f"{title}, seed {outcome.seed}: {outcome.status}"
        f"{f' ({outcome.reason})' if outcome.reason else ''}."
        for outcome in outcomes
        if outcome.status != "finished"
    ]


def change(value: float | None, reference: float | None) -> str:
    """A difference in points, with its sign."""
    return "" if value is None or reference is None else f"{value - reference:+.2f}"
