"""`faq quickstart` as a user starts it: a table, a picture, models and files that are exact."""

import json
import subprocess
import sys
import time

import keras
import pytest

from faq_keras.cli.quickstart import small_resnet
from faq_keras.tflite import load

MODELS = ("w8a8", "w4a8", "w4a4")


def test_the_network_is_as_small_as_it_says():
    assert small_resnet((28, 28, 1), 10).count_params() == pytest.approx(78_000, abs=1000)


@pytest.mark.slow
def test_the_quickstart_on_the_embedded_images(tmp_path):
    command = [sys.executable, "-m", "faq_keras", "quickstart"]
    flags = ["--dataset=mnist5k", f"--workdir={tmp_path}"]
    start = time.perf_counter()
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=1800)
    print(f"{done.stdout}\n{time.perf_counter() - start:.0f} s")
    assert done.returncode == 0, done.stderr

    results = json.loads((tmp_path / "results.json").read_text())
    names = ["pretrained", "fp32 control", "W8A8", "W4A8", "W4A4"]
    assert [row["model"] for row in results] == names
    for row in results:
        assert row["accuracy"] > 90
        assert row["model"] in done.stdout
        assert f"{row['accuracy']:.2f} %" in done.stdout
    for row in results[2:]:
        assert row["mismatches"] == 0
        assert row["values"] > 1_000_000
        assert row["milliseconds"] > 0
    assert results[3]["file_bytes"] < 0.7 * results[2]["file_bytes"]

    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    for name in MODELS:
        assert (tmp_path / f"{name}.model_card.md").exists()
        assert load(tmp_path / f"{name}.tflite").file.metadata["weight_bits"] == int(name[1])
        trained = keras.saving.load_model(tmp_path / name / "model.keras")
        assert trained.count_params() > 0
        assert (tmp_path / name / "metrics.jsonl").read_text().strip()
        assert (tmp_path / name / "plan.json").exists()
