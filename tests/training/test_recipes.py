"""Every number of the paper's table of recipes (faq-method, section 5)."""

import dataclasses

import pytest

from faq_keras.training.callbacks import LearningRate, VirtualBatches
from faq_keras.training.recipes import recipe
from faq_keras.training.schedules import Constant, Exponential, Steps

# name: epochs, weight decay, batch size, {epoch: learning rate}, {epoch: virtual batches}
TABLE = {
    "w8a8": (1, 1e-4, 256, {0: 1e-4}, {0: 1}),
    "w4a4": (110, 0.5e-4, 256, {0: 0.0015, 1: 0.001404, 109: 0.0015 * 0.936**109}, {109: 1}),
    "w4a4_large_batch": (
        165,
        0.5e-4,
        256,
        {0: 0.0015, 165: 0.0015 * 0.936**110},
        {0: 1, 54: 1, 55: 2, 149: 2, 150: 4, 159: 4, 160: 8, 164: 8},
    ),
    "w4a4_step": (
        110,
        0.5e-4,
        256,
        {0: 1e-3, 29: 1e-3, 30: 1e-4, 59: 1e-4, 60: 1e-5, 89: 1e-5, 90: 1e-6, 109: 1e-6},
        {109: 1},
    ),
    "w4a4_short": (60, 0.5e-4, 400, {0: 0.0015, 60: 0.0015 * 0.936**110}, {59: 1}),
    "from_scratch": (110, 0.5e-4, 256, {0: 0.1, 109: 0.1 * 0.901**109}, {109: 1}),
    "from_scratch_step": (
        110,
        0.5e-4,
        256,
        {0: 0.1, 30: 0.01, 59: 0.01, 60: 1e-3, 84: 1e-3, 85: 1e-4, 94: 1e-4, 95: 1e-6, 109: 1e-6},
        {109: 1},
    ),
    "cifar10_fp32": (
        350,
        5e-4,
        128,
        {0: 0.1, 149: 0.1, 150: 0.01, 249: 0.01, 250: 1e-3, 349: 1e-3},
        {349: 1},
    ),
    "cifar10_w8a8": (10, 5e-4, 256, {0: 1e-4, 9: 1e-4}, {9: 1}),
    "cifar10_w4a4": (110, 5e-4, 256, {0: 0.02, 110: 1e-6}, {109: 1}),
    "float": (110, 0.5e-4, 256, {0: 0.0015, 109: 0.0015 * 0.936**109}, {109: 1}),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_numbers_of_the_paper(name):
    epochs, weight_decay, batch_size, rates, counts = TABLE[name]
    r = recipe(name)
    assert (r.name, r.epochs, r.weight_decay, r.batch_size) == (
        name,
        epochs,
        weight_decay,
        batch_size,
    )
    assert r.momentum == 0.9
    for epoch, rate in rates.items():
        assert r.learning_rate(epoch) == pytest.approx(rate, rel=1e-9), epoch
    for epoch, count in counts.items():
        assert r.virtual_batches(epoch) == count, epoch


@pytest.mark.parametrize("epochs", [30, 60, 110])
def test_the_shorter_runs_have_the_same_start_and_end(epochs):
    r = recipe("w4a4_short", epochs=epochs)
    assert (r.epochs, r.learning_rate(0)) == (epochs, 0.0015)
    assert r.learning_rate(epochs) == pytest.approx(1.04e-6, rel=0.01)


def test_the_doublings_move_with_the_number_of_epochs():
    count = recipe("w4a4_large_batch", epochs=33).virtual_batches
    assert [count(e) for e in (0, 10, 11, 29, 30, 31, 32)] == [1, 1, 2, 2, 4, 4, 8]


def test_a_name_gives_a_new_recipe_whose_optimizer_is_always_the_same():
    r, other = recipe("w4a4"), recipe("w4a4")
    assert r.optimizer is r.optimizer
    assert r.optimizer is not other.optimizer
    assert float(r.optimizer.learning_rate) == pytest.approx(0.0015, rel=1e-7)
    assert (r.optimizer.momentum, r.optimizer.weight_decay) == (0.9, 0.5e-4)
    assert [type(c) for c in r.callbacks] == [LearningRate, VirtualBatches]


def test_fields_can_be_set():
    r = recipe("w4a4", epochs=10, weight_decay=1e-4, batch_size=64, virtual_batches=4)
    assert (r.epochs, r.weight_decay, r.batch_size) == (10, 1e-4, 64)
    assert r.virtual_batches == Constant(4)
    assert r.optimizer.virtual_batches == 4


@pytest.mark.parametrize("start", [0.0015, 0.01, 0.02, 0.04])
def test_a_number_as_learning_rate_is_the_start_of_the_same_course(start):
    r = recipe("cifar10_w4a4", learning_rate=start)
    assert r.learning_rate(0) == start
    assert r.learning_rate(110) == pytest.approx(1e-6, rel=1e-9)
    assert recipe("w8a8", learning_rate=start).learning_rate == Constant(start)


def test_a_schedule_as_learning_rate_is_taken_as_it_is():
    rate = Steps((0.1, 0.01), (2,))
    assert recipe("w4a4", epochs=3, learning_rate=rate).learning_rate == rate
    assert recipe("w4a4", learning_rate=Exponential(1.0, 0.5)).optimizer.learning_rate == 1.0


def test_a_recipe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe("w4a4").epochs = 3


def test_an_unknown_name_raises_with_the_list():
    with pytest.raises(ValueError, match=r"'w4a5'.*Did you mean 'w4a4'") as error:
        recipe("w4a5")
    assert all(name in str(error.value) for name in TABLE)


def test_an_unknown_field_raises_with_the_list():
    with pytest.raises(ValueError, match=r"has no decay.*weight_decay"):
        recipe("w4a4", decay=1e-4)


@pytest.mark.parametrize("epochs", [0, -1, 1.5])
def test_impossible_epochs_are_refused(epochs):
    with pytest.raises(ValueError, match=r"'w4a4': epochs has to be"):
        recipe("w4a4", epochs=epochs)
