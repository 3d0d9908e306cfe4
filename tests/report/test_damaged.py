"""Folders of runs damaged in every way: a report is written, and the damage is named in it."""

import json
import random
import re
import shutil
import time

import pytest

from faq_keras.cli import report
from faq_keras.cli.main import dispatch
from faq_keras.report.runs import read_run
from tests.report.conftest import rewrite

FILES = [
    "config.json", "result.json", "plan.json", "metrics.jsonl", "gradient_noise.jsonl",
    "measured/weight_similarity.json", "measured/activations.json", "measured/deployment.json",
    "start.keras", "model.keras",
]  # fmt: skip
DEEP = '{"a":' * 3000 + "1" + "}" * 3000
RAW = [
    "", " ", "null", "[]", "3", '"x"', "{", "{}", "[[]]", "true", "\x00", "\ufeff{}", "NaN",
    "1e999", "9" * 400, "9" * 5000, DEEP, "[" * 200_000, '{"a": ' * 90_000, "{}\n{}\n[]\n3\nnull\n",
    '{"epoch": 1e999}\n{"step": 1e999}\n', '{"epoch": ' + "9" * 400 + "}\n", '{"epoch": -1}\n',
    '{"epoch": null}\n', '{"epoch": "0"}\n', '{"epoch": 0.5}\n', '{"epoch": true}\n',
    '{"epoch": 0, "layers": []}\n', '{"epoch": 0, "layers": {"a": []}}\n',
    '{"step": 5, "layers": 3}\n',
    '{"epoch": 10000000000000000000000}\n', '{"epoch": 0, "val_accuracy": 1e308, "loss": -1e308}\n',
    '{"epoch": 0, "val_accuracy": [1], "loss": {}}\n', '{"epoch": 0, "\\ud800": 1}\n',
    '{"step": 1, "layers": {"$\\\\frac{$": 0.5, "\\ud800\\u0000\\u001b": null, "": 1}}\n',
]  # fmt: skip
VALUES = [
    None, True, -1, 0, 3.5, 1e300, float("inf"), float("nan"), 10**400, -(10**30), "", "x", [], {},
    [1], {"a": 1}, [[]], "\ud800", "\x00\x1b[2J", "$\\frac{$", "<script>", "x" * 100_000,
    [None] * 50,
    {"a": {"b": {"c": {}}}}, "../../x", 2**63, "1", ["a", {}],
]  # fmt: skip


