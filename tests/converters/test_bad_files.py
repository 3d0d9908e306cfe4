"""Bad ONNX files: each gives one clear sentence and no model."""

import os

import numpy as np
import onnx
import pytest

from faq_keras.converters import ConversionError, from_onnx

RANDOM = np.random.default_rng(0)


@pytest.fixture
def small(write_onnx):
    """A valid network: convolution, ReLU, global mean, matrix."""
    nodes = [
        onnx.helper.make_node("Conv", ["x", "c.weight"], ["c"], name="/c/Conv"),
        onnx.helper.make_node("Relu", ["c"], ["r"], name="/r/Relu"),
        onnx.helper.make_node("GlobalAveragePool", ["r"], ["p"], name="/p/GlobalAveragePool"),
        onnx.helper.make_node("Flatten", ["p"], ["f"], name="/f/Flatten"),
        onnx.helper.make_node("Gemm", ["f", "fc.weight"], ["y"], name="/fc/Gemm"),
    ]
    weights = {
        "c.weight": RANDOM.normal(size=(8, 4, 3, 3)).astype(np.float32),
        "fc.weight": RANDOM.normal(size=(8, 5)).astype(np.float32),
    }
    return write_onnx(nodes, weights, output_rank=2)


def rewrite(path, change, **options):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path, **options)
    return path


def refused(path, message, **options):
    with pytest.raises(ConversionError, match=message) as caught:
        from_onnx(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"this is a text file and no protocol buffer", "not an ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX file"),
        (bytes(1000), "not an ONNX file"),
        (b"\x08\x08", "no nodes"),
    ],
)
def test_junk(tmp_path, content, message):
    (tmp_path / "m.onnx").write_bytes(content)
    refused(tmp_path / "m.onnx", message)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.999])
def test_truncated(small, fraction):
    content = small.read_bytes()
    small.write_bytes(content[: int(len(content) * fraction)])
    refused(small, "truncated")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx"):
        from_onnx(tmp_path / "nothing.onnx")
    with pytest.raises(OSError):
        from_onnx(tmp_path)


def test_all_unsupported_ops_are_listed(small):
    def change(model):
        model.graph.node[1].op_type = "Erf"
        model.graph.node[3].op_type = "NonMaxSuppression"
        model.graph.node[2].domain = "com.microsoft"

    text = refused(rewrite(small, change), "3 nodes with no Keras counterpart")
    for part in (
        "Erf (node '/r/Relu')",
        "NonMaxSuppression (node '/f/Flatten')",
        "com.microsoft::GlobalAveragePool (node '/p/GlobalAveragePool')",
    ):
        assert part in text


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_weights_are_named(small, number):
    def change(model):
        array = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
        array[0, 0, 0, 0] = number
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array, "c.weight"))

    refused(rewrite(small, change), r"NaN or infinite: 'c\.weight' \(1 of 288 values\)")


@pytest.mark.parametrize("version", [0, 7, 10, 24, 99])
def test_opset_out_of_range(small, version):
    def change(model):
        model.opset_import[0].version = version

    refused(rewrite(small, change), rf"opset \[{version}\]; supported are 11 to 23")


def test_two_inputs(small):
    def change(model):
        model.graph.input.add().CopyFrom(model.graph.input[0])
        model.graph.input[1].name = "z"

    refused(rewrite(small, change), r"has 2 inputs \(x; z\)")


@pytest.mark.parametrize(
    "dims, message",
    [
        (("batch", 4, "h", "w"), r"Pass input_shape=\(height, width, channels\)"),
        (("batch", "c", 9, 10), "leaves a size open"),
        (("batch", 4, 9), r"not a float32 image"),
        (("batch", 3, 9, 10), "does not fit"),
    ],
)
def test_input_of_another_shape(small, dims, message):
    def change(model):
        tensor = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, dims)
        model.graph.input[0].CopyFrom(tensor)

    refused(rewrite(small, change), f"{message}|not a valid ONNX")


def test_input_of_another_type(small):
    def change(model):
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16

    refused(rewrite(small, change), "not a float32 image")


@pytest.mark.parametrize("shape", [(9, 10, 3), (9, 10), (0, 10, 4)])
def test_input_shape_that_does_not_fit(small, shape):
    refused(small, r"does not fit input_shape", input_shape=shape)


def external(small):
    """The same network with its weights in `weights.bin`."""
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    return rewrite(small, lambda model: None, **options)


def relocate(path, **entries):
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_are_read(small, assert_equal_to_onnxruntime):
    assert_equal_to_onnxruntime(external(small))


def test_external_data_missing(small):
    external(small)
    (small.parent / "weights.bin").unlink()
    refused(small, r"'weights\.bin', which does not exist")


def test_external_data_truncated(small):
    external(small)
    data = small.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:100])
    refused(small, "is truncated: it has 100 bytes")


@pytest.mark.parametrize("how", ["parent", "absolute", "link"])
def test_external_data_outside_the_folder_are_not_read(small, tmp_path_factory, how):
    external(small)
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.bin"
    secret.write_bytes((small.parent / "weights.bin").read_bytes())
    if how == "link":
        (small.parent / "weights.bin").unlink()
        (small.parent / "weights.bin").symlink_to(secret)
    else:
        relative = os.path.relpath(secret, small.parent)
        relocate(small, location=str(secret) if how == "absolute" else relative)
    refused(small, "not a plain file below the folder")


@pytest.mark.parametrize("entry, value", [("offset", "junk"), ("offset", "-4"), ("length", "3")])
def test_external_data_with_wrong_entries(small, entry, value):
    relocate(external(small), **{entry: value})
    refused(small, r"c\.weight")


def test_weights_that_do_not_fit_their_shape(small):
    def change(model):
        model.graph.initializer[0].dims[0] = 7

    refused(rewrite(small, change), r"'c\.weight' do not fit its declared type and shape")


def test_batch_norm_folded_by_the_exporter(small):
    def change(model):
        model.graph.initializer[0].name = model.graph.node[0].input[1] = "onnx::Conv_12"

    text = refused(rewrite(small, change), "BatchNorm is already folded into 1 convolutions")
    assert "training=torch.onnx.TrainingMode.PRESERVE" in text


def test_a_graph_that_contradicts_itself(small):
    def change(model):
        model.graph.node[4].input[0] = "nowhere"

    refused(rewrite(small, change), "not a valid ONNX network")


def test_output_that_does_not_depend_on_the_image(small):
    def change(model):
        model.graph.node[4].input[0] = "fc.weight"
        model.graph.node[4].input[1] = "fc2"
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.ones((5, 5), np.float32), "fc2")
        )

    refused(rewrite(small, change), "constant|does not depend on the image")
