"""`faq reproduce` from the command line: what is run, what is written, how it ends."""

import json
import signal
import subprocess
import sys

import pytest

from faq_keras.cli import experiments
from faq_keras.training.interruption import Interrupted


@pytest.fixture
def trained(monkeypatch):
    """Replaces the trainings; gives the configurations that were to be run, by folder."""
    seen = {}

    def train(config, folder, resume):
        assert resume
        seen[f"{folder.parent.name}/{folder.name}"] = config
        if config.seed == 13:
            raise Interrupted(signal.SIGTERM, "Stopped by signal 15.")
        folder.mkdir(parents=True)
        (folder / "model.keras").write_bytes(b"")
        (folder / "config.json").write_text(config.to_json_best_effort())
        figures = {"accuracy": 0.5, "top5": 0.9}
        result = {"status": "finished", "epochs": 1, "seconds": 1.0}
        result |= dict.fromkeys(("float", "quantized", "trained"), figures)
        (folder / "result.json").write_text(json.dumps(result))

    monkeypatch.setattr(experiments, "trained", train)
    return seen


def test_a_table_is_printed_and_written_with_its_command(faq, trained, tmp_path):
    arguments = ("table2", f"--workdir={tmp_path}", "--scale=small", "--seeds=1,2")
    outcome = faq("reproduce", *arguments, "--data_dir=/data/fashion-mnist")
    assert outcome.status == 0, outcome.err
    assert "50.00 ± 0.00 (2 seeds)" in outcome.out
    assert {config.data.data_dir for config in trained.values()} == {"/data/fashion-mnist"}
    assert trained["standard/seed2"].weights.endswith("small/pretrained/seed1/model.keras")
    page = (tmp_path / "table2_small.html").read_text()
    assert "faq reproduce table2 --scale=small --data_dir=fashion-mnist --seeds=1,2" in page
    assert json.loads((tmp_path / "table2_small.json").read_text())["seeds"] == [1, 2]
    assert "| not pretrained | 69.24 |" in (tmp_path / "table2_small.md").read_text()


def test_weights_are_a_folder_or_a_file(faq, trained, tmp_path):
    arguments = ("reproduce", "table1", f"--workdir={tmp_path}", "--scale=full")
    done = faq(*arguments, f"--weights={tmp_path}", "--rows=resnet50_w8a8", "--data_dir=d")
    assert done.status == 0
    assert trained["resnet50_w8a8/seed1"].weights == str(tmp_path / "resnet50.pth")
    arguments = ("reproduce", "cifar10", f"--workdir={tmp_path}", "--scale=small")
    assert faq(*arguments, "--weights=mine.pth", "--data_dir=d").status == 0
    assert trained["w4a4/seed2"].weights == "mine.pth"


def test_an_interruption_still_writes_what_there_is(faq, trained, tmp_path):
    outcome = faq("reproduce", "table2", f"--workdir={tmp_path}", "--seeds=1,13")
    assert outcome.status == 128 + signal.SIGTERM
    assert "Stopped by signal 15" in outcome.err
    text = (tmp_path / "table2_smoke.md").read_text()
    assert "50.00 (1 seed)" in text
    assert "seed 13: not run" in text


def test_weights_that_are_missing_fail_their_row_only(faq, tmp_path):
    outcome = faq(
        *("reproduce", "table1", f"--workdir={tmp_path}", "--scale=full"),
        *("--rows=resnet18_w8a8", f"--data_dir={tmp_path}"),
    )
    assert outcome.status == 1
    assert "FAQ W8A8, seed 1: failed (" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table3", "--workdir=w"), "no 'table3' to reproduce; there are table1, table2"),
        (("table1",), "--workdir is missing"),
        (("table2", "--workdir=w", "--rows=standart"), "No row is called standart"),
        (("table2", "--workdir=w", "--seeds=one"), "--seeds takes whole numbers: one"),
        (("table2", "--workdir=w", "--scale=huge"), "--scale=huge"),
    ],
)
def test_mistakes_are_named(refused, arguments, message):
    assert message in refused("reproduce", *arguments)


@pytest.mark.slow
def test_figure_1_on_embedded_images_goes_on_after_a_kill(tmp_path):
    command = [sys.executable, "-m", "faq_keras", "reproduce", "figure1", "--scale=smoke"]
    command.append(f"--workdir={tmp_path}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 3/8"):
                process.kill()
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "taking over" in done.stderr
    data = json.loads((tmp_path / "figure1_smoke.json").read_text())
    assert data["sections"]["figure-1"]["notices"] == []
    assert (tmp_path / "figure1_smoke_noise-over-layers.svg").stat().st_size > 1000
