"""What is off is named, and nothing is lost or half-written (`docs/reliability.md`)."""

import contextlib
import hashlib
import json
import os
import re
import threading
import zipfile

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras import files
from faq_keras.cli import common
from faq_keras.plan import QuantPlan
from faq_keras.training import checkpoints, workdir
from tests import networks

layers = keras.layers
SHAPE = (5, 5, 2)


def small():
    inputs = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return networks.randomize(keras.Model(inputs, layers.Dense(3, name="logits")(x), name="small"))


@pytest.fixture(scope="module")
def x():
    return networks.images(12, SHAPE)


@pytest.fixture(scope="module")
def q(x):
    model = faq_keras.apply(small(), 4, calibration_data=x)
    model.run_eagerly = True
    return model


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --------------------------------------------------------------------------- weights and images


def filled(variable, value, channels=slice(None)):
    array = np.array(variable)
    array[..., channels] = value
    variable.assign(array)


WEIGHTS = {
    "zero kernel": (lambda m: filled(m.get_layer("conv").kernel, 0.0), None),
    "constant kernel": (lambda m: filled(m.get_layer("conv").kernel, 0.25), None),
    "dead channels": (lambda m: filled(m.get_layer("norm").beta, -1e3, slice(0, 2)), None),
    "zero variance": (lambda m: filled(m.get_layer("norm").moving_variance, 0.0), None),
    "zero gamma": (lambda m: filled(m.get_layer("norm").gamma, 0.0, slice(1, 3)), None),
    "negative gamma": (lambda m: filled(m.get_layer("norm").gamma, -0.7), None),
    "constant logits": (
        lambda m: m.get_layer("logits").set_weights([np.zeros((4, 3)), np.ones(3)]), None,
    ),
    "all gamma zero": (
        lambda m: filled(m.get_layer("norm").gamma, 0.0),
        r"'norm' .* has only zero or non-finite multipliers .* Check the pretrained weights",
    ),
    "dead": (
        lambda m: filled(m.get_layer("norm").beta, -1e3),
        r"zero on all of the calibration data \(dead\): Layer 'conv' .*'pool'",
    ),
    "NaN kernel": (
        lambda m: filled(m.get_layer("conv").kernel, np.nan, 1),
        "Layer 'conv' gives NaN or infinite values on the calibration data",
    ),
    "Inf kernel": (
        lambda m: filled(m.get_layer("logits").kernel, np.inf, 0),
        "Layer 'logits' gives NaN or infinite values on the calibration data",
    ),
    "NaN mean": (lambda m: filled(m.get_layer("norm").moving_mean, np.nan, 0), "'conv' gives NaN"),
    "Inf variance": (
        lambda m: filled(m.get_layer("norm").moving_variance, np.inf), "non-finite|dead",
    ),
    "negative variance": (
        lambda m: filled(m.get_layer("norm").moving_variance, -1.0, 0), "'conv' gives NaN",
    ),
    "NaN bias": (lambda m: filled(m.get_layer("logits").bias, np.nan, 2), "'logits' gives NaN"),
    "huge kernel": (
        lambda m: filled(m.get_layer("logits").kernel, 1e25),
        r"'logits' \(Dense\) gives values of up to .*out of the range \[-60, 60\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_odd_weights_are_exact_or_refused_by_name(name, x, tmp_path):
    change, refusal = WEIGHTS[name]
    model = small()
    change(model)
    if refusal is not None:
        with pytest.raises(ValueError, match=refusal):
            faq_keras.apply(model, 4, calibration_data=x)
        return
    q = faq_keras.apply(model, 4, calibration_data=x)
    q.run_eagerly = True
    assert faq_keras.export_tflite(q, tmp_path / "m.tflite", "int4").mismatches == 0
    assert np.isfinite(q(x)).all()


IMAGES = {
    "constant": (np.full((4, *SHAPE), 0.7), None),
    "tiny": (networks.images(4, SHAPE) * 1e-14, "could overflow .* Its bias alone takes"),
    "huge": (networks.images(4, SHAPE) * 1e14, None),
    "one": (networks.images(1, SHAPE), None),
    "zero": (np.zeros((4, *SHAPE)), r"dead\): Layer 'image'"),
    "beyond kernels": (networks.images(4, SHAPE) * 1e25, r"'image' .*out of the range \[-60, 60\]"),
    "NaN": (np.full((4, *SHAPE), np.nan), "contains NaN or infinite values"),
    "Inf": (np.full((4, *SHAPE), np.inf), "contains NaN or infinite values"),
    "too large for float32": (np.full((4, *SHAPE), 1e39), "contains NaN or infinite values"),
    "none": (np.zeros((0, *SHAPE)), "is empty"),
    "text": (np.full((4, *SHAPE), "x"), "not real numbers"),
    "complex": (np.full((4, *SHAPE), 1j), "complex128 values, not real numbers"),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_odd_images_are_exact_or_refused(name, tmp_path):
    images, refusal = IMAGES[name]
    refused = pytest.raises(ValueError, match=refusal) if refusal else contextlib.nullcontext()
    with refused:
        q = faq_keras.apply(small(), 4, calibration_data=images)
        q.run_eagerly = True
        assert faq_keras.export_tflite(q, tmp_path / "m.tflite", "int4").mismatches == 0
    assert bool(left_in(tmp_path)) is (refusal is None)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 700, 1), (300, 300, 1), (2, 2, 600)])
