"""A training that was killed or asked to stop ends with the bytes of one that ran through."""

import json
import os
import signal
import threading

import keras
import numpy as np
import pytest

from faq_keras.training import checkpoints
from faq_keras.training.checkpoints import CheckpointError, Position
from faq_keras.training.experiment import compile_for, run
from faq_keras.training.interruption import stop_requests
from faq_keras.training.loop import Loop
from faq_keras.training.workdir import WorkdirError
from tests.training import runs

CONFIG = {"bits": 4, "data": {"source": "stripes"}}

# Runs the experiment; sends a signal to itself after a batch of the float or the quantized phase.
_RUN = """
import os, sys
import keras
from faq_keras.training import experiment, loop
from faq_keras.training.interruption import Interrupted
from tests.training import runs, test_resume

folder, phase, epoch, step, number = sys.argv[1:]
whole = loop.Loop._after_step

def after_step(self, position, request):
    here = self.folder.parent.name == "pretraining"
    if here == (phase == "float") and position == loop.Position(int(epoch), int(step)):
        os.kill(os.getpid(), int(number))
    whole(self, position, request)

loop.Loop._after_step = after_step
keras.utils.set_random_seed(3)
try:
    experiment.run(runs.experiment(), folder, test_resume.CONFIG, resume=True)
except Interrupted as stop:
    print(stop, file=sys.stderr)
    sys.exit(128 + stop.signal)
"""

posix = pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    keras.utils.set_random_seed(3)
    run(runs.experiment(), folder, CONFIG)
    return folder


def state(folder):
    return checkpoints.load(folder / "checkpoints" / "last.npz")


def assert_same_state(folder, expected):
    one, other = state(folder), state(expected)
    assert one.position == other.position
    assert one.best == other.best
    assert one.plan == other.plan
    assert one.arrays.keys() == other.arrays.keys()
    for name, values in one.arrays.items():
        assert values.tobytes() == other.arrays[name].tobytes(), name


def epochs(folder):
    """The lines of the log without what time has a part in."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def run_until(folder, phase, epoch, step, number):
    process = runs.python(_RUN, folder, phase, epoch, step, int(number))
    _, error = process.communicate(timeout=300)
    return process.returncode, error


@posix
def test_kill_9_and_a_polite_stop_in_the_middle_of_epochs_change_no_byte(finished, tmp_path):
    """Killed in the float phase 2 batches after a checkpoint, stopped between two batches of one
    virtual batch in the quantized phase, then run to the end."""
    status, error = run_until(tmp_path, "float", 1, 5, signal.SIGKILL)
    assert status == -signal.SIGKILL, error
    assert state(tmp_path / "pretraining").position == Position(1, 3)
    assert (tmp_path / "metrics.jsonl").exists() is False

    status, error = run_until(tmp_path, "quantized", 1, 7, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM, error
    assert "Stopped by signal 15 at epoch 2, step 7 of 2 epochs" in error
    assert "Go on with the same command and --resume" in error
    assert state(tmp_path).position == Position(1, 7)
    gathered = [v for n, v in state(tmp_path).arrays.items() if n.endswith("gathered_batches")]
    assert gathered == [1]

    keras.utils.set_random_seed(99)  # nothing may depend on it any more
    run(runs.experiment(), tmp_path, CONFIG, resume=True)
    for part in ("", "pretraining"):
        assert_same_state(tmp_path / part, finished / part)
        assert epochs(tmp_path / part) == epochs(finished / part)
    one, other = (keras.saving.load_model(f / "model.keras") for f in (tmp_path, finished))
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        assert mine.tobytes() == theirs.tobytes()
    reports = [json.loads((f / "result.json").read_text()) for f in (tmp_path, finished)]
    assert [r.pop("seconds") > 0 for r in reports] == [True, True]
    assert reports[0] == reports[1]


@posix
def test_a_second_signal_ends_at_once():
    code = """
import os, signal, time
from faq_keras.training.interruption import stop_requests
with stop_requests() as request:
    os.kill(os.getpid(), signal.SIGINT)
    assert request.signal == signal.SIGINT
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""
    process = runs.python(
        code, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    out, error = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert out == "still here\n"
    assert "a second signal stops at once" in error


def test_other_threads_catch_no_signals_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def elsewhere():
        with stop_requests() as request:
            seen.append((request.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(0, before)]
    with stop_requests():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_folder_of_a_finished_run(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "checkpoints",
        "config.json",
        "lock",
        "metrics.jsonl",
        "model.keras",
        "plan.json",
        "pretraining",
        "result.json",
        "start.keras",
        "tensorboard",
    }
    assert (finished / "lock").read_text() == ""
    report = json.loads((finished / "result.json").read_text())
    assert report["status"] == "finished"
    assert report["trained"]["accuracy"] == epochs(finished)[-1]["val_accuracy"]
    assert report["best"]["accuracy"] == max(line["val_accuracy"] for line in epochs(finished))
    best = keras.saving.load_model(finished / "checkpoints" / "best.keras")
    with runs.pipeline().corrupt.named():
        values = best.evaluate(runs.pipeline().validation(), verbose=0, return_dict=True)
    assert values["accuracy"] == pytest.approx(report["best"]["accuracy"])
    assert [line["layers"].keys() for line in epochs(finished)] == [
        {"pixels_quantized", "conv1", "conv2", "head"}
    ] * 2


def test_a_finished_run_is_refused_without_resume_and_left_alone_with_it(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.*")}
    with pytest.raises(WorkdirError, match=r"holds a run already \(finished\)"):
        run(runs.experiment(), finished, CONFIG)
    report = run(runs.experiment(), finished, CONFIG, resume=True)
    assert report == json.loads((finished / "result.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.*")} == before


def compiled(**fields):
    experiment = runs.experiment(bits=None, pretraining=None, **fields)
    model = runs.network()
    compile_for(model, experiment, experiment.recipe)
    return model, experiment


def test_an_epoch_that_was_resumed_logs_the_mean_of_all_its_batches(tmp_path):
    """The sums behind the metrics are part of the checkpoint."""

    class StopError(Exception):
        pass

    class StopAt(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 8:
                raise StopError

    histories = []
    for stops in (None, [StopAt()]):
        folder = tmp_path / str(bool(stops))
        folder.mkdir()
        keras.utils.set_random_seed(5)
        model, experiment = compiled()
        loop = Loop(model, experiment.data, experiment.recipe, folder, 4, stops or [])
        if stops:
            with pytest.raises(StopError):
                loop.run()
            model, _ = compiled()
            loop = Loop(model, experiment.data, experiment.recipe, folder, 4)
        histories.append(loop.run(resume=True).history)
    assert histories[0] == histories[1]


def test_a_checkpoint_of_another_network_is_refused_by_name(finished, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "last.npz").write_bytes((finished / "checkpoints" / "last.npz").read_bytes())
    model, experiment = compiled()
    weights = model.get_weights()
    with pytest.raises(CheckpointError, match="belongs to a quantized network, 'stripes_net' is"):
        Loop(model, experiment.data, experiment.recipe, tmp_path).run(resume=True)
    for now, before in zip(model.get_weights(), weights, strict=True):
        assert np.array_equal(now, before)
