"""faq benchmark: the line that existing parsers read, comparisons, JSON, charts, errors."""

import json
import re

import pytest

LINE = (
    r"Inference timings in us: Init: \d+, First inference: \d+, "
    r"Warmup \(avg\): [\d.e+]+, Inference \(avg\): [\d.e+]+"
)


def test_prints_benchmark_models_line(faq, files, tmp_path):
    figures = tmp_path / "latency.json"
    outcome = faq("benchmark", files["int4"], "--num_runs=5", f"--json={figures}")
    assert outcome.status == 0
    assert re.search(LINE, outcome.out)
    assert re.search(r"Peak memory: [\d,]+ bytes", outcome.out)
    facts = json.loads(figures.read_text())
    assert facts["num_runs"] == 5 and facts["peak_memory_bytes"] > 0
    assert facts["device"] == "local" and facts["cycles"] is None


def test_several_files_are_compared(faq, files, tmp_path):
    figures, picture = tmp_path / "all.json", tmp_path / "all.svg"
    outcome = faq(
        "benchmark", files["int8"], files["int4"], "--num_runs=3",
        f"--json={figures}", f"--chart={picture}",
    )  # fmt: skip
    assert outcome.status == 0
    assert len(re.findall(LINE, outcome.out)) == 2
    assert "to the first" in outcome.out and "1.000" in outcome.out
    facts = json.loads(figures.read_text())
    assert [fact["path"] for fact in facts] == [files["int8"], files["int4"]]
    assert "int8.tflite" in picture.read_text() and "int4.tflite" in picture.read_text()


def test_devices_are_compared(faq, files, tmp_path):
    figures = tmp_path / "all.json"
    outcome = faq("benchmark", files["int8"], "--device=tflm,vela", f"--json={figures}")
    assert outcome.status == 0
    tflm, vela = json.loads(figures.read_text())
    assert tflm["arena_bytes"] > 0 and vela["cycles"] > 0
    assert tflm["mean_us"] > 0 and vela["mean_us"] is None
    assert "not of a microcontroller" in outcome.out and "Estimate: " in outcome.out
    assert len(re.findall(LINE, outcome.out)) == 1  # Vela runs nothing: no line is made up


def test_a_profile_lists_operators(faq, files):
    outcome = faq("benchmark", files["int4"], "--num_runs=2", "--profile")
    assert outcome.status == 0
    assert re.search(r"Per operator \(\d+, sum [\d.,]+ us\):", outcome.out)
    assert re.search(r"[\d.]+ us +[\d.]+%  CONV_2D  ", outcome.out)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--device=toaster",), ("Unknown device 'toaster'", "ssh:HOST")),
        (("--device=local,ssh",), ("'ssh' needs a target",)),
        (("--device=",), ("--device names no device",)),
        (("--device=vela", "--vela_config=x"), ("'x'", "ethos-u55-128")),
        (("--device=tflm", "--profile"), ("'tflm' cannot honour profile=True",)),
        (("--chart=m.txt",), ("--chart=m.txt", ".png")),
        (("--json={tmp}/none/x.json",), ("none/x.json", "folder does not exist")),
        (("--chart={tmp}/none/x.png",), ("none/x.png", "folder does not exist")),
        (("--num_runs=0",), ("num_runs",)),
    ],
)
def test_errors_come_before_any_measurement(refused, files, tmp_path, flags, words):
    message = refused("benchmark", files["int8"], *(flag.format(tmp=tmp_path) for flag in flags))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("device", "tool"), [("adb", "adb"), ("ssh:pi", "ssh"), ("coral", "int16")]
)
def test_tools_that_are_missing_are_named(refused, files, tmp_path, monkeypatch, device, tool):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool in refused("benchmark", files["int8"], f"--device={device}")


def test_no_file_is_one_sentence(refused):
    assert "FILE [FILE...]" in refused("benchmark")


def test_missing_file_is_one_sentence(faq):
    outcome = faq("benchmark", "nowhere.tflite")
    assert outcome.status == 1
    assert "nowhere.tflite" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("name", ["int4", "model"])
def test_inspect_draws_what_it_shows(faq, files, tmp_path, name):
    path = tmp_path / "net.dot"
    outcome = faq("inspect", files[name], f"--picture={path}")
    assert outcome.status == 0 and f"Wrote {path}" in outcome.out
    assert path.read_text().startswith("digraph ") and "CONV_2D" in path.read_text()


@pytest.mark.parametrize(
    ("name", "picture", "words"),
    [
        ("plan", "net.svg", "is a plan"),
        ("int4", "net.gif", "net.gif is no picture"),
        ("model", "net.gif", "net.gif is no picture"),
    ],
)
def test_inspect_refuses_other_pictures(refused, files, tmp_path, name, picture, words):
    assert words in refused("inspect", files[name], f"--picture={tmp_path / picture}")
    assert not list(tmp_path.iterdir())