def test_inputs_of_odd_sizes_are_exact(shape, tmp_path):
    inputs = keras.Input(shape)
    x = networks.conv_bn_relu(inputs, 2, strides=2)
    model = networks.randomize(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))
    q = faq_keras.apply(model, (4, 8), calibration_data=networks.images(2, shape))
    q.run_eagerly = True
    report = faq_keras.export_tflite(q, tmp_path / "m.tflite", verify=networks.images(2, shape))
    assert report.mismatches == 0


# --------------------------------------------------------------------------------------- writing


def export(q, path):
    faq_keras.export_tflite(q, path.with_suffix(".tflite"), verify=None)


def export_onnx(q, path):
    faq_keras.export_onnx(q, path.with_suffix(".onnx"), verify=None)


def save_plan(q, path):
    faq_keras.plan_of(q).save(path.with_suffix(".json"))


def save_model(q, path):
    with files.atomic_write(path.with_suffix(".keras")) as partial:
        q.save(partial)


def save_checkpoint(q, path):
    if getattr(q, "optimizer", None) is None:
        q.compile("sgd", "mse")
    checkpoints.save(path.with_suffix(".npz"), q, checkpoints.Position(1, 2))


def save_text(q, path):
    common.write_text(str(path.with_suffix(".txt")), "text " * 3000)


def save_report(q, path):
    workdir.write_json(path.with_suffix(".json"), {"figures": list(range(3000))})


WRITERS = [
    export, export_onnx, save_plan, save_model, save_checkpoint, save_text, save_report,
]  # fmt: skip


