"""Two devices, and two worker processes, train what one device trains."""

import json
import os
import signal
import socket

import keras
import numpy as np
import pytest
import tensorflow as tf

import faq_keras
from faq_keras.data.preparation import CorruptImages
from faq_keras.training import distribution, experiment
from faq_keras.training.checkpoints import Position, load
from faq_keras.workers import Team, WorkerLostError, team
from tests.training import distributed, runs

CLOSE = 1e-5


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    """What was measured on two logical CPU devices, in a process of its own."""
    code = (
        "import sys; from tests.training import distributed; distributed.two_devices(sys.argv[1])"
    )
    process = runs.python(code, tmp_path_factory.mktemp("devices"))
    out, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("network", ["float", "w4a4"])
def test_two_devices_train_what_one_does(devices, network):
    """Batch statistics, virtual batches, moving statistics: step by step, and in the weights."""
    assert devices["replicas"] == 2
    found = devices[network]
    assert found["losses"] < CLOSE
    assert found["weights"] < CLOSE
    assert found["validation"] < CLOSE
    assert found["updates"] == [15, 15]
    assert found["learned"] > 0.05


def test_two_devices_calibrate_to_the_same_plan(devices):
    one, two = devices["plans"]
    assert one == two


def test_a_resume_on_two_devices_changes_no_byte(devices):
    assert devices["resumed"]
    assert all(devices["resumed"])


def test_fine_tune_works_inside_a_scope(devices):
    assert devices["fine_tune"] < CLOSE


