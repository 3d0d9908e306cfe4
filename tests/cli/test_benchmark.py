"""faq benchmark: the line that existing parsers read, and the figures as JSON."""

import json
import re


def test_prints_benchmark_models_line(faq, files, tmp_path):
    figures = tmp_path / "latency.json"
    outcome = faq("benchmark", files["int4"], "--num_runs=5", f"--json={figures}")
    assert outcome.status == 0
    assert re.search(
        r"Inference timings in us: Init: \d+, First inference: \d+, "
        r"Warmup \(avg\): [\d.e+]+, Inference \(avg\): [\d.e+]+",
        outcome.out,
    )
    assert json.loads(figures.read_text())["num_runs"] == 5


def test_missing_file_is_one_sentence(faq):
    outcome = faq("benchmark", "nowhere.tflite")
    assert outcome.status == 1
    assert "nowhere.tflite" in outcome.err
    assert "Traceback" not in outcome.err
