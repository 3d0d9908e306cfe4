"""Nothing that a command names by itself is written through a link (`docs/security.md`).

A folder from elsewhere may hold links to files of its reader's. Every file that a command, an
export or a training names by itself replaces such a link or is refused; paths that a user names are
followed.
"""

import ast
import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras import files
from faq_keras.cli.main import dispatch
from faq_keras.training import experiment, workdir
from tests import networks
from tests.training import runs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links of posix")
ROOT = Path(files.__file__).parent


@pytest.fixture
def victim(tmp_path):
    """A file and a folder that have to stay as they are."""
    folder = tmp_path / "home"
    folder.mkdir()
    file = folder / "precious.txt"
    file.write_text("mine")
    yield file
    assert file.read_text() == "mine"
    assert [path.name for path in folder.iterdir()] == ["precious.txt"]


@pytest.fixture
def folder(tmp_path):
    """A folder of a run, as small as one can be."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.json").write_text('{"bits": 4}')
    (path / "metrics.jsonl").write_text('{"epoch": 0, "val_accuracy": 0.5, "loss": 1.0}\n')
    return path


@pytest.fixture(scope="module")
def q():
    inputs = keras.Input((5, 5, 2))
    x = keras.layers.GlobalAveragePooling2D()(networks.conv_bn_relu(inputs, 3))
    model = networks.randomize(keras.Model(inputs, keras.layers.Dense(2)(x)))
    return faq_keras.apply(model, 8, calibration_data=networks.images(4, (5, 5, 2)))


# ---------------------------------------------------------------------------------- the one place


def test_a_link_is_replaced_and_what_it_names_stays(tmp_path, victim):
    link = tmp_path / "report.html"
    link.symlink_to(victim)
    with files.atomic_write(link, within=tmp_path) as partial:
        partial.write_text("new")
    assert not link.is_symlink() and link.read_text() == "new"


@pytest.mark.parametrize("parts", [("a", "x.txt"), ("a", "b", "x.txt")])
def test_a_folder_that_is_a_link_is_refused(tmp_path, victim, parts):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a").symlink_to(victim.parent)
    path = (tmp_path / "own").joinpath(*parts)
    refused = pytest.raises(files.LinkError, match=r"own/a is a link to .*home")
    with refused, files.atomic_write(path, within=tmp_path / "own"):
        raise AssertionError


def test_the_folder_that_the_user_names_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with files.atomic_write(tmp_path / "link" / "x.txt", within=tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "disk" / "x.txt").read_text() == "new"


@pytest.mark.parametrize("kind", ["symbolic", "dangling", "hard"])
def test_logs_are_not_continued_through_links(tmp_path, victim, kind):
    log = tmp_path / "metrics.jsonl"
    if kind == "hard":
        log.hardlink_to(victim)
    else:
        log.symlink_to(victim if kind == "symbolic" else victim.parent / "new")
    for write in (files.drop_torn_line, lambda path: files.append_line(path, "x")):
        with pytest.raises(files.LinkError, match=r"metrics\.jsonl is a link|several names"):
            write(log)


# Functions that write to a path that a caller or user names, so that links are followed.
NAMED = {
    "deployment.export_tflite", "deployment.export_onnx", "plan.save", "cli.common.write_text",
    "cli.convert.main", "cli.reconstruct.main",
    "cli.convert._save", "training.estimates.plot_schedules",
    "training.checkpoints._write",
    "converters.qdq.write", "converters.keras_to_onnx.to_onnx", "tflite.loader.unpack",
    "tflite.picture.draw", "tflite.writer.write", "tflite.devices.chart.bar_chart",
    "diagnostics.gradient_noise._take_up_file", "report.pictures.save",
    "training.workdir.write_json",
}  # fmt: skip


def test_every_writer_says_whose_path_it_is():
    """Who writes a file has to decide: `within` for a name of our own, or an entry in NAMED."""
    found = set()
    paths = [p for place in [ROOT, *ROOT.iterdir()] if place.is_dir() for p in place.glob("*.py")]
    paths += (ROOT / "tflite" / "devices").glob("*.py")
    for path in paths:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in ast.walk(function):
                name = getattr(getattr(call, "func", None), "id", "")
                if name == "atomic_write" and not any(k.arg == "within" for k in call.keywords):
                    found.add(f"{module}.{function.name}")
    assert found == NAMED


# --------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("suffix", [".html", ".md", ".json"])
def test_a_report_replaces_links(folder, victim, suffix, capsys):
    (folder / f"report{suffix}").symlink_to(victim)
    assert dispatch(["report", str(folder), "--nomeasure"]) == 0
    assert not (folder / f"report{suffix}").is_symlink()


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_pictures_of_a_report_replace_links(folder, victim, suffix, capsys):
    link = folder / f"report_training-curves{suffix}"
    link.symlink_to(victim)
    assert dispatch(["report", str(folder), "--nomeasure", "--pictures"]) == 0
    assert link.is_file() and not link.is_symlink()


def test_a_folder_of_measurements_that_is_a_link_is_named(folder, victim, capsys):
    for name in ("start.keras", "model.keras"):
        networks.tiny_resnet().save(folder / name)
    (folder / "measured").symlink_to(victim.parent)
    assert dispatch(["report", str(folder)]) == 0
    assert "measured is a link to" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.tflite", "model.model_card.md", "weight_similarity.json"])
def test_measurements_replace_links(folder, victim, q, name):
    from faq_keras.report.measurements import Measurements

    for file in ("start.keras", "model.keras"):
        q.save(folder / file)
    (folder / "measured").mkdir()
    (folder / "measured" / name).symlink_to(victim)
    images = networks.images(4, (5, 5, 2))
    measured = Measurements(folder, lambda count: (images, np.zeros(4, np.int64)), 4, ("xnnpack",))
    assert measured.similarity()["network"] > 0.99
    assert measured.deployment()["parity"]["mismatches"] == 0
    assert not (folder / "measured" / name).is_symlink()


def test_runs_behind_links_are_left_out_and_named(folder, victim, tmp_path, capsys):
    (victim.parent / "config.json").write_text("{}")
    (tmp_path / "all").mkdir()
    folder.rename(tmp_path / "all" / "own")
    (tmp_path / "all" / "other").symlink_to(victim.parent)
    assert dispatch(["report", str(tmp_path / "all")]) == 0
    assert "other is a link to another folder" in capsys.readouterr().out
    (victim.parent / "config.json").unlink()


@pytest.mark.parametrize("suffix", [".json", ".md"])
def test_a_model_card_replaces_links(q, tmp_path, victim, suffix):
    card = tmp_path / f"m.model_card{suffix}"
    card.symlink_to(victim)
    faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=None)
    assert card.is_file() and not card.is_symlink()


def test_a_file_that_the_user_names_is_followed(q, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "m.tflite").symlink_to(tmp_path / "disk" / "real.tflite")
    faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=None)
    assert (tmp_path / "m.tflite").is_symlink() and (tmp_path / "disk" / "real.tflite").is_file()


TRAINING = [
    "lock", "config.json", "result.json", "metrics.jsonl", "gradient_noise.jsonl", "plan.json",
    "start.keras", "model.keras", "checkpoints/last.npz", "checkpoints/best.keras",
    "pretraining/model.keras", "tensorboard/x", "tensorboard", "checkpoints", "pretraining",
]  # fmt: skip


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_refuses_a_folder_with_links(tmp_path, victim, name):
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(victim.parent if "." not in name and name != "lock" else victim)
    with pytest.raises(workdir.WorkdirError, match=rf"run/{name} is a link to .*home"):
        experiment.run(runs.experiment(), str(tmp_path / "run"), {}, resume=True)
    with pytest.raises(files.LinkError, match=rf"run/{name} is a link to .*home"):
        faq_keras.fine_tune(None, None, workdir=tmp_path / "run")


def test_a_lock_with_several_names_is_refused(tmp_path, victim):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").hardlink_to(victim)
    with pytest.raises(workdir.WorkdirError, match="several names"):
        experiment.run(runs.experiment(), str(tmp_path / "run"), {}, resume=True)


@pytest.mark.parametrize("command", ["quickstart", "reproduce"])
def test_commands_with_a_folder_of_their_own_refuse_links(tmp_path, victim, command, capsys):
    (tmp_path / "run" / "smoke").mkdir(parents=True)
    (tmp_path / "run" / "smoke" / "w4a4").symlink_to(victim.parent)
    words = ["table2"] if command == "reproduce" else []
    assert dispatch([command, *words, f"--workdir={tmp_path / 'run'}"]) == 1
    assert "smoke/w4a4 is a link to" in capsys.readouterr().err


def test_a_card_is_json(q, tmp_path):
    faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=None)
    assert json.loads((tmp_path / "m.model_card.json").read_text())["file"] == "m.tflite"