def changed(value, rng):
    """A copy of a JSON value with one part replaced, dropped, renamed or doubled."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        copy = value.copy()
        key = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
        what = rng.random()
        if what < 0.1:
            del copy[key]
        elif what < 0.2 and isinstance(copy, dict):
            copy[rng.choice(["\ud800", "$\\frac{$", "\x00", "", "x\ny", "_a"])] = copy.pop(key)
        elif what < 0.2:
            copy.append(copy[key])
        else:
            copy[key] = changed(copy[key], rng)
        return copy
    return rng.choice(VALUES)


def damage(path, rng):
    """Damages one file: its bytes, its text or what it says."""
    content = path.read_bytes()
    kind = rng.random()
    if kind < 0.1:
        path.unlink()
    elif kind < 0.15:
        path.unlink()
        path.mkdir()
    elif kind < 0.25 or path.suffix == ".keras":
        start = rng.randrange(len(content))
        path.write_bytes(
            rng.choice([content[:start], content[:start] + b"\xff\x00" + content[start + 2 :], b""])
        )
    elif kind < 0.4:
        path.write_bytes(rng.choice(RAW).encode("utf-8", "surrogatepass"))
    else:
        lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
        number = rng.randrange(len(lines))
        lines[number] = json.dumps(changed(json.loads(lines[number]), rng))
        path.write_text("\n".join(lines) + "\n")


def reported(folder, capsys, *flags):
    """Writes a report and checks that it is one."""
    capsys.readouterr()
    start = time.process_time()
    status = dispatch(["report", str(folder), *flags])
    seconds = time.process_time() - start
    outcome = capsys.readouterr()
    assert status == 0, outcome.err[-2000:]
    assert seconds < 30 and "Traceback" not in outcome.err
    assert outcome.out.replace("\n", "").isprintable()
    json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and page.rstrip().endswith("</html>")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)
    return outcome.out


def fuzz(finished, tmp_path, capsys, count, seed):
    rng = random.Random(seed)
    for number in range(count):
        folder = tmp_path / f"run{number}"
        shutil.copytree(finished, folder)
        names = [FILES[number % len(FILES)], *rng.sample(FILES, rng.choice([0, 0, 1, 3]))]
        for name in dict.fromkeys(names):
            damage(folder / name, rng)
        if not any((folder / mark).is_file() for mark in ("config.json", "metrics.jsonl")):
            mark = folder / "config.json"  # without one of them it is no run
            if mark.is_dir():
                mark.rmdir()
            mark.write_text("{}")
        try:
            reported(folder, capsys, "--nomeasure")
        except BaseException:
            print(f"damage {number} of seed {seed}: {names}, kept in {folder}")
            raise
        shutil.rmtree(folder)


def test_sixty_damages(finished, tmp_path, capsys):
    fuzz(finished, tmp_path, capsys, 60, seed=1)


@pytest.mark.slow
def test_five_hundred_damages(finished, tmp_path, capsys):
    fuzz(finished, tmp_path, capsys, 500, seed=2)


def test_texts_that_are_no_logs(workdir, capsys):
    """Every text in some file; all texts in all files take a minute."""
    for first in range(0, len(RAW), 8):
        for name, text in zip(FILES[:8], RAW[first:], strict=False):
            (workdir / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        reported(workdir, capsys, "--nomeasure")


@pytest.mark.slow
@pytest.mark.parametrize("text", RAW, ids=range(len(RAW)))
def test_a_text_in_all_files(workdir, capsys, text):
    for name in FILES[:8]:
        (workdir / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    reported(workdir, capsys, "--nomeasure")


def test_what_does_not_fit_is_named_by_its_place(workdir, capsys):
    rewrite(workdir / "result.json", lambda data: data.update(best=[1], float={"accuracy": "x"}))
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    broken = json.loads(lines[1]) | {"layers": [1]}
    (workdir / "metrics.jsonl").write_text(f"{lines[0]}\n{json.dumps(broken)}\n")
    out = reported(workdir, capsys, "--nomeasure")
    assert "result.json: best: Input should be" in out
    assert (
        "metrics.jsonl: line 2 is torn or damaged and was left out: layers: Input should be" in out
    )


@pytest.mark.parametrize("name", ["weight_similarity", "activations", "deployment"])
@pytest.mark.parametrize("data", [{}, [], {"layers": 3}, {"tensors": []}, {"parity": {"runs": []}}])
def test_right_hashes_with_another_shape_are_measured_again(workdir, capsys, name, data):
    rewrite(workdir / "measured" / f"{name}.json", lambda kept: kept.update(data=data))
    out = reported(workdir, capsys, "--nomeasure")
    assert f"measured/{name}.json is damaged" in out


def test_a_comparison_of_nothing_is_no_proof(workdir, capsys):
    def nothing(kept):
        for run in kept["data"]["parity"]["runs"]:
            run.update(values=0, mismatches=0)

    rewrite(workdir / "measured" / "deployment.json", nothing)
    out = reported(workdir, capsys, "--nomeasure")
    assert "deployment.json is damaged: parity.runs.0.values" in out
    assert "0 mismatches" not in (workdir / "report.md").read_text()


CONFIGS = {
    "size": ({"data": {"source": "mnist5k", "size": 10**9}}, "config.data.size is 1000000000"),
    "channels": ({"data": {"source": "mnist5k", "channels": 10**9}}, "config.data.channels"),
    "text": ({"data": {"source": "mnist5k", "size": "big"}}, "config.data.size is 'big'"),
    "list": ({"data": []}, "cannot be used"),
    "hub": ({"data": {"source": "tfds:huggingface:mnist/mnist"}}, "huggingface"),
    "url": ({"data": {"source": "tfds:mnist", "data_dir": "gs://bucket/x"}}, "gs://"),
    "unknown": ({"data": {"source": "nowhere"}}, "Unknown data source"),
    "options": ({"data": {"source": "mnist5k", "options": [1, 2]}}, "cannot be used"),
    "other options": ({"data": {"source": "mnist5k", "options": {"a": 1}}}, "images have moved"),
    "transform": ({"data": {"transform": {"a": 1}}}, "images have moved"),
    "seed": ({"seed": -5}, "config.seed"),
    "mean": ({"data": {"mean": "x", "std": None}}, "cannot be used"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_cannot_be_used_is_named_soon(workdir, name):
    config, said = CONFIGS[name]
    (workdir / "config.json").write_text(json.dumps(config))
    report.FLAGS(["report"])
    start = time.process_time()
    with pytest.raises(ValueError, match=re.escape(said)):
        report._images(read_run(workdir), 4)
    assert time.process_time() - start < 10


def test_such_a_configuration_leaves_the_rest_of_the_report(workdir, capsys):
    (workdir / "config.json").write_text(json.dumps(CONFIGS["channels"][0]))
    (workdir / "measured" / "activations.json").unlink()
    assert CONFIGS["channels"][1] in reported(workdir, capsys)


def test_ten_thousand_lines_and_a_thousand_layers(workdir, capsys):
    line = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    text = "".join(json.dumps(line | {"epoch": epoch}) + "\n" for epoch in range(25_000))
    (workdir / "metrics.jsonl").write_text(text)
    layers = {f"layer {number}": 0.5 for number in range(1000)}
    noise = {"epoch": 0, "step": 1, "updates": 1, "layers": layers}
    (workdir / "gradient_noise.jsonl").write_text(json.dumps(noise) + "\n")
    assert "more than 20,000 lines" in reported(workdir, capsys, "--nomeasure")
