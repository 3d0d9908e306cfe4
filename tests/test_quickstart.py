"""`faq quickstart` as a user starts it: a table, a picture, models and files that are exact."""

import itertools
import json
import subprocess
import sys
import time

import keras
import pytest

from faq_keras.cli.quickstart import small_resnet
from faq_keras.tflite import load
from tests.material import cifar10_images, write_cifar10

MODELS = ("w8a8", "w4a8", "w4a4", "w4a4_fine_tuned")


@pytest.fixture
def cifar10_folder(data_dir, tmp_path):
    """CIFAR-10 as its authors publish it, of 5 x 40 training images and 40 test images."""
    images, labels = cifar10_images(data_dir, "test", 240)
    cuts = itertools.pairwise(range(0, 241, 40))
    return write_cifar10(tmp_path, [(images[a:b], labels[a:b]) for a, b in cuts])


def test_the_network_is_as_small_as_it_says():
    assert small_resnet((28, 28, 1), 10).count_params() == pytest.approx(78_000, abs=1000)


def quickstart(workdir, *flags):
    """Runs the command in a process of its own; returns the rows of its results.json."""
    command = [sys.executable, "-m", "faq_keras", "quickstart", f"--workdir={workdir}", *flags]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    print(f"{done.stdout}\n{time.perf_counter() - start:.0f} s")
    assert done.returncode == 0, done.stderr
    results = json.loads((workdir / "results.json").read_text())
    for row in results:
        assert row["model"] in done.stdout
        assert f"{row['accuracy']:.2f} %" in done.stdout
    return results


def check_results(results, workdir):
    """Rows of the table, and the files that belong to them."""
    names = ["pretrained", "W8A8", "W4A8", "W4A4", "fp32 control", "W4A4 fine-tuned"]
    assert [row["model"] for row in results] == names
    for row in (*results[1:4], results[5]):
        assert row["mismatches"] == 0
        assert row["values"] > 1_000_000
        assert row["milliseconds"] > 0
    assert results[2]["file_bytes"] < 0.7 * results[1]["file_bytes"]

    assert (workdir / "results.png").read_bytes().startswith(b"\x89PNG")
    for name in MODELS:
        assert (workdir / f"{name}.model_card.md").exists()
        assert load(workdir / f"{name}.tflite").file.metadata["weight_bits"] == int(name[1])
    trained = workdir / MODELS[-1]
    assert keras.saving.load_model(trained / "model.keras").count_params() > 0
    assert (trained / "metrics.jsonl").read_text().strip()
    assert (trained / "plan.json").exists()


@pytest.mark.slow
def test_the_quickstart_on_the_embedded_images(tmp_path):
    results = quickstart(tmp_path, "--dataset=mnist5k")
    check_results(results, tmp_path)
    assert all(row["accuracy"] > 90 for row in results)


@pytest.mark.slow
def test_the_quickstart_on_a_folder_of_cifar10(cifar10_folder, tmp_path):
    """Too few images to learn from: the network has to fit and the files to be exact."""
    workdir = tmp_path / "run"
    results = quickstart(workdir, "--dataset=cifar10", f"--data_dir={cifar10_folder}")
    check_results(results, workdir)
    assert load(workdir / "w4a4.tflite").file.metadata["tensors"][0]["shape"][1:] == [32, 32, 3]
