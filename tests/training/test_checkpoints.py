"""A checkpoint is whole or not there, holds every variable, and fits one model only."""

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.training import checkpoints
from faq_keras.training.checkpoints import CheckpointError, Position
from faq_keras.training.experiment import compile_for
from tests.training import runs


def trained(bits=None, policy=None, change=None, steps=0):
    """A compiled model after a few steps; `change` alters the float network first."""
    model = change() if change else runs.network()
    if bits:
        images = next(runs.pipeline().calibration(1))
        model = faq_keras.apply(model, bits, calibration_data=images, policy=policy)
    compile_for(model, runs.experiment(), runs.course())
    for x, y in runs.pipeline().train(0).take(steps):
        model.train_on_batch(x, y)
    return model


def values(model):
    return {name: np.array(variable) for name, variable in checkpoints._variables(model)}


def test_every_variable_comes_back(tmp_path):
    path = tmp_path / "last.npz"
    model = trained(bits=4, steps=2)
    checkpoints.save(path, model, Position(2, 7), best=0.5)
    saved = values(model)
    for x, y in runs.pipeline().train(1).take(2):
        model.train_on_batch(x, y)
    changed = values(model)
    roles = {name.split("/")[0] for name in saved if not np.array_equal(saved[name], changed[name])}
    assert roles == {"model", "optimizer", "metric"}
    assert any("seed" in name for name in saved), "the dropout's generator has a state"

    checkpoint = checkpoints.load(path)
    assert (checkpoint.position, checkpoint.best) == (Position(2, 7), 0.5)
    checkpoint.restore(model)
    restored = values(model)
    assert restored.keys() == saved.keys()
    for name, value in saved.items():
        assert restored[name].tobytes() == value.tobytes(), name
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.npz"]


def wider():
    model = runs.network()
    x = keras.layers.Conv2D(12, 3, name="conv2")(model.get_layer("relu1").output)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(model.input, keras.layers.Dense(runs.CLASSES, name="head")(x), name="wider")


def test_another_architecture_is_refused_by_the_names_of_its_layers(tmp_path):
    checkpoints.save(tmp_path / "last.npz", trained(), Position())
    other = trained(change=wider)
    before = values(other)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(tmp_path / "last.npz").restore(other)
    message = str(caught.value)
    assert "belongs to another architecture" in message
    assert "conv2/bias is not in the checkpoint" in message
    assert "and " in message
    assert message.endswith("Resume with the configuration that the run was started with.")
    for name, value in values(other).items():
        assert np.array_equal(value, before[name]), "a refused checkpoint sets nothing"


def test_another_shape_is_refused_with_both_shapes(tmp_path):
    checkpoints.save(tmp_path / "last.npz", trained(), Position())
    checkpoint = checkpoints.load(tmp_path / "last.npz")
    name = next(name for name in checkpoint.arrays if "head/kernel" in name)
    checkpoint.arrays[name] = checkpoint.arrays[name][:-1]
    with pytest.raises(CheckpointError, match=r"head/kernel is \(127, 6\).*and \(128, 6\) in the"):
        checkpoint.restore(trained())


def test_another_plan_is_refused_by_the_tensors_that_differ(tmp_path):
    checkpoints.save(tmp_path / "last.npz", trained(bits=4), Position())
    policy = faq_keras.Policy(overrides={"conv1": (6, 4)})
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(tmp_path / "last.npz").restore(trained(bits=4, policy=policy))
    message = str(caught.value)
    assert "belongs to another plan" in message
    assert "conv1/kernel (kernel) is [ 8 signed" in message
    assert "[ 6 signed" in message


def test_float_and_quantized_are_told_apart(tmp_path):
    checkpoints.save(tmp_path / "float.npz", trained(), Position())
    with pytest.raises(CheckpointError, match=r"belongs to a float network, .* is a quantized one"):
        checkpoints.load(tmp_path / "float.npz").restore(trained(bits=4))


@pytest.mark.parametrize("damage", ["absent", "truncated", "text", "npz of others"])
def test_an_unreadable_file_is_named(tmp_path, damage):
    path = tmp_path / "last.npz"
    if damage == "truncated":
        checkpoints.save(path, trained(), Position())
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("hello")
    elif damage == "npz of others":
        np.savez(path, x=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"last\.npz is not a readable checkpoint"):
        checkpoints.load(path)


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from faq_keras.training import checkpoints
from tests.training.test_checkpoints import trained

path = Path(sys.argv[1])
model = trained()
checkpoints.save(path, model, checkpoints.Position(0, 1))
size = path.stat().st_size
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
try:
    checkpoints.save(path, model, checkpoints.Position(0, 2))
except checkpoints.CheckpointError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    pytest.importorskip("resource", reason="limits of file sizes need POSIX")
    path = tmp_path / "last.npz"
    process = runs.python(_FULL_DISK, path)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert out.startswith(f"The checkpoint {path} of epoch 1, step 2 cannot be written (")
    assert "The checkpoint before it is whole. Make room and go on with --resume." in out
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.npz"]
    assert checkpoints.load(path).position == Position(0, 1)
