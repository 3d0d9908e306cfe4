"""`faq train` and `faq eval` from the command line: flags, figures, errors, a run as a process."""

import json
import os
import signal
import subprocess
import sys

import pytest
from ml_collections.config_dict import ConfigDict

import faq_keras
from faq_keras.cli.config_flag import installed
from faq_keras.configs import base
from tests.training import runs

# A configuration of a user's own: the striped images as an ImageFolder would be too slow to write.
_CONFIG = '''
"""A user's own configuration."""
from faq_keras.configs import base

def get_config():
    config = base.config()
    config.model = "tests.training.runs:network"
    config.bits = 4
    config.recipe = "w4a4"
    config.epochs = 1
    config.batch_size = 500
    config.learning_rate = 0.01
    config.calibration_batches = 1
    config.data.size, config.data.channels = 8, 1
    config.deterministic = False   # it cannot be switched off again in the process of the tests
    return config
'''


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration file that trains on striped images."""
    from faq_keras.cli import experiments

    source = runs.striped_source(train=1000, validation=60)
    monkeypatch.setattr(experiments, "load_source", lambda *args, **options: source)
    path = tmp_path / "mine.py"
    path.write_text(_CONFIG)
    return path


def test_train_leaves_a_model_that_eval_measures_alike_as_keras_and_tflite(faq, config, tmp_path):
    workdir = tmp_path / "run"
    outcome = faq("train", f"--config={config}", f"--workdir={workdir}", "--config.epochs=2")
    assert outcome.status == 0, outcome.err
    assert "1,000 training and 60 validation images, 6 classes" in outcome.out
    assert "epoch 2/2: accuracy " in outcome.out
    assert "after 2 epoch(s) of w4a4" in outcome.out
    report = json.loads((workdir / "result.json").read_text())
    assert json.loads((workdir / "config.json").read_text())["epochs"] == 2

    q = faq_keras.QuantPlan.load(workdir / "plan.json")
    assert (q.settings.weight_bits, q.settings.recipe) == (4, "w4a4")
    tflite = tmp_path / "m.tflite"
    assert faq("export", workdir / "model.keras", f"--output={tflite}").status == 0
    figures = []
    for path in (workdir / "model.keras", tflite):
        figures.append(tmp_path / "figures.json")
        done = faq("eval", f"--config={config}", path, f"--json={figures[-1]}")
        assert done.status == 0, done.err
        measured = json.loads(figures[-1].read_text())
        assert measured["top1"] == pytest.approx(report["trained"]["accuracy"])
        assert measured["top5"] == pytest.approx(report["trained"]["top5"])
        assert measured["images"] == 60
        assert f"{100 * measured['top1']:.2f} %" in done.out

    again = faq("train", f"--config={config}", f"--workdir={workdir}", "--config.epochs=2")
    assert again.status == 1
    assert "holds a run already (finished)" in again.err
    other = faq("train", f"--config={config}", f"--workdir={workdir}", "--resume")
    assert other.status == 1
    assert "epochs was 2 and is 1 now" in other.err


def test_a_dry_run_shows_everything_and_writes_only_its_picture(faq, config, tmp_path, monkeypatch):
    cluster = {"worker": ["here:1", "there:1"]}
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    picture = tmp_path / "schedule.png"
    before = set(tmp_path.iterdir())
    flags = "--dry_run", f"--plot={picture}", "--distribution=multi_worker"
    outcome = faq("train", f"--config={config}", *flags)
    assert outcome.status == 0, outcome.err
    assert "2 workers with 250 images of each batch" in outcome.out
    for words in ("2 steps per epoch", "QuantPlan", "learning rate", "2 steps of 500 images"):
        assert words in outcome.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert set(tmp_path.iterdir()) - before == {picture}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config is missing: name a Python file"),
        (("--config=smok",), "configuration smok does not exist. Did you mean smoke?"),
        (("--config=smoke",), "--workdir is missing"),
        (("--config=smoke", "--workdir=w", "--plot=p.png"), "--plot goes with --dry_run"),
        (("--config=smoke", "--config.epoch=3"), "has no field epoch. Did you mean epochs?"),
        (("--config=smoke", "--config.data.sise=3"), "Did you mean data.size?"),
        (("--config=smoke", "--config.bits=x"), "--config.bits=x"),
        (("--config=smoke", "--workdir={w}", "--config.recipe=w4a5"), "No recipe is called"),
        (("--config=smoke", "--workdir={w}", "--config.bits=9"), "bits is 9, but has to be 0 or"),
        (("--config=smoke", "--workdir={w}", "--config.batch_size=9999"), "fewer than one batch"),
        (("--config=smoke", "--workdir={w}", "--config.model=resnet"), "Unknown model 'resnet'"),
        (("--config=smoke", "--workdir={w}", "--config.weights=w.h5"), "w.h5 does not exist"),
        (("--config=smoke", "--workdir={w}", "--config.data.source=x"), "Unknown data source"),
        (("--config=smoke", "--workdir={w}", "--config.pretraining.epochs=0"), "random weights"),
        (("--config=smoke", "--workdir={w}", "--config.learning_rate_per=day"), "'epoch' or"),
        (("--config=smoke", "--workdir={w}", "--config.data.corrupt=hide"), "Unknown policy"),
        (("--config=smoke", "--workdir={w}", "--distribution=tpu"), "=tpu is refused"),
        (("--config=smoke", "--workdir={w}", "--distribution=multi_worker"), "TF_CONFIG"),
        (("--config=smoke", "--distribution=mirrored", "--dry_run"), "Leave it out"),
        (("--config=imagenet_vgg16_bn_w8a8", "--workdir={w}"), "needs a folder: set data_dir"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_run(faq, tmp_path, arguments, message):
    workdir = tmp_path / "run"
    outcome = faq("train", *(argument.format(w=workdir) for argument in arguments))
    assert outcome.status == 1
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not (workdir / "config.json").exists(), "the corrected command has to be able to begin"


#: A value out of its range for every field that is a number.
OUT_OF_RANGE = {
    "bits": 9,
    "activation_bits": 1,
    "logits_bits": 12,
    "percentile": 200.0,
    "calibration_batches": -1,
    "policy.first_last_bits": 16,
    "epochs": 0,
    "batch_size": 0,
    "learning_rate": -0.1,
    "final_learning_rate": 0.0,
    "weight_decay": -1e-4,
    "virtual_batches": 0,
    "label_smoothing": 1.5,
    "pretraining.epochs": -1,
    "pretraining.learning_rate": "nan",
    "pretraining.final_learning_rate": "inf",
    "data.size": 0,
    "data.channels": 0,
    "data.classes": 0,
    "data.images": "(0,500)",
    "data.mean": "(0.0,0.0)",
    "data.std": "(0.0,)",
    "expected_float_accuracy": 70.0,
    "seed": -1,
    "checkpoint_steps": -3,
    "gradient_noise_steps": -3,
}


def numbers(fields, prefix=""):
    """Names of the fields that hold numbers, or would if they had a value."""
    for name in fields:
        value, kind = fields[name], fields.get_type(name)
        if isinstance(value, ConfigDict):
            yield from numbers(value, f"{prefix}{name}.")
        elif kind in (int, float) or (value and kind is tuple):
            yield prefix + name


def test_every_number_of_a_configuration_has_a_range():
    assert set(numbers(base.config())) == set(OUT_OF_RANGE)


@pytest.mark.parametrize("field", OUT_OF_RANGE)
@pytest.mark.parametrize("command", ["train", "train --dry_run", "eval"])
def test_a_number_out_of_range_is_refused_before_anything_is_done(
    refused, tmp_path, field, command
):
    workdir = tmp_path / "run"
    flags = {"train": [f"--workdir={workdir}"], "train --dry_run": ["--dry_run"]}
    (tmp_path / "m.keras").touch()
    given = flags.get(command, [tmp_path / "m.keras"])
    value = OUT_OF_RANGE[field]
    name = command.split()[0]
    error = refused(name, "--config=smoke", f"--config.{field}={value}", *given)
    assert f"config.{field}" in error
    assert error.count("\n") == 1
    assert not workdir.exists()


def test_all_numbers_out_of_range_are_named_at_once(refused, tmp_path):
    wrong = "--config.percentile=200.0", "--config.virtual_batches=0"
    error = refused("train", "--config=smoke", f"--workdir={tmp_path / 'run'}", *wrong)
    assert "config.percentile is 200.0, but has to lie in [50, 100]; config.virt" in error


@pytest.mark.parametrize(
    ("normalization", "message"),
    [
        (("--config.data.std=(0.0,)",), "divides by std (0.0,): every value has to be above 0"),
        (("--config.data.std=(-1.0,)",), "divides by std (-1.0,)"),
        (("--config.data.std=()",), "divides by std ()"),
        (("--config.data.mean=(0.0,0.0)",), "mean (0.0, 0.0) has 2 numbers for images of 1 chan"),
        (("--config.data.mean=('a',)",), "needs finite numbers"),
    ],
)
def test_a_normalization_that_cannot_be(refused, tmp_path, normalization, message):
    assert message in refused(
        "train", "--config=smoke", f"--workdir={tmp_path / 'run'}", *normalization
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(: pass", "cannot be read: SyntaxError"),
        ("def get_config(): return undefined", "NameError: name 'undefined' is not defined"),
        ("def get_config(): return 3", "gives a int, not a ConfigDict"),
    ],
)
def test_a_broken_configuration_is_named(faq, tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    outcome = faq("train", f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert outcome.status == 1
    assert message in outcome.err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("none.keras", "none.keras does not exist"),
        ("none.h5", "none.h5 does not exist"),
        ("none.onnx", "is none of a .keras, a .h5 and a .tflite file"),
        (
            "{files[model]}",
            "takes inputs of the shape (None, 8, 8, 3), the data gives images of (28, 28, 1)",
        ),
    ],
)
def test_eval_names_what_it_cannot_measure(refused, files, model, message):
    assert message in refused("eval", "--config=smoke", model.format(files=files))


def test_the_installed_configurations_are_reachable_by_name_and_path(faq):
    assert "smoke" in installed()
    for name in ("smoke", "configs/smoke.py"):
        outcome = faq("train", f"--config={name}")
        assert "--workdir is missing" in outcome.err


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there is no SIGINT to send")
def test_smoke_stops_at_ctrl_c_resumes_and_learns(tmp_path):
    command = [sys.executable, "-m", "faq_keras", "train", "--config=smoke", "--resume"]
    command += [f"--workdir={tmp_path}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def listen_to_sigint():
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(command, preexec_fn=listen_to_sigint, **pipes) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGINT)
                break
        _, error = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGINT
    assert "Go on with the same command and --resume" in error
    done = subprocess.run(command, timeout=500, **pipes)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "result.json").read_text())
    assert report["float"]["accuracy"] > 0.93
    assert report["trained"]["accuracy"] > 0.9