@contextlib.contextmanager
def full_disk(room):
    """Files of this process cannot grow beyond so many bytes, as on a disk without more room."""
    resource = pytest.importorskip("resource", reason="limits of file sizes need POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("before", [b"yesterday's", None], ids=["replacing", "new"])
def test_a_full_disk_leaves_what_was_there(write, before, q, tmp_path):
    write(q, tmp_path / "m")
    written = left_in(tmp_path)
    for name in written:
        (tmp_path / name).unlink()
        if before is not None:
            (tmp_path / name).write_bytes(before)
    with full_disk(700), pytest.raises((OSError, checkpoints.CheckpointError)) as error:
        write(q, tmp_path / "m")
    assert re.search("too large|written|write", str(error.value)), error.value
    assert left_in(tmp_path) == ([] if before is None else written)
    assert before is None or {(tmp_path / name).read_bytes() for name in written} == {before}


@pytest.mark.parametrize("write", WRITERS)
def test_a_read_only_folder_is_named(write, q, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root writes anywhere; the kernel's own tree refuses even root
        folder = type(tmp_path)("/sys")
    if not folder.is_dir():
        pytest.skip("no folder that refuses this user")
    with pytest.raises((OSError, checkpoints.CheckpointError), match=f"{folder}.*cannot be|Cannot"):
        write(q, folder / "m")


class PowerCutError(BaseException):
    """What ends a process between two instructions, as far as Python can tell."""


@pytest.mark.parametrize("write", WRITERS)
def test_an_end_right_before_the_rename_leaves_what_was_there(write, q, tmp_path, monkeypatch):
    write(q, tmp_path / "m")
    before = {name: (tmp_path / name).read_bytes() for name in left_in(tmp_path)}

    def end(*_):
        raise PowerCutError

    monkeypatch.setattr(files.os, "replace", end)
    with pytest.raises(PowerCutError):
        write(q, tmp_path / "m")
    assert {name: (tmp_path / name).read_bytes() for name in left_in(tmp_path)} == before


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "folder", ["mit Leerzeichen", "größe-猫-Ω", "a'b\"c;$(x)", "-flag", "%s{}"]
)
def test_paths_of_all_kinds(write, folder, q, tmp_path):
    (tmp_path / folder).mkdir()
    write(q, tmp_path / folder / folder)
    assert left_in(tmp_path) == [folder]
    assert all(name.startswith(folder) for name in left_in(tmp_path / folder))


def test_concurrent_exports_to_one_path_leave_one_of_them_whole(q, x, tmp_path):
    other = faq_keras.apply(small(), 8, calibration_data=x)
    other.run_eagerly = True
    expected = {}
    for model in (q, other):
        faq_keras.export_tflite(model, tmp_path / "alone.tflite", verify=None)
        content = (tmp_path / "alone.tflite").read_bytes()
        expected[hashlib.sha256(content).hexdigest()] = faq_keras.plan_of(model).hash
    folder = tmp_path / "shared"
    folder.mkdir()
    errors = []

    def export_often(model):
        try:
            for _ in range(3):
                faq_keras.export_tflite(model, folder / "m.tflite", verify=None)
        except BaseException as error:  # it would be lost with the thread
            errors.append(error)

    threads = [threading.Thread(target=export_often, args=(m,)) for m in (q, other, q, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert hashlib.sha256((folder / "m.tflite").read_bytes()).hexdigest() in expected
    card = json.loads((folder / "m.model_card.json").read_text())
    assert expected[card["sha256"]] == card["plan_hash"]
    assert left_in(folder) == ["m.model_card.json", "m.model_card.md", "m.tflite"]


# ------------------------------------------------------------------------------- damaged files


def mutated(value, rng):
    """A copy of a JSON value with one part of it replaced, dropped or doubled."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        copy = value.copy()
        key = rng.choice(list(copy)) if isinstance(copy, dict) else rng.integers(len(copy))
        if rng.random() < 0.1:
            del copy[key]
        elif isinstance(copy, list) and rng.random() < 0.1:
            copy.append(copy[key])
        else:
            copy[key] = mutated(copy[key], rng)
        return copy
    strange = [None, -1, 0, 3.5, 1e300, 10**30, "", "x", [], {}, [1], True, "8", 99, -70]
    return strange[rng.integers(len(strange))]


def test_damaged_plans_are_refused_or_mean_something(q, tmp_path):
    """Whatever is accepted can be printed, saved and read again."""
    rng, text = np.random.default_rng(0), faq_keras.plan_of(q).to_json()
    path, outcomes = tmp_path / "p.json", set()
    for _ in range(600):
        path.write_text(json.dumps(mutated(json.loads(text), rng)))
        try:
            plan = QuantPlan.load(path)
        except ValueError as error:
            assert str(path) in str(error)
            outcomes.add("refused")
            continue
        assert str(plan) and QuantPlan.from_json(plan.to_json()) == plan
        outcomes.add("read")
    assert outcomes == {"refused", "read"}


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"null", b"[]", b'{"format": 1}', b'{"a'])
def test_files_that_are_no_plans_are_refused(damage, tmp_path):
    (tmp_path / "p.json").write_bytes(damage)
    with pytest.raises(ValueError, match=r"p\.json"):
        QuantPlan.load(tmp_path / "p.json")


def test_damaged_models_are_refused_in_one_line(q, tmp_path):
    """Every 50th byte of the archive, and parts of the configuration in it."""
    path, rng = tmp_path / "q.keras", np.random.default_rng(1)
    q.save(path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    damaged = [content[:size] for size in range(0, len(content), len(content) // 6)]
    for at in rng.integers(0, len(content), 12):
        damaged.append(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
    refused = 0
    for number in range(len(damaged) + 60):
        if number < len(damaged):
            path.write_bytes(damaged[number])
        else:
            config = json.dumps(mutated(json.loads(members["config.json"]), rng))
            with zipfile.ZipFile(path, "w") as archive:
                for name, part in {**members, "config.json": config}.items():
                    archive.writestr(name, part)
        try:
            assert isinstance(common.load_model(str(path)), keras.Model)
        except ValueError as error:
            assert re.match(rf"{re.escape(str(path))} .*\Z", str(error)), error
            refused += 1
    assert refused >= 20


@pytest.mark.parametrize(
    "text", ['{"epoch": 0}\nhalf\n', '{"epoch": 0}\n[]\n', '{"epoch": 0}\n\n', "[" * 99999 + "\n"]
)
def test_a_damaged_metrics_file_is_named_with_its_line(text, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    with pytest.raises(workdir.WorkdirError, match=rf"{path} cannot be read: line [12] is"):
        workdir.read_metrics(path)


def test_a_line_that_a_kill_tore_does_not_count(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 0}\n{"epoch": 1, "loss"')
    assert workdir.read_metrics(path) == [{"epoch": 0}]
