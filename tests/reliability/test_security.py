"""Loading a model, plan, checkpoint or array file never runs code from it (`docs/security.md`).

Each crafted file would leave a marker if it ran. PyTorch checkpoints, CIFAR-10 pickles and ONNX
files have theirs in `tests/converters` and `tests/data`.
"""

import io
import json
import pickle
import tracemalloc
import zipfile

import keras
import numpy as np
import pytest

import faq_keras
from faq_keras.cli import common, networks
from faq_keras.integer.lowering import lower
from faq_keras.plan import QuantPlan
from faq_keras.training import checkpoints
from tests import networks as test_networks

layers = keras.layers


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A quantized model as a file, and what is in it."""
    inputs = keras.Input((4, 4, 2), name="image")
    x = layers.Flatten()(test_networks.conv_bn_relu(inputs, 3))
    model = test_networks.randomize(keras.Model(inputs, layers.Dense(2)(x)))
    q = faq_keras.apply(model, 4, calibration_data=test_networks.images(8, (4, 4, 2)))
    path = tmp_path_factory.mktemp("saved") / "q.keras"
    q.save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def crafted(path, members, **changes):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, **changes}.items():
            archive.writestr(name, content)
    return str(path)


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists()


def find(config, class_name):
    """The parts of a configuration that describe objects of a class."""
    parts = config.values() if isinstance(config, dict) else config
    found = [config] if isinstance(config, dict) and config.get("class_name") == class_name else []
    for part in parts:
        found += find(part, class_name) if isinstance(part, (dict, list)) else []
    return found


def lambda_layer(marker):
    return layers.Lambda(lambda x, path=str(marker): (open(path, "w").close(), x)[1])


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_lambda_is_refused(tmp_path, marker, suffix):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, lambda_layer(marker)(inputs))
    marker.unlink(missing_ok=True)
    model.save(tmp_path / f"m.{suffix}")
    with pytest.raises(ValueError, match=r"not a readable Keras model: .*[Ll]ambda"):
        networks._file(str(tmp_path / f"m.{suffix}"))


def test_a_lambda_inside_of_a_quantized_layer_is_refused(saved, tmp_path, marker):
    """Quantized layers rebuild the float layers in them, under the same rule."""
    config = json.loads(saved["config.json"])
    (conv,) = find(config, "QuantizedConv2D")
    conv["config"]["float_layers"].append(keras.layers.serialize(lambda_layer(marker)))
    path = crafted(tmp_path / "m.keras", saved, **{"config.json": json.dumps(config)})
    with pytest.raises(ValueError, match="not a readable Keras model"):
        common.load_model(path)


@pytest.mark.parametrize(
    ("module", "name", "config"),
    [
        ("os", "system", {"command": "touch it-ran"}),
        ("builtins", "exec", {"object": "open('it-ran', 'w')"}),
        ("subprocess", "Popen", {"args": ["touch", "it-ran"]}),
        ("keras.utils", "get_file", {"fname": "it-ran", "origin": "file:///etc/hostname"}),
        ("keras.layers", "TFSMLayer", {"filepath": "."}),
        ("keras.layers", "TorchModuleWrapper", {"module": "gASVIAAAAAAAAACMBXBvc2l4lIwG"}),
        ("faq_keras.files", "atomic_write", {"path": "it-ran"}),
        ("tests.networks", "tiny_resnet", {}),
    ],
)
@pytest.mark.parametrize("where", ["layer", "float layer"])
def test_names_of_other_code_are_refused(
    saved, tmp_path, marker, monkeypatch, where, module, name, config
):
    monkeypatch.chdir(tmp_path)
    evil = {"module": module, "class_name": name, "config": config, "registered_name": name}
    model = json.loads(saved["config.json"])
    (conv,) = find(model, "QuantizedConv2D")
    if where == "layer":
        conv.update(evil)
    else:
        conv["config"]["float_layers"][1] = evil
    path = crafted(tmp_path / "m.keras", saved, **{"config.json": json.dumps(model)})
    with pytest.raises(ValueError, match="not a readable Keras model"):
        common.load_model(path)


def test_members_that_point_out_are_refused(saved, tmp_path):
    path = crafted(tmp_path / "m.keras", saved, **{"../escaped": b"x"})
    with pytest.raises(ValueError, match=r"'\.\./escaped' points out of it"):
        common.load_model(path)


@pytest.mark.parametrize("edge", [20_000, 1_000_000])
def test_an_absurd_size_in_a_model_is_refused_and_takes_no_memory(tmp_path, edge):
    inputs = keras.Input((4, 4, 2), name="image")
    x = layers.GlobalAveragePooling2D()(test_networks.conv_bn_relu(inputs, 3))
    model = test_networks.randomize(keras.Model(inputs, layers.Dense(2)(x)))
    q = faq_keras.apply(model, 4, calibration_data=test_networks.images(8, (4, 4, 2)))
    q.save(tmp_path / "q.keras")
    with zipfile.ZipFile(tmp_path / "q.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    (source,) = find(config, "InputLayer")
    source["config"]["batch_shape"] = [None, edge, edge, 2]
    path = crafted(tmp_path / "m.keras", members, **{"config.json": json.dumps(config)})
    loaded = common.load_model(path)
    tracemalloc.start()
    with pytest.raises(ValueError, match="could overflow its 32-bit accumulator"):
        lower(loaded)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_bomb_in_a_model_is_refused(saved, tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in saved.items():
            archive.writestr(name, content)
        archive.writestr("assets/zeros", bytes(2**20))
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")  # the last member's entry: it now declares 3 GB
    content[at + 24 : at + 28] = (3 * 2**30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="decompression bomb"):
        common.load_model(str(path))


class Evil:
    """A pickle of it would make the marker."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def pickled(marker):
    return np.array([Evil(marker)], dtype=object)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickles_in_arrays_are_refused(tmp_path, marker, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, pickled(marker), allow_pickle=True)
    else:
        np.savez(path, x=pickled(marker))
    with pytest.raises(ValueError, match="not a readable"):
        common.load_inputs(str(path), None)


@pytest.mark.parametrize("kind", ["pickled", "bare pickle", "escaping", "deep", "list"])
def test_crafted_checkpoints_are_refused(tmp_path, marker, kind):
    path, meta = tmp_path / "c.npz", {"format": checkpoints.FORMAT, "epoch": 0, "step": 0}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(Evil(marker)))
    elif kind == "pickled":
        np.savez(path, **{"meta.json": pickled(marker)})
    elif kind == "escaping":
        stream = io.BytesIO()
        np.save(stream, np.zeros(2))
        crafted(path, {"../w.npy": stream.getvalue(), "meta.json.npy": stream.getvalue()})
    else:
        text = "[" * 100_000 if kind == "deep" else json.dumps([meta])
        np.savez(path, **{"meta.json": np.frombuffer(text.encode(), np.uint8)})
    with pytest.raises(checkpoints.CheckpointError, match="is not a readable checkpoint"):
        checkpoints.load(path)


def test_a_plan_of_a_hundred_thousand_brackets_is_refused(tmp_path):
    (tmp_path / "p.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not a quantization plan"):
        QuantPlan.load(tmp_path / "p.json")
