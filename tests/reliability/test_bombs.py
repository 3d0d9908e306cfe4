"""Files that would take much more memory or time than their size suggests (`docs/security.md`).

Each goes through the command line in a child of 4 GiB and 30 seconds (`limited`).
"""

import ast
import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras import archives, saved_models
from faq_keras.plan import QuantPlan
from faq_keras.report.measurements import Measurements
from faq_keras.training import checkpoints, experiment, workdir
from tests import networks
from tests.reliability import limited
from tests.training import runs

MIB = 2**20


@pytest.fixture(scope="module")
def q():
    inputs = keras.Input((5, 5, 2))
    x = keras.layers.GlobalAveragePooling2D()(networks.conv_bn_relu(inputs, 3))
    model = networks.randomize(keras.Model(inputs, keras.layers.Dense(2)(x)))
    return faq_keras.apply(model, 8, calibration_data=networks.images(4, (5, 5, 2)))


def packed(q, path, **members):
    """The model as a file, with other members (by name without a suffix)."""
    q.save(path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content |= {name.replace("_", ".", 1): text for name, text in members.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    return path


def lists(count):
    """JSON of many empty lists, 24 bytes of memory for each of its own."""
    return b"[" + b"[]," * count + b"[]]"


# ----------------------------------------------------------------------------- `.keras` and plans


def test_json_bombs_are_refused_in_little_memory(q, tmp_path):
    bomb = lists(80 * MIB)  # 240 MiB in 240 kB: below the limit for weights and data
    config = packed(q, tmp_path / "c.keras", config_json=bomb)
    facts = packed(q, tmp_path / "m.keras", metadata_json=bomb)
    assert config.stat().st_size < 2 * MIB
    own = packed(q, tmp_path / "p.keras", **{"faq_preprocessing.json": bomb})
    plan = tmp_path / "plan.json"
    plan.write_bytes(b'{"format": ' + lists(16 * MIB) + b"}")
    commands = [["inspect", path] for path in (config, facts, own, plan)]
    train = ["train", "--config=smoke", f"--config.model={config}", "--dry_run"]
    outcomes = limited.commands(*commands, train, ["eval", "--config=smoke", config])
    for outcome, words in zip(outcomes, [*commands, train, ["eval"]], strict=True):
        message = limited.refusal(outcome, words[0])
        assert "16 MiB" in message or "16,777,216" in message, message
        assert outcome.seconds < 10


def test_the_limit_lies_above_the_largest_networks_of_keras():
    """EfficientNetV2L has 1,028 layers."""
    model = keras.applications.EfficientNetV2S(weights=None, input_shape=(32, 32, 3))
    size = len(model.to_json()) * 1028 / len(model.layers)
    assert 4 * size < archives.MOST_JSON


def test_many_brackets_are_no_recursion(q, tmp_path):
    path = packed(q, tmp_path / "d.keras", config_json=b"[" * MIB)
    with pytest.raises(ValueError, match="not a readable Keras model"):
        saved_models.load_keras(path)


# ------------------------------------------------------------------------------- one door for all


@pytest.fixture(params=["bomb", "outside", "twice", "torn"])
def refused(request, q, tmp_path):
    """A `.keras` file that Keras itself would open, and what it is refused for."""
    path = tmp_path / "bad.keras"
    if request.param == "bomb":
        return packed(q, path, metadata_json=lists(6 * MIB)), "MiB"
    if request.param == "outside":
        return packed(q, path, **{"../x": b""}), "points out"
    packed(q, path)
    if request.param == "torn":
        path.write_bytes(path.read_bytes()[:-30])
        return path, "truncated"
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("config.json", "{}")
    return path, "several members"


def test_measurements_of_a_report_go_through_the_check(refused, q, tmp_path):
    path, reason = refused
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    path.rename(folder / "model.keras")
    q.save(folder / "start.keras")
    measured = Measurements(folder, lambda count: None)
    for what in (measured.similarity, measured.activations, measured.deployment):
        with pytest.raises(ValueError, match=rf"model\.keras.*{reason}"):
            what()


def test_provenance_of_a_report_goes_through_the_check(refused, tmp_path):
    from faq_keras.report import run_report, sections

    path, reason = refused
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    path.rename(folder / "model.keras")
    del sections
    document = run_report.run_report(folder, lambda run, count: None, measure=False)
    (part,) = (part for part in document.sections if part.name == "provenance")
    assert reason in json.dumps(part.to_dict())


@pytest.mark.parametrize("name", ["start.keras", "pretraining/model.keras"])
def test_a_training_goes_through_the_check(refused, tmp_path, name):
    path, reason = refused
    folder = tmp_path / "run"
    (folder / name).parent.mkdir(parents=True)
    path.rename(folder / name)
    (folder / "config.json").write_text("{}")
    if name == "start.keras":
        (folder / "result.json").write_text('{"status": "running", "epochs": 2}')
    with pytest.raises(ValueError, match=reason):
        experiment.run(runs.experiment(), str(folder), {}, resume=True)


def test_nobody_else_opens_keras_files_and_archives():
    """`load_model` of Keras and `zipfile` are used in one module each."""
    root, found = Path(faq_keras.__file__).parent, set()
    places = [root, *(place for place in root.iterdir() if place.is_dir())]
    for path in (path for place in places for path in place.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("load_model", "ZipFile"):
                owner = ast.unparse(node.value)
                if owner in ("keras.saving", "keras.models", "zipfile"):
                    found.add((path.relative_to(root).as_posix(), node.attr))
    assert found == {
        ("saved_models.py", "load_model"),
        ("archives.py", "ZipFile"),
        ("converters/zoo.py", "ZipFile"),  # adds a member to a file that was just written
    }


# ---------------------------------------------------------------------------------- texts of a run


@pytest.mark.parametrize(
    "read",
    [
        QuantPlan.load,
        workdir.read_json,
        workdir.read_metrics,
        lambda path: checkpoints.load(path),
    ],
    ids=["plan", "json", "metrics", "checkpoint"],
)
def test_texts_of_a_run_are_limited(read, tmp_path):
    path = tmp_path / "text"
    text = b'{"a": ' + lists(6 * MIB) + b"}\n"
    if read is not QuantPlan.load and "lambda" in read.__name__:
        with path.open("wb") as file:
            np.savez_compressed(file, **{"meta.json": np.frombuffer(text, np.uint8)})
    else:
        path.write_bytes(text)
    with pytest.raises(ValueError, match="16 MiB"):
        read(path)
