"""Damaged .tflite files end in one clear sentence or in a run, never with the process.

Thousands of mutants of valid files (`fuzz.mutations`) go through inspect, unpack, load and run on
several runtimes, and verify, in a process of their own (`fuzz.worker`).
"""

import collections
import faulthandler
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

from faq_keras.tflite import flatbuffer
from tests.tflite.fuzz import files, mutations, worker

ROOT = pathlib.Path(__file__).resolve().parents[2]
STAGES = ("inspect", "unpack", "load xnnpack", "load reference", "load builtin", "load tflm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The valid files and the Keras model of some of them."""
    folder = tmp_path_factory.mktemp("fuzz")
    names = files.write_all(folder)
    assert set(files.WITH_MODEL) < set(names) and len(names) == 9
    return folder


def run_worker(folder, first, count, seconds):
    """Outcomes by stage, and whatever is neither `ran` nor `refused`."""
    (folder / "work").mkdir(exist_ok=True)
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "TF_INTRAOP")}
    # Freed memory that is read again must not happen to hold what it held before.
    environment = os.environ | threads | {"MALLOC_PERTURB_": "165", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.tflite.fuzz.worker", str(folder), str(first), str(count)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes, wrong = collections.defaultdict(collections.Counter), []
    for line in done.stdout.splitlines():
        result = json.loads(line)
        outcome = result["outcome"]
        outcomes[result["stage"]][outcome if outcome in ("ran", "refused") else "wrong"] += 1
        if outcome not in ("ran", "refused"):
            wrong.append(result)
    for stage, counts in outcomes.items():
        print(f"{stage}: {dict(counts)}")
    return outcomes, wrong


def check(outcomes, wrong, count):
    """Nothing went wrong, and the mutants were neither all refused nor harmless."""
    assert not wrong, wrong
    assert sum(outcomes["inspect"].values()) == count
    for stage in STAGES:
        assert min(outcomes[stage]["ran"], outcomes[stage]["refused"]) > count / 100, stage
    assert outcomes["verify"]["refused"] > outcomes["verify"]["ran"] > 0


def test_a_sample_of_damaged_files(folder):
    check(*run_worker(folder, 0, 150, 400), 150)


@pytest.mark.slow
@pytest.mark.parametrize("first", [1000, 2000, 3000])
def test_damaged_files(folder, first):
    check(*run_worker(folder, first, 1000, 540), 1000)


def test_undamaged_files_pass_every_stage(folder):
    """What the mutants are refused for is their damage."""
    (folder / "work").mkdir(exist_ok=True)
    for path in folder.glob("*.tflite"):
        for stage, function in worker.stages(folder, path.stem, 0, path):
            if (path.stem, stage) not in (("foreign", "load reference"), ("foreign", "load tflm")):
                function()  # those two lack an operator that the foreign file uses


def test_a_crash_is_put_down_to_its_mutant(folder, monkeypatch):
    """The worker itself: a child that dies, one that hangs, one that eats all memory."""
    monkeypatch.setattr(worker, "SECONDS", 2)
    monkeypatch.setattr(worker, "stages", lambda folder, name, number, path: DEATHS[number])
    (folder / "work").mkdir(exist_ok=True)
    found = {r["number"]: r["outcome"] for r in worker.lives(folder, range(4))}
    assert found[0] == "ran"
    assert found[1] == "crash: signal SIGABRT"
    assert found[2] == "crash: signal SIGALRM"
    assert found[3].startswith("MemoryError")


DEATHS = {
    0: [("a stage", lambda: None)],
    1: [("a stage", lambda: (faulthandler.disable(), os.abort()))],  # no stack in the test's output
    2: [("a stage", lambda: exec("while True: pass"))],
    3: [("a stage", lambda: bytearray(2**40))],
}


def test_mutants_are_the_same_on_every_run_and_never_the_file_itself(folder):
    for number in range(60):
        name, content = worker.mutant(folder, number)
        assert (name, content) == worker.mutant(folder, number)
        assert content != (folder / f"{name}.tflite").read_bytes()


@pytest.mark.parametrize("change", sorted({f.__name__ for f in mutations.CHANGES}))
def test_every_kind_of_damage_applies(folder, change):
    """A change that never applies would be left out without a word."""
    rng, applied = random.Random(3), 0
    content = (folder / "joined_int4.tflite").read_bytes()
    for _ in range(40):
        model = flatbuffer.parse(content)
        try:
            getattr(mutations, change)(model, rng)
            applied += flatbuffer.serialize(model) != content
        except Exception:  # as in `mutate_structure`
            continue
    assert applied > 4
