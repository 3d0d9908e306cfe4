"""`faq verify` with labels and runtimes; `faq setup`."""

import json
from importlib import metadata

import keras
import numpy as np
import pytest

from faq_keras.tflite import emulation
from tests.networks import images


@pytest.fixture(scope="module")
def labelled(files, tmp_path_factory):
    """Images with labels of which Keras' logits have three in four right."""
    x = images(8, seed=5)
    labels = keras.saving.load_model(files["model"]).predict(x, verbose=0).argmax(axis=1)
    labels[::4] = (labels[::4] + 1) % 5
    path = tmp_path_factory.mktemp("data") / "labelled.npz"
    np.savez(path, x=x, y=labels)
    return str(path)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_labels_add_accuracy_for_each_runtime(faq, files, labelled, tmp_path, weights):
    report = tmp_path / "report.json"
    flags = (f"--data={labelled}", "--runtimes=xnnpack,tflm", f"--json={report}")
    outcome = faq("verify", files["model"], files[weights], *flags)
    assert outcome.status == 0
    assert "top-1 75.00 %, Keras 75.00 %" in outcome.out
    xnnpack, tflm = json.loads(report.read_text())["runs"]
    assert xnnpack["top1"] == xnnpack["expected_top1"] == tflm["expected_top1"] == 0.75
    assert f"top-1 {100 * tflm['top1']:.2f} %" in outcome.out
    assert xnnpack["mismatches"] == tflm["mismatches"] == 0


def test_without_labels_there_is_no_accuracy(faq, files, tmp_path):
    outcome = faq("verify", files["model"], files["int8"], f"--data={files['data']}")
    assert outcome.status == 0 and "top-1" not in outcome.out
    np.save(tmp_path / "x.npy", images(2))
    outcome = faq("verify", files["model"], files["int8"], f"--data={tmp_path / 'x.npy'}")
    assert outcome.status == 0 and "top-1" not in outcome.out


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3, int), "There are 3 labels for 8 images."),
        (np.full(8, 5), "Labels must lie in 0..4, the model's classes; received 5 to 5."),
        (np.eye(8), "Labels must be integers [images]; received float64 [8, 8]."),
    ],
)
def test_labels_that_do_not_fit_are_refused(refused, files, tmp_path, labels, message):
    np.savez(tmp_path / "x.npz", x=images(8), y=labels)
    error = refused("verify", files["model"], files["int8"], f"--data={tmp_path / 'x.npz'}")
    assert message in error


def test_a_runtime_that_is_not_installed_names_the_command(refused, files, tmp_path, monkeypatch):
    monkeypatch.setenv(emulation.FOLDER_VARIABLE, str(tmp_path / "none"))
    error = refused(
        "verify", files["model"], files["int8"], f"--data={files['data']}", "--runtimes=aarch64"
    )
    assert "Run `faq setup aarch64`" in error


def test_setup_refuses_what_it_does_not_know(refused):
    assert "nothing called 'riscv' to set up; expected aarch64" in refused("setup", "riscv")
    assert "expected the arguments: aarch64" in refused("setup")


def test_setup_refuses_a_folder_with_other_contents(faq, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    outcome = faq("setup", "aarch64", f"--folder={tmp_path}")
    assert outcome.status == 1
    assert outcome.err.startswith(f"faq setup: error: '{tmp_path}' exists and is no installation")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_setup_keeps_what_is_complete(faq, tmp_path):
    here = {name: metadata.version(name) for name in ("ai-edge-litert", "numpy")}
    (tmp_path / emulation.FACTS).write_text(json.dumps({"versions": here}))
    outcome = faq("setup", "aarch64", f"--folder={tmp_path}")
    assert outcome.status == 0
    assert "is complete already" in outcome.out
    assert f"ai-edge-litert {here['ai-edge-litert']}" in outcome.out
    assert f"export FAQ_AARCH64={tmp_path}" in outcome.out
