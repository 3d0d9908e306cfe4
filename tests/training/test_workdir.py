"""One run per folder: the lock, its takeover, and whose folder it is."""

import json
import logging
import os
import signal
import socket

import pytest

from faq_keras.training.workdir import WorkdirError, claim, config_differences, locked
from tests.training.runs import python

_HOLD = """
import sys, time
from faq_keras.training.workdir import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(120)
"""


def test_two_runs_in_one_folder_are_refused_and_a_dead_ones_lock_is_taken_over(tmp_path, caplog):
    with python(_HOLD, tmp_path) as other:
        assert other.stdout.readline() == "locked\n"
        owner = json.loads((tmp_path / "lock").read_text())
        assert owner == {"pid": other.pid, "host": socket.gethostname()}
        refused = pytest.raises(WorkdirError, match=rf"Another run \(process {other.pid} on ")
        with refused, locked(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert f"Process {other.pid}, which worked in {tmp_path}, is gone" in caplog.text
    assert (tmp_path / "lock").read_text() == ""


def test_a_lock_is_free_again_and_silent(tmp_path, caplog):
    for _ in range(2):
        with locked(tmp_path / "new" / "run"):
            pass
    assert caplog.text == ""


def test_a_lock_of_another_machine_is_left_alone(tmp_path):
    (tmp_path / "lock").write_text('{"pid": 17, "host": "elsewhere"}\n')
    refused = pytest.raises(WorkdirError, match=r"\(elsewhere, process 17\).*delete .*lock")
    with refused, locked(tmp_path):
        pass
    assert json.loads((tmp_path / "lock").read_text())["host"] == "elsewhere"


def test_a_torn_lock_has_no_owner(tmp_path):
    (tmp_path / "lock").write_text('{"pid": 1')
    with locked(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


CONFIG = {"bits": 4, "data": {"source": "mnist5k", "data_dir": None, "mean": [0.0]}}


def test_a_folder_belongs_to_the_run_that_began_it(tmp_path):
    assert claim(tmp_path, CONFIG, resume=False) is True
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG
    with pytest.raises(WorkdirError, match=r"already \(not finished\).*--resume, or choose"):
        claim(tmp_path, CONFIG, resume=False)
    assert claim(tmp_path, CONFIG, resume=True) is False


def test_resume_without_a_run_begins_one(tmp_path):
    assert claim(tmp_path, CONFIG, resume=True) is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, "bits was 4 and is 8 now"),
        ({"data": {**CONFIG["data"], "mean": [1.0]}}, r"data.mean was \[0.0\] and is \[1.0\] now"),
        ({"epochs": 3}, "epochs was None and is 3 now"),
    ],
)
def test_another_configuration_is_refused_field_by_field(tmp_path, change, message):
    claim(tmp_path, CONFIG, resume=False)
    with pytest.raises(WorkdirError, match=message):
        claim(tmp_path, CONFIG | change, resume=True)


def test_what_has_no_influence_may_change():
    moved = {**CONFIG, "data": {**CONFIG["data"], "data_dir": "/elsewhere"}, "checkpoint_steps": 5}
    assert config_differences(CONFIG, moved) == []


def test_tuples_are_lists_after_json(tmp_path):
    config = {"mean": (1.0, 2.0)}
    claim(tmp_path, config, resume=False)
    assert claim(tmp_path, config, resume=True) is False


def test_a_broken_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WorkdirError, match=r"config\.json cannot be read"):
        claim(tmp_path, CONFIG, resume=True)
