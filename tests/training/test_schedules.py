"""Schedules are functions of the epoch that can be stretched, restarted, saved and compared."""

import dataclasses
import json

import keras
import pytest

from faq_keras.training.schedules import Constant, Exponential, Steps

ALL = [
    Constant(1e-4),
    Exponential(0.0015, 0.936),
    Steps((1, 2, 4, 8), (55, 150, 160)),
]


def test_the_papers_exponential_ends_near_1e_6():
    rate = Exponential(0.0015, 0.936)
    assert rate(0) == 0.0015
    assert rate(1) == 0.0015 * 0.936
    assert rate(109) == 0.0015 * 0.936**109
    assert rate(109) == pytest.approx(1e-6, rel=0.15)
    assert rate(110) == pytest.approx(1e-6, rel=0.05)


@pytest.mark.parametrize(("start", "factor"), [(0.0015, 0.936), (0.1, 0.901)])
def test_between_start_and_end_gives_the_papers_factors(start, factor):
    assert round(Exponential.between(start, 1e-6, epochs=110).factor, 3) == factor


@pytest.mark.parametrize("epochs", [1, 4, 30, 60, 110, 165])
def test_a_stretched_exponential_keeps_start_and_end(epochs):
    paper = Exponential(0.0015, 0.936)
    rate = paper.stretched(of=110, to=epochs)
    assert rate(0) == paper(0)
    assert rate(epochs) == pytest.approx(paper(110), rel=1e-12)


def test_steps_change_at_their_milestones_counted_from_0():
    count = Steps((1, 2, 4, 8), (55, 150, 160))
    assert [count(e) for e in (0, 54, 55, 149, 150, 159, 160, 164)] == [1, 1, 2, 2, 4, 4, 8, 8]


def test_stretched_steps_move_their_milestones_in_proportion():
    rate = Steps((1e-3, 1e-4, 1e-5, 1e-6), (30, 60, 90))
    assert rate.stretched(of=110, to=11).milestones == (3, 6, 9)
    assert rate.stretched(of=110, to=220).milestones == (60, 120, 180)
    four = rate.stretched(of=110, to=4)  # milestones 1.09, 2.18, 3.27
    assert [four(e) for e in range(4)] == [1e-3, 1e-3, 1e-4, 1e-5]
    assert rate.stretched(of=110, to=1)(0) == 1e-3


def test_another_start_keeps_the_end_or_the_proportions():
    assert Constant(1.0).starting_at(0.5, epochs=3) == Constant(0.5)
    rate = Exponential(0.0015, 0.936).starting_at(0.04, epochs=110)
    assert rate(0) == 0.04
    assert rate(110) == pytest.approx(Exponential(0.0015, 0.936)(110), rel=1e-12)
    assert Steps((1.0, 0.1), (5,)).starting_at(2.0, epochs=9) == Steps((2.0, 0.2), (5,))


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)
def test_a_schedule_comes_back_equal_from_json(schedule):
    text = json.dumps(keras.saving.serialize_keras_object(schedule))
    assert keras.saving.deserialize_keras_object(json.loads(text)) == schedule


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)
def test_a_schedule_cannot_be_changed(schedule):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, dataclasses.fields(schedule)[0].name, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Exponential(0.0, 0.9),
        lambda: Exponential(0.1, -0.9),
        lambda: Exponential.between(0.1, 0.0, 10),
        lambda: Exponential.between(0.1, 1e-6, 0),
        lambda: Steps((1, 2), (3, 4)),
        lambda: Steps((1, 2, 3), (4, 3)),
    ],
)
def test_impossible_schedules_are_refused(make):
    with pytest.raises(ValueError, match=r"Exponential|Steps"):
        make()
