"""Learning rates and virtual batches as functions of the epoch.

Every schedule of the paper is a value for an epoch, counted from 0 (3.5: in the middle of the
fourth, where the rate is set before every step), so a schedule is a small frozen
object that is called with the epoch. It can be stretched to another number of epochs, started at
another value, compared, and saved:

    >>> rate = Exponential(start=0.0015, factor=0.936)      # W4A4, 110 epochs (paper, section 3.3)
    >>> rate(0), rate(109)
    (0.0015, 1.1095803869685326e-06)
    >>> rate.stretched(of=110, to=30)(29)                   # the same start and end in 30 epochs
    1.3235992372206163e-06
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from typing import Any, Protocol, Self

import keras


class Schedule(Protocol):
    """What every schedule can do."""

    def __call__(self, epoch: float) -> float:
        """The value during an epoch, counted from 0."""

    def stretched(self, of: int, to: int) -> Schedule:
        """The same course, made for `of` epochs, in `to` epochs."""

    def starting_at(self, start: float, epochs: int) -> Schedule:
        """The same course over `epochs` epochs from another first value."""


class _Config:
    """Saves and loads a schedule as Keras does with layers (`keras.saving`)."""

    def get_config(self) -> dict[str, Any]:
        """The fields of the schedule."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The schedule with these fields."""
        return cls(**config)


@keras.saving.register_keras_serializable("faq_keras")
@dataclasses.dataclass(frozen=True)
class Constant(_Config):
    """The same value in every epoch (W8A8: 1e-4; paper, section 3.3).

    Attributes:
        value: The value.
    """

    value: float

    def __call__(self, epoch: float) -> float:
        """The value."""
        return self.value

    def stretched(self, of: int, to: int) -> Constant:
        """Itself."""
        return self

    def starting_at(self, start: float, epochs: int) -> Constant:
        """Another constant."""
        return Constant(start)


@keras.saving.register_keras_serializable("faq_keras")
@dataclasses.dataclass(frozen=True)
class Exponential(_Config):
    """`start * factor**epoch`: multiplied by `factor` after each epoch (paper, section 3.3).

    Attributes:
        start: Value of the first epoch.
        factor: Ratio of two neighbouring epochs' values.
    """

    start: float
    factor: float

    def __post_init__(self) -> None:
        if not (self.start > 0 and self.factor > 0):
            raise ValueError(f"{self}: an exponential needs a start and a factor above 0.")

    @classmethod
    def between(cls, start: float, end: float, epochs: int) -> Exponential:
        """From `start` in the first epoch to `end` after the last of `epochs`.

        "After the last" is the paper's way of counting: 0.0015 to 1e-6 in 110 epochs gives its
        factor 0.936, and the last epoch runs at `end / factor`.
        """
        if not (start > 0 and end > 0 and epochs > 0):
            raise ValueError(
                "Exponential.between needs start, end and epochs above 0. "
                f"Received: {start!r}, {end!r}, {epochs!r}."
            )
        return cls(start, (end / start) ** (1 / epochs))

    def __call__(self, epoch: float) -> float:
        """The value during an epoch."""
        return self.start * self.factor**epoch

    def stretched(self, of: int, to: int) -> Exponential:
        """The same start and end in another number of epochs."""
        return self if of == to else Exponential(self.start, self.factor ** (of / to))

    def starting_at(self, start: float, epochs: int) -> Exponential:
        """From another start to the same end."""
        return Exponential.between(start, self(epochs), epochs)


@keras.saving.register_keras_serializable("faq_keras")
@dataclasses.dataclass(frozen=True)
class Steps(_Config):
    """One value until the first milestone, the next one from it on, and so on.

    Attributes:
        values: One more than there are milestones.
        milestones: Ascending epochs, counted from 0, from which the next value holds. Stretched
            ones need not be whole: 27.5 takes effect in epoch 28.
    """

    values: tuple[float, ...]
    milestones: tuple[float, ...]

    def __post_init__(self) -> None:
        # Lists come back from JSON.
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if len(self.values) != len(self.milestones) + 1:
            raise ValueError(f"{self}: needs exactly one value more than milestones.")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"{self}: the milestones have to ascend.")

    def __call__(self, epoch: float) -> float:
        """The value during an epoch."""
        return self.values[bisect_right(self.milestones, epoch)]

    def stretched(self, of: int, to: int) -> Steps:
        """The milestones moved in proportion; the first value always gets the first epoch."""
        return Steps(self.values, tuple(milestone * to / of for milestone in self.milestones))

    def starting_at(self, start: float, epochs: int) -> Steps:
        """All values in proportion."""
        return Steps(tuple(v * start / self.values[0] for v in self.values), self.milestones)
