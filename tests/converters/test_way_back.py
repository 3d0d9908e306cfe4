"""Keras -> ONNX -> onnxruntime, and through onnx2torch into torch."""

import keras
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")

from faq_keras.converters import ConversionError, from_onnx, from_torch, to_onnx  # noqa: E402
from faq_keras.converters.torch_networks import randomised  # noqa: E402
from faq_keras.converters.torch_to_onnx import load_module  # noqa: E402


@pytest.mark.parametrize(
    "name, size",
    [
        ("resnet20_cifar10", 32),
        pytest.param("resnet18", 64, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", 64, marks=pytest.mark.slow),
    ],
)
def test_way_back_equals_the_model(name, size, tmp_path):
    model, _ = from_torch(randomised(load_module(name)), input_shape=(size, size, 3))
    report = to_onnx(model, tmp_path / "back.onnx")
    print(report)
    for runtime in ("onnxruntime", "onnx2torch"):
        assert report.agreements[runtime].relative_error <= 1e-5
        assert report.agreements[runtime].same_top1 == 16
    assert [p.name for p in tmp_path.iterdir()] == ["back.onnx"]


def test_models_of_another_form_are_refused(tmp_path):
    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    model = keras.Model([a, b], keras.layers.Add()([a, b]))
    with pytest.raises(ConversionError, match="2 inputs and 1 outputs"):
        to_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_difference_leaves_no_file_behind(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    images = np.full((1, 8, 8, 3), np.nan, np.float32)
    with pytest.raises(ConversionError, match="does not equal its original"):
        to_onnx(model, tmp_path / "m.onnx", images)
    assert not list(tmp_path.iterdir())


def test_image_outputs_are_channels_first_in_the_file(tmp_path):
    model = keras.Sequential([keras.Input((8, 10, 3)), keras.layers.Conv2D(4, 3)])
    to_onnx(model, tmp_path / "m.onnx")
    assert from_onnx(tmp_path / "m.onnx", allow_folded=True).output_shape == (None, 6, 8, 4)
