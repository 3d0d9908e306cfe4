"""Ordinary mistakes on the command line: nothing is lost, and one sentence says what to do."""

import time
import urllib.error
from importlib import metadata

import keras
import pytest

import faq_keras
from faq_keras.data import datasets


@pytest.mark.parametrize("link", [False, True])
def test_unpacking_a_file_onto_itself_is_refused(refused, files, tmp_path, link):
    path = tmp_path / "m.tflite"
    with open(files["int4"], "rb") as source:
        content = source.read()
    path.write_bytes(content)
    target = tmp_path / "other.tflite" if link else path
    if link:
        target.symlink_to(path)
    assert "is the packed file itself" in refused("unpack", path, target)
    assert path.read_bytes() == content
    with pytest.raises(ValueError, match="is the packed file itself"):
        faq_keras.tflite.unpack(path, target)


@pytest.mark.parametrize("name", ["n" * 240, "n" * 247, "\u732b" * 80])
def test_a_name_without_room_for_its_card_is_refused_before_it_is_written(
    refused, files, tmp_path, name
):
    error = refused("export", files["model"], f"--output={tmp_path}/{name}.tflite")
    assert "is too long by" in error and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["n" * 239, "a\udcff\udc80b", "a\x1bb"])
def test_other_names_have_their_cards(files, tmp_path, name):
    q = keras.saving.load_model(files["model"])
    faq_keras.export_tflite(q, tmp_path / f"{name}.tflite", verify=None)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md", ".tflite"]


def test_all_of_what_keras_says_is_shown(faq, files, tmp_path):
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    other.save_weights(tmp_path / "w.weights.h5")
    outcome = faq(
        "train", "--config=smoke", f"--config.model={files['float']}", "--dry_run",
        f"--config.weights={tmp_path}/w.weights.h5",
    )  # fmt: skip
    assert outcome.status == 1 and "Traceback" not in outcome.err
    assert "do not fit" in outcome.err and len(outcome.err) > 120


@pytest.mark.parametrize(
    "model", ["os:system", "os:getcwd", "os:nothing", "nothing:x", "math:sqrt", ":", "a:"]
)
def test_functions_that_build_no_model_are_named(faq, model):
    outcome = faq("train", "--config=smoke", f"--config.model={model}", "--dry_run")
    assert outcome.status == 1 and outcome.err.startswith("faq train: error: ")
    assert repr(model) in outcome.err or f"{model} gives a str" in outcome.err


def test_the_version(faq):
    for word in ("--version", "version"):
        outcome = faq(word)
        assert outcome.status == 0
        assert outcome.out == f"faq_keras {metadata.version('faq_keras')}\n"


def test_reproducing_in_full_says_once_what_it_needs(refused, tmp_path):
    words = ("reproduce", "table2", "--scale=full", f"--workdir={tmp_path / 'w'}")
    error = refused(*words)
    assert "--data_dir=FOLDER" in error and error.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_quickstart_without_a_network_does_not_wait(monkeypatch):
    def never():
        raise AssertionError("Keras would try for most of a minute")

    def offline(*_, timeout, **__):
        assert timeout <= 5
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(datasets, "_find_fashion_mnist", lambda: None)
    monkeypatch.setattr(datasets.urllib.request, "urlopen", offline)
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", never)
    start = time.process_time()
    assert datasets.load("auto").name == "mnist5k" and time.process_time() - start < 20
    with pytest.raises(ValueError, match=r"no route to host.*--dataset=mnist5k"):
        datasets.load("fashion_mnist")


def test_eval_reads_h5_files(faq, tmp_path):
    inputs = keras.Input((28, 28, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    keras.Model(inputs, keras.layers.Dense(10)(x)).save(tmp_path / "m.h5")
    outcome = faq("eval", "--config=smoke", tmp_path / "m.h5")
    assert outcome.status == 0, outcome.err
    assert "500 validation images" in outcome.out
