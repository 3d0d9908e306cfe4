"""`faq convert` as users call it, in a process of its own."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")

from faq_keras.converters.torch_networks import randomised  # noqa: E402
from faq_keras.converters.torch_to_onnx import load_module, torch_to_onnx  # noqa: E402
from faq_keras.converters.zoo import ZOO, preprocessing_of  # noqa: E402

FACTORY = """
import torch

def network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    )
"""


def faq(folder, *arguments):
    """Runs `faq` and returns its exit status, what it printed and what it complained about."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "faq_keras", *map(str, arguments)]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    complaints = [line for line in run.stderr.splitlines() if line.startswith("faq ")]
    assert "Traceback" not in run.stderr
    return run.returncode, run.stdout, complaints


@pytest.fixture(scope="module")
def module():
    return randomised(load_module("resnet20_cifar10"), seed=5)


def test_a_file_that_onnxruntime_does_not_run_is_one_sentence(tmp_path):
    """onnxruntime infers 4 x 4 behind this pooling and misses weights; all others know of 3 x 3."""
    pool = torch.nn.MaxPool2d(2, 3, 1, ceil_mode=True)
    layers = torch.nn.ReLU(), pool, torch.nn.Flatten(), torch.nn.Linear(36, 3)
    torch_to_onnx(torch.nn.Sequential(*layers), tmp_path / "m.onnx", (7, 7, 4))
    status, text, complaints = faq(tmp_path, "convert", "m.onnx", "--output=m.keras")
    assert (status, text) == (1, "")
    assert "onnxruntime does not run m.onnx, so that there is nothing to compare" in complaints[0]
    assert not (tmp_path / "m.keras").exists()


def test_checkpoint_with_preprocessing_as_a_layer(module, tmp_path):
    torch.save({"net": module.state_dict()}, tmp_path / "r20.pth")
    status, text, complaints = faq(
        tmp_path,
        "convert",
        "r20.pth",
        "--arch=resnet20_cifar10",
        "--output=r20.keras",
        "--with_preprocessing",
        "--report=r20.json",
    )
    assert (status, complaints) == (0, [])
    assert "top-1 equal on 64 of 64 images" in text
    model = keras.saving.load_model(tmp_path / "r20.keras", compile=False)
    entry = ZOO["resnet20_cifar10"]
    found = preprocessing_of(tmp_path / "r20.keras")
    assert found.in_model and found.mean == entry.preprocessing.mean
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    x = torch.from_numpy(entry.preprocessing.apply(pixels).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        expected = module(x).numpy()
    got = model.predict(pixels.astype(np.float32), verbose=0)
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    report = json.loads((tmp_path / "r20.json").read_text())
    assert report["agreements"]["torch"]["relative_error"] <= 1e-5


def test_factory_of_the_current_folder(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    namespace = {}
    exec(FACTORY, namespace)
    torch.save(namespace["network"]().state_dict(), tmp_path / "m.pt")
    status, _, complaints = faq(
        tmp_path,
        "convert",
        "m.pt",
        "--factory=mine:network",
        "--input_shape=8,8,1",
        "--output=m.keras",
    )
    assert (status, complaints) == (0, [])
    model = keras.saving.load_model(tmp_path / "m.keras", compile=False)
    assert (model.input_shape, model.output_shape) == ((None, 8, 8, 1), (None, 3))
    assert preprocessing_of(tmp_path / "m.keras") is None


def test_onnx_file(module, tmp_path):
    torch_to_onnx(module, tmp_path / "r20.onnx", (32, 32, 3))
    status, text, complaints = faq(tmp_path, "convert", "r20.onnx", "--output=r20.keras")
    assert (status, complaints) == (0, [])
    assert "onnxruntime: relative error" in text
    assert (tmp_path / "r20.keras").exists()


@pytest.mark.parametrize(
    "name, content, options, message",
    [
        ("m.onnx", b"junk", ["--output=m.keras"], "not an ONNX file"),
        ("m.pth", b"junk", ["--output=m.keras", "--arch=resnet18"], "not a checkpoint"),
        ("m.pth", b"junk", ["--output=m.keras"], "--arch=NAME or --factory"),
        pytest.param(
            *("m.onnx", b"junk", ["--output=m.keras", "--arch=resnet18"], "go with a PyTorch"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("m.onnx", b"junk", ["--output=m.h5"], "--output is missing or not"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("m.txt", b"junk", ["--output=m.keras"], "ends neither in"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("m.onnx", b"junk", ["--output=m.keras", "--input_shape=3,x"], "is not height,width"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_file(tmp_path, name, content, options, message):
    (tmp_path / name).write_bytes(content)
    status, _, complaints = faq(tmp_path, "convert", name, *options)
    assert status == 1
    assert len(complaints) == 1 and message in complaints[0]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_network_that_differs_is_not_written(module, tmp_path, monkeypatch):
    from faq_keras.converters import ConversionError, from_torch, parity

    monkeypatch.setattr(parity, "LARGEST_RELATIVE_ERROR", 1e-12)
    with pytest.raises(ConversionError, match="does not equal its original"):
        from_torch(module, input_shape=(32, 32, 3))


def test_importing_the_room_imports_neither_torch_nor_onnx(tmp_path):
    code = (
        "import sys, faq_keras.converters; "
        "assert not {'torch', 'onnx', 'onnxruntime', 'tf2onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
