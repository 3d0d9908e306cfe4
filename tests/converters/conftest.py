"""Small ONNX files made on the spot, and the comparison of a converted file with onnxruntime."""

import pathlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
import onnx
import pytest

from faq_keras.converters import from_onnx, parity

Check = Callable[..., keras.Model]


@pytest.fixture
def write_onnx(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Writes a graph with the input x [batch, 4, 9, 10], or `shape`, and `outputs`."""

    def write(
        nodes: list[onnx.NodeProto],
        weights: dict[str, np.ndarray] | None = None,
        shape: tuple = ("batch", 4, 9, 10),
        opset: int = 17,
        output_rank: int = 4,
        name: str = "network.onnx",
        outputs: Sequence[str] = ("y",),
    ) -> pathlib.Path:
        for number, node in enumerate(nodes):
            node.name = node.name or f"/{node.op_type}_{number}"
        tensor = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            nodes,
            "network",
            [tensor("x", onnx.TensorProto.FLOAT, shape)],
            [tensor(y, onnx.TensorProto.FLOAT, [None] * output_rank) for y in outputs],
            [onnx.numpy_helper.from_array(a, key) for key, a in (weights or {}).items()],
        )
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8
        )
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return write


@pytest.fixture
def assert_equal_to_onnxruntime(tmp_path: pathlib.Path) -> Check:
    """Converts a file, compares it with onnxruntime, reloads it: (path, count, ...) -> model."""

    def check(path: pathlib.Path, images: int = 3, **options: object) -> keras.Model:
        model = from_onnx(path, **options)
        x = np.random.default_rng(1).normal(size=(images, *model.input_shape[1:]))
        x = x.astype(np.float32)
        expected = parity.onnx_runner(path, threads=1)(x)
        got = parity.keras_runner(model)(x)
        agreement = parity.agreement(expected, got)
        print(agreement)
        assert agreement.relative_error <= parity.LARGEST_RELATIVE_ERROR
        assert not any(isinstance(layer, keras.layers.Lambda) for layer in model.layers)
        reloaded = parity.keras_runner(saved_and_loaded(model, tmp_path))
        for output, again in zip(got, reloaded(x), strict=True):
            np.testing.assert_array_equal(again, output)
        return model

    return check


def saved_and_loaded(model: keras.Model, folder: pathlib.Path) -> keras.Model:
    """The model after a round trip through a `.keras` file, with nothing else passed."""
    path = folder / "reloaded.keras"
    model.save(path)
    return keras.saving.load_model(path, compile=False)
