"""Estimates count what can be counted; schedules show every change; progress tells the time."""

import io

import pytest
from rich.console import Console

from faq_keras.training import recipe
from faq_keras.training.callbacks import LearningRate
from faq_keras.training.estimates import estimate, plot_schedules, schedule_rows
from faq_keras.training.progress import Progress, duration
from faq_keras.training.schedules import Exponential
from tests.training import runs


def test_steps_updates_and_parameters_are_exact():
    data, course = runs.pipeline(), runs.course(epochs=4)
    cost = estimate(runs.network(), course, data, next(data.calibration(1)))
    assert cost.steps == 4 * 10
    assert cost.updates == 10 + 3 * 5  # two batches per update from the second epoch on
    conv, norm, head = 8 * 9 + 8 * 8 * 9, 2 * 8 * 2, 128 * 6 + 6
    assert cost.parameters == conv + norm + head
    # Rescaling, two conv-bn-relu, dropout, flatten, head and the input, of ten images.
    values = 2 * 64 + 3 * 36 * 8 + 3 * 16 * 8 + 2 * 128 + 6
    assert cost.gigabytes == pytest.approx(4e-9 * (4 * cost.parameters + 10 * values))
    assert cost.hours * 3600 * cost.images_per_second == pytest.approx(400)


def test_steps_are_shown_with_every_change():
    rows = schedule_rows(recipe("w4a4_step"), 256)
    assert rows == [
        (1, 1e-3, 256),
        (31, 1e-4, 256),
        (61, 1e-5, 256),
        (91, 1e-6, 256),
        (110, 1e-6, 256),
    ]


def test_long_courses_are_shortened_but_keep_first_last_and_doublings():
    rows = schedule_rows(recipe("w4a4_large_batch"), 256)
    assert len(rows) < 20
    assert rows[0][0] == 1
    assert rows[-1][0] == 165
    assert {(56, 512), (151, 1024), (161, 2048)} <= {(row[0], row[2]) for row in rows}


def test_one_epoch_is_one_row():
    assert schedule_rows(recipe("w8a8"), 256) == [(1, 1e-4, 256)]


def test_the_schedule_is_a_picture(tmp_path):
    path = tmp_path / "schedule.png"
    plot_schedules(recipe("w4a4_large_batch"), 256, str(path))
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"schedule\.jpg .* has to end in \.png"):
        plot_schedules(recipe("w8a8"), 256, str(tmp_path / "schedule.jpg"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 0 s"), (310, "5 min 10 s"), (299520, "83 h 12 min")],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120)
    progress = Progress(3, 2, 10, console)
    progress.on_train_begin()
    for epoch in range(2):
        progress.on_epoch_begin(epoch)
        for batch in range(2):
            progress.on_train_batch_end(batch, {"loss": 0.5})
        progress.on_epoch_end(epoch, {"loss": 0.25, "val_accuracy": 0.75})
    progress.on_train_end()
    text = out.getvalue()
    assert ("\x1b" in text) is terminal
    assert "epoch 1/3: loss 0.25, val_accuracy 0.75; " in text
    assert " images/s, " in text
    if not terminal:
        assert [line.split(":")[0] for line in text.splitlines()] == ["epoch 1/3", "epoch 2/3"]


def test_a_rate_per_step_follows_the_course_within_the_epoch():
    seen = []

    class Model:
        class optimizer:  # noqa: N801
            learning_rate = 0.0

    callback = LearningRate(Exponential(0.1, 0.5), steps_per_epoch=4)
    callback.set_model(Model)
    callback._epoch = 2
    for batch in range(4):
        callback.on_train_batch_begin(batch)
        seen.append(Model.optimizer.learning_rate)
    assert seen == pytest.approx([0.1 * 0.5 ** (2 + batch / 4) for batch in range(4)])
