"""A reconstruction that is interrupted: the network is as it was, the folder has what is done."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.post_training import correction, walk
from faq_keras.post_training.store import ActivationStore
from tests.post_training import nets

RUN = """
import sys, keras, numpy as np, faq_keras
from faq_keras.post_training import walk
q = keras.saving.load_model(sys.argv[1])
correct, done = walk.correct, []
def counted(step, *rest):
    if len(done) == 3:
        print("third layer", flush=True)
        sys.stdin.read()
    done.append(step.name)
    return correct(step, *rest)
walk.correct = counted
faq_keras.reconstruct(q, np.load(sys.argv[2]), workdir=sys.argv[3])
"""


def quantized():
    model = nets.residual()
    x = nets.images(model, 64)
    return faq_keras.apply(model, 4, calibration_data=x), x


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def fail_at(monkeypatch, number, error):
    """Makes the correction of a layer fail."""
    done = []

    def failing(step, *rest):
        done.append(step.name)
        if len(done) > number:
            raise error
        return correction.correct(step, *rest)

    monkeypatch.setattr(walk, "correct", failing)
    return done


def test_a_killed_run_goes_on_and_ends_in_the_same_bits(tmp_path):
    q, x = quantized()
    q.save(tmp_path / "q.keras")
    np.save(tmp_path / "x.npy", x)
    folder = tmp_path / "journal"
    arguments = [sys.executable, "-c", RUN, *map(str, (tmp_path / "q.keras", tmp_path / "x.npy"))]
    process = subprocess.Popen(
        [*arguments, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "third layer\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close(), process.stdout.close()
    finished = sorted(path.name for path in folder.glob("*.npz"))
    assert len(finished) == 3 and list(folder.glob("activations-*"))

    resumed = keras.saving.load_model(tmp_path / "q.keras")
    seen = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    again = faq_keras.reconstruct(resumed, x, workdir=folder)
    whole = faq_keras.reconstruct(q, x)
    assert equal(resumed.get_weights(), q.get_weights())
    assert again.layers == whole.layers and again.outputs == whole.outputs
    assert all(path.stat().st_mtime_ns == time for path, time in seen.items())
    assert not list(folder.glob("activations-*"))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")])
def test_after_any_error_the_network_is_what_it_was(error, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    q, x = quantized()
    before = q.get_weights()
    done = fail_at(monkeypatch, 3, error)
    with pytest.raises(type(error)):
        faq_keras.reconstruct(q, x)
    assert len(done) == 4 and equal(before, q.get_weights())
    assert not list(tmp_path.iterdir())


def test_finished_layers_are_not_computed_again(monkeypatch, tmp_path):
    q, x = quantized()
    before = q.get_weights()
    fail_at(monkeypatch, 4, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        faq_keras.reconstruct(q, x, workdir=tmp_path)
    assert equal(before, q.get_weights())
    done = fail_at(monkeypatch, 100, RuntimeError())
    faq_keras.reconstruct(q, x, workdir=tmp_path)
    kernels = [layer for layer in q.layers if hasattr(layer, "fold")]
    assert len(done) == len(kernels) - 4
    resumed = q.get_weights()
    q.set_weights(before)
    faq_keras.reconstruct(q, x)
    assert equal(resumed, q.get_weights())


@pytest.mark.parametrize("after", [0, 20_000, 120_000])
def test_a_full_disk_is_said_with_folder_and_size_and_the_network_is_what_it_was(
    after, monkeypatch, tmp_path
):
    """The files behave like those of a disk with so many bytes left."""
    q, x = quantized()
    before = q.get_weights()
    written = 0
    append = ActivationStore._write

    def limited(path, values):
        nonlocal written
        written += values.nbytes
        if written > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(path, values)

    monkeypatch.setattr(ActivationStore, "_write", staticmethod(limited))
    with pytest.raises(ValueError, match="No space left on device") as error:
        faq_keras.reconstruct(q, x, workdir=tmp_path)
    assert str(tmp_path) in str(error.value) and "workdir=" in str(error.value)
    assert int(str(error.value).split("need ")[1].split(" bytes")[0].replace(",", "")) > 50_000
    assert equal(before, q.get_weights()) and not list(tmp_path.glob("activations-*"))


def test_a_journal_that_cannot_be_written_is_said(monkeypatch, tmp_path):
    from faq_keras.post_training import journal

    q, x = quantized()
    before = q.get_weights()
    monkeypatch.setattr(
        journal.np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(ValueError, match=f"journal cannot be written to {tmp_path}.*No space left"):
        faq_keras.reconstruct(q, x, workdir=tmp_path)
    assert equal(before, q.get_weights()) and not list(tmp_path.glob("*.npz"))


def change_weights(q, x):
    q.layers[2].kernel.assign(np.array(q.layers[2].kernel) * 1.5)
    return {"images": x}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda q, x: {"images": x + 0.1}, "images"),
        (lambda q, x: {"images": x, "means": False}, "options"),
        (lambda q, x: {"images": x, "batch_size": 16}, "options"),
        (change_weights, "weights"),
    ],
)
def test_the_journal_of_something_else_is_refused(change, what, tmp_path):
    q, x = quantized()
    before = q.get_weights()
    faq_keras.reconstruct(q, x, workdir=tmp_path)
    q.set_weights(before)
    arguments = change(q, x)
    with pytest.raises(ValueError, match=rf"another reconstruction: other {what}\. Give"):
        faq_keras.reconstruct(q, workdir=tmp_path, **arguments)


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "flipped":
        content[content.index(b"kernel.npy") + 400] ^= 1
    else:
        content = bytearray(b"nothing")
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "flipped", "other"])
def test_a_damaged_file_of_the_journal_is_named(how, tmp_path):
    q, x = quantized()
    before = q.get_weights()
    faq_keras.reconstruct(q, x, workdir=tmp_path)
    after = q.get_weights()
    q.set_weights(before)
    path = sorted(tmp_path.glob("*.npz"))[1]
    damage(path, how)
    with pytest.raises(ValueError, match=f"{path} is damaged: .*Delete it"):
        faq_keras.reconstruct(q, x, workdir=tmp_path)
    assert equal(before, q.get_weights())
    path.unlink()
    faq_keras.reconstruct(q, x, workdir=tmp_path)
    assert equal(after, q.get_weights())


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_key_is_named(content, tmp_path):
    q, x = quantized()
    (tmp_path / "key.json").write_text(content)
    with pytest.raises(ValueError, match=r"key\.json is damaged"):
        faq_keras.reconstruct(q, x, workdir=tmp_path)


def test_layers_of_another_place_are_damage(tmp_path):
    q, x = quantized()
    before = q.get_weights()
    faq_keras.reconstruct(q, x, workdir=tmp_path)
    q.set_weights(before)
    first, second = sorted(tmp_path.glob("*.npz"))[:2]
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=f"{second} is damaged: it is of the layer 'conv2d'"):
        faq_keras.reconstruct(q, x, workdir=tmp_path)
    assert json.loads((tmp_path / "key.json").read_text())["format"] == "faq_keras.reconstruct/1"
