"""Every configuration is one of the paper's experiments, builds, and says what it is."""

import re
from pathlib import Path

import pytest

from faq_keras import configs
from faq_keras.cli import experiments
from faq_keras.cli.config_flag import ConfigFlags, installed
from faq_keras.cli.main import dispatch
from faq_keras.converters.zoo import ZOO
from faq_keras.training.experiment import run

FOLDER = Path(configs.__file__).parent
TABLE_1 = {name: entry for name, entry in ZOO.items() if entry.published}


def config_of(name, *overrides):
    flags = ConfigFlags(__name__)
    flags(["train", f"--config={name}", *overrides])
    return flags.chosen


@pytest.mark.parametrize("name", installed())
def test_the_docstring_says_command_result_and_time(name):
    text = (FOLDER / f"{name}.py").read_text()
    docstring = text.split('"""')[1]
    assert f"faq train --config=configs/{name}.py" in docstring
    assert f"--workdir=runs/{name}" in docstring
    assert re.search(r"^Expected: .*\d", docstring, re.M)
    assert re.search(r"^Time: .*", docstring, re.M)
    assert len(text.splitlines()) < 40


@pytest.mark.parametrize("network", TABLE_1)
def test_table_1_has_a_configuration_per_row(network):
    published = TABLE_1[network].published
    for bits in (8, 4):
        name = f"imagenet_{network}_w{bits}a{bits}"
        if f"w{bits}a{bits}" not in published:
            assert name not in installed()
            continue
        config = config_of(name)
        assert (config.model, config.bits) == (f"zoo:{network}", bits)
        assert config.expected_float_accuracy == pytest.approx(published["fp32"][0] / 100)
        top1, top5 = published[f"w{bits}a{bits}"]
        text = (FOLDER / f"{name}.py").read_text()
        assert f"top-1 {top1:.2f} %, top-5 {top5:.2f} %" in text
        assert ("--config.seed=2 and 3" in text) is (name == "imagenet_resnet18_w4a4")


# epochs, batch, first rate, last rate, largest virtual batch, weight decay, pretrained, calibrated
@pytest.mark.parametrize(
    ("suffix", "row"),
    [
        ("", (110, 256, 0.0015, 1.1e-6, 256, 0.5e-4, True, True)),
        ("_batch_400_60_epochs", (60, 400, 0.0015, 1.2e-6, 400, 0.5e-4, True, True)),
        ("_batch_400_30_epochs", (30, 400, 0.0015, 1.3e-6, 400, 0.5e-4, True, True)),
        ("_batch_400_110_epochs", (110, 400, 0.0015, 1.1e-6, 400, 0.5e-4, True, True)),
        ("_from_scratch", (110, 256, 0.1, 1e-6, 256, 0.5e-4, False, False)),
        ("_from_scratch_exponential", (110, 256, 0.1, 1.1e-6, 256, 0.5e-4, False, False)),
        ("_large_batch", (165, 256, 0.0015, 1.1e-6, 2048, 0.5e-4, True, True)),
        ("_step", (110, 256, 1e-3, 1e-6, 256, 0.5e-4, True, True)),
        ("_weight_decay", (110, 256, 0.0015, 1.1e-6, 256, 1e-4, True, True)),
        ("_uncalibrated", (110, 256, 0.0015, 1.1e-6, 256, 0.5e-4, True, False)),
    ],
)
def test_table_2_row_by_row(suffix, row):
    config = config_of(f"imagenet_resnet18_w4a4{suffix}")
    course = experiments.recipe_of(config)
    batches = course.batch_size * int(course.virtual_batches(course.epochs - 1))
    data = experiments.pipeline_of(config, experiments.synthetic_source(config))
    experiment = experiments.experiment_of(config, data)
    assert (course.epochs, course.batch_size) == row[:2]
    assert course.learning_rate(0) == pytest.approx(row[2])
    assert course.learning_rate(course.epochs - 1) == pytest.approx(row[3], rel=0.06)
    assert batches == row[4]
    assert course.weight_decay == pytest.approx(row[5])
    assert (config.weights is not None) is row[6]
    assert (experiment.calibration_batches == 5) is row[7]
    assert experiment.bits == 4


@pytest.mark.parametrize("network", ["resnet34", "resnet50"])
def test_larger_networks_keep_their_weight_decay(network):
    config = config_of(f"imagenet_{network}_w4a4")
    assert experiments.recipe_of(config).weight_decay == pytest.approx(1e-4)


def test_inception_has_its_own_size():
    data = config_of("imagenet_inception_v3_w8a8").data
    assert (data.size, data.transform_options.resize) == (299, 342)


def check_dry_run(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # neither data nor weights lie here
    assert dispatch(["train", f"--config={name}", "--dry_run"]) == 0
    out = capsys.readouterr().out
    config = config_of(name)
    course = experiments.recipe_of(config)
    assert f"{course.epochs} epochs" in out
    assert ("QuantPlan" in out) is bool(config.bits)
    assert re.search(r"Estimates: .* h on this machine .* GB of memory", out)
    assert "SYNTHETIC" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_neither_images_nor_weights(capsys, tmp_path, monkeypatch):
    check_dry_run("cifar10_jpeg_resnet20_w4a4", capsys, tmp_path, monkeypatch)


LOCAL = ("smoke", "fashion_mnist")  # find their data on this machine


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in installed() if not n.startswith(LOCAL)])
def test_every_dry_run_needs_neither_images_nor_weights(name, capsys, tmp_path, monkeypatch):
    check_dry_run(name, capsys, tmp_path, monkeypatch)


FAMILIES = {
    "imagenet_resnet18_w4a4": ("--config.data.size=64",),
    "cifar10_jpeg_resnet20_w8a8": (),
    "fashion_mnist_w4a4": ("--config.pretraining.epochs=1", "--config.data.size=28"),
    "imagenet_resnet18_w4a4_from_scratch": ("--config.data.size=64",),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "fashion_mnist_w4a4" else pytest.mark.slow)
        for name in FAMILIES
    ],
)
def test_each_family_takes_a_few_steps(name, tmp_path):
    config = config_of(
        name, "--config.epochs=1", "--config.batch_size=4", *FAMILIES[name]
    ).copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.data.images, config.weights = (8, 4), None
        config.expected_float_accuracy = None
        config.data.options = {}
    data = experiments.pipeline_of(config, experiments.synthetic_source(config))
    with config.ignore_type():
        config.weights = "random"  # noise in, noise out: only that it runs matters here
    experiment = experiments.experiment_of(config, data)
    with config.ignore_type():
        config.weights = None
    report = run(experiment, tmp_path, experiments.plain(config))
    assert report["status"] == "finished"
    for file in ("model.keras", "plan.json", "metrics.jsonl", "checkpoints/last.npz"):
        assert (tmp_path / file).stat().st_size > 0