def test_parts_of_different_sizes_have_the_statistics_and_gradients_of_the_whole(devices):
    assert devices["unequal_parts"] < 1e-4


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def work(folder, pretraining=False, who=-1, number=0):
    """Runs two workers, one of which gets a signal; their exit statuses, outputs and errors."""
    addresses = [f"localhost:{free_port()}" for _ in range(2)]
    code = (
        "import sys; from tests.training import distributed;"
        "distributed.worker(sys.argv[1], *map(int, sys.argv[2:]))"
    )
    arguments = int(pretraining), who, int(number)
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        cluster = {"cluster": {"worker": addresses}, "task": task}
        environment = os.environ | {"TF_CONFIG": json.dumps(cluster)}
        processes.append(runs.python(code, folder, *arguments, env=environment))
    try:
        results = [process.communicate(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    statuses = [process.returncode for process in processes]
    return statuses, [out for out, _ in results], [error for _, error in results]


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_two_workers_one_of_which_dies_end_where_one_device_does(tmp_path):
    """Killed in the second epoch, started again: losses, accuracies, plan as undisturbed alone."""
    folder = tmp_path / "two"
    (chief, dead), _, (error, _) = work(folder, who=1, number=signal.SIGKILL)
    assert (chief, dead) == (1, -signal.SIGKILL), error
    assert "worker 0: Another worker is gone, and a step needs all 2" in error
    assert "started again with --resume" in error
    assert load(folder / "checkpoints" / "last.npz").position == Position(1, 3)

    assert_ends_as_one_device(folder, tmp_path / "one", pretraining=False)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there are no signals")
@pytest.mark.parametrize(
    ("who", "number", "statuses", "message"),
    [
        (1, signal.SIGTERM, [143, 143], "Stopped by signal 15 at epoch 2, step 6 of 2 epochs"),
        (0, signal.SIGKILL, [-9, None], "worker 1: Another worker is gone"),
    ],
)
def test_a_float_pretraining_of_two_workers_is_stopped_and_resumed(
    tmp_path, who, number, statuses, message
):
    """A polite stop of one worker stops both at one step; the death of the chief is noticed."""
    folder = tmp_path / "two"
    ended, _, errors = work(folder, True, who, number)
    assert [
        None if want is None else have for want, have in zip(statuses, ended, strict=True)
    ] == statuses
    assert ended[1] != 0
    assert message in errors[1]
    assert_ends_as_one_device(folder, tmp_path / "one", pretraining=True)


def assert_ends_as_one_device(folder, alone, pretraining):
    """Starts the two workers again, and the same experiment without any."""
    statuses, outputs, errors = work(folder, pretraining)
    assert statuses == [0, 0], errors
    reports = [json.loads(out.splitlines()[-1]) for out in outputs]
    assert reports[0] == reports[1]

    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(3)
    data = distributed.workers_experiment(runs.pipeline(), pretraining)
    experiment.run(data, alone, distributed.CONFIG)
    plans = [faq_keras.QuantPlan.load(f / "plan.json") for f in (folder, alone)]
    assert plans[0] == plans[1]
    # Behind a float phase the 4-bit one starts from other last digits: codes fall to other sides.
    together, single = (f / "pretraining" if pretraining else f for f in (folder, alone))
    for mine, theirs in zip(epochs(together), epochs(single), strict=True):
        assert mine == pytest.approx(theirs, abs=CLOSE)
    one, two = (keras.saving.load_model(f / "model.keras") for f in (single, together))
    for mine, theirs in zip(two.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=CLOSE)


def epochs(folder):
    """The metrics of each epoch; where one was run twice, the later line counts."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    by_epoch = {line["epoch"]: line for line in lines}
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return [{name: by_epoch[epoch][name] for name in names} for epoch in sorted(by_epoch)]


def test_the_parts_of_all_workers_are_the_batches_of_one():
    whole = runs.pipeline()
    parts = [
        runs.pipeline(part=runs.striped_source(shard=(worker, 2)), workers=2) for worker in (0, 1)
    ]
    assert [part.steps_per_epoch for part in parts] == [whole.steps_per_epoch] * 2
    batches = zip(*(data.train(1, skip=3) for data in (whole, *parts)), strict=True)
    for (x, y), *pieces in batches:
        together = [np.concatenate([piece[i] for piece in pieces]) for i in (0, 1)]
        assert sorted_rows(*together) == sorted_rows(x.numpy(), y.numpy())
    seen = np.concatenate([y for part in parts for _, y in part.validation()])
    assert sorted(seen) == sorted(np.concatenate([y for _, y in whole.validation()]))
    calibration = [next(data.calibration(1)) for data in (whole, *parts)]
    assert all(np.array_equal(batch, calibration[0]) for batch in calibration)


def sorted_rows(x, y):
    return sorted((image.tobytes(), int(label)) for image, label in zip(x, y, strict=True))


def test_what_workers_cannot_share_is_refused():
    with pytest.raises(ValueError, match="batch of 10 images cannot be shared equally among 3 wor"):
        runs.pipeline(workers=3)
    few = runs.striped_source(validation=1, shard=(1, 2))
    with pytest.raises(ValueError, match="fewer validation images than there are workers"):
        runs.pipeline(part=few, workers=2)
    with pytest.raises(ValueError, match="batch of 10 images cannot be shared equally among 4 dev"):
        distribution.check_batch_size(10, 4)
    with pytest.raises(ValueError, match="With several workers corrupt images cannot be left out"):
        runs.pipeline(workers=2, corrupt=CorruptImages("skip"))


def test_a_team_of_one_does_everything_itself():
    crew = team()
    assert (crew.worker, crew.workers, crew.replicas, crew.devices) == (0, 1, 1, (None,))
    assert crew.first(lambda: "yes") is True
    assert crew.exchange([1.5, 2.5]).tolist() == [[1.5, 2.5]]
    with pytest.raises(tf.errors.UnavailableError), crew.watched():
        raise tf.errors.UnavailableError(None, None, "Connection reset by peer")


def test_a_lost_worker_is_one_sentence_out_of_tensorflows_pages():
    message = "Graph execution error:\n\nDetected at node x\nConnection reset by peer\n\t [[x]]"
    crew = Team(tf.distribute.get_strategy(), worker=1, workers=3)
    with pytest.raises(WorkerLostError) as error, crew.watched():
        raise tf.errors.UnavailableError(None, None, message)
    assert str(error.value).endswith("TensorFlow says: Connection reset by peer")
    assert "needs all 3 (this is worker 1)" in str(error.value)
    with pytest.raises(tf.errors.InternalError, match="something else"), crew.watched():
        raise tf.errors.InternalError(None, None, "something else")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (None, "needs the environment variable TF_CONFIG"),
        ("{", "TF_CONFIG does not describe a cluster"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "TF_CONFIG does not describe a cluster"),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
            "TF_CONFIG does not describe a cluster",
        ),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}',
            "TF_CONFIG names 1 task",
        ),
        (
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
            r"TF_CONFIG names 2 task\(s\) of the kinds ps, worker",
        ),
    ],
)
def test_a_wrong_cluster_is_one_sentence(monkeypatch, environment, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if environment is not None:
        monkeypatch.setenv("TF_CONFIG", environment)
    with pytest.raises(ValueError, match=message):
        distribution.strategy_named("multi_worker")


def test_the_chief_is_the_first_of_the_workers(monkeypatch):
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    for task, worker in (("chief", 0), ("worker", 1)):
        config = {"cluster": cluster, "task": {"type": task, "index": 0}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        assert distribution.cluster_from_environment() == (worker, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mirrored", "this machine has only /device:"),
        ("tpu", "--distribution=tpu is refused: the layers need float64"),
        ("all", "--distribution=all does not exist; there are none, mirrored"),
    ],
)
def test_devices_that_there_are_not(name, message):
    if name == "mirrored" and len(tf.config.list_logical_devices("GPU")) > 1:
        pytest.skip("there are several GPUs")
    with pytest.raises(ValueError, match=message):
        distribution.strategy_named(name)
