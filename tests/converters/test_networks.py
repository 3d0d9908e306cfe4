"""Whole networks from torch: equal to torch and to onnxruntime, and again after a `.keras` file."""

import keras
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")

from faq_keras.converters import from_onnx, from_torch, parity  # noqa: E402
from faq_keras.converters.errors import ConversionError  # noqa: E402
from faq_keras.converters.network import readable  # noqa: E402
from faq_keras.converters.torch_networks import randomised  # noqa: E402
from faq_keras.converters.torch_to_onnx import load_module, torch_to_onnx  # noqa: E402
from faq_keras.converters.zoo import ZOO  # noqa: E402

SMALL = {
    "resnet20_cifar10": 32,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 64,
}
LARGE = {
    "mobilenet_v3_small": 64,
    "googlenet": 64,
    "resnet18_cifar10": 32,
    "squeezenet1_1": 96,
    "mobilenet_v2": 96,
    "mobilenet_v3_large": 96,
    "efficientnet_b0": 96,
    "efficientnet_lite0": 96,
    "resnext50_32x4d": 96,
    "mnasnet1_0": 96,
    "regnet_y_400mf": 96,
    "regnet_x_400mf": 96,
    "densenet121": 96,
    "alexnet": 224,
    "resnet34": 224,
    "resnet50": 224,
    "resnet152": 224,
    "inception_v3": 299,
    "densenet161": 224,
    "vgg16_bn": 224,
}


def cases():
    yield from (pytest.param(*case, id=case[0]) for case in SMALL.items())
    yield from (pytest.param(*c, id=c[0], marks=pytest.mark.slow) for c in LARGE.items())


@pytest.mark.parametrize("name, size", cases())
def test_network_equals_torch_and_onnxruntime(name, size, tmp_path):
    torch.manual_seed(0)
    module = randomised(load_module(name))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    model, report = from_torch(module, input_shape=(size, size, 3))
    print(report)
    for agreement in report.agreements.values():
        assert agreement.relative_error <= 1e-5
        assert agreement.same_top1 == agreement.images == 64
    assert set(report.agreements) == {"torch", "onnxruntime"}
    after = module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert_plain_trainable_layers(model, module)
    x = parity.normalised_photographs((size, size, 3), 2)
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras", compile=False)
    expected = np.asarray(model(x, training=False))
    np.testing.assert_array_equal(np.asarray(reloaded(x, training=False)), expected)


def assert_plain_trainable_layers(model, module):
    """Standard layers only; as many convolutions and BatchNorms as the original has."""
    kinds = [type(layer) for layer in model.layers]
    assert all(kind.__module__.startswith("keras.") for kind in kinds)
    assert keras.layers.Lambda not in kinds
    parts = [part for name, part in module.named_modules() if not name.startswith("AuxLogits")]
    convolutions = sum(isinstance(part, torch.nn.Conv2d) for part in parts)
    norms = sum(isinstance(part, torch.nn.BatchNorm2d) for part in parts)
    found = sum(kind in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D) for kind in kinds)
    assert (found, kinds.count(keras.layers.BatchNormalization)) == (convolutions, norms)
    named = {readable(key.removesuffix(".weight")) for key, _ in module.named_parameters()}
    ours = {layer.name for layer in model.layers if layer.weights}
    assert ours <= named


@pytest.mark.parametrize(
    "name, opset",
    [
        ("shufflenet_v2_x0_5", 18),
        *(
            pytest.param(name, opset, marks=pytest.mark.slow)
            for name, opset in [("shufflenet_v2_x0_5", 21), ("mobilenet_v2", 18), ("resnet18", 23)]
        ),
    ],
)
def test_newer_exporter_without_folding(name, opset, tmp_path, assert_equal_to_onnxruntime):
    pytest.importorskip("onnxscript", reason="torch's newer exporter needs onnxscript")
    module = randomised(load_module(name))
    path = export_with_dynamo(module, tmp_path / "m.onnx", opset, optimize=False)
    model = assert_equal_to_onnxruntime(path)
    assert_plain_trainable_layers(model, module)


class Ceiled(torch.nn.Module):
    """Ends in a pooling whose size onnx's shape inference gets wrong."""

    def __init__(self, classes):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, 2, bias=False)
        self.bn = torch.nn.BatchNorm2d(4)
        self.pool = torch.nn.MaxPool2d(2, 3, 1, ceil_mode=True)
        self.fc = torch.nn.Linear(36, classes) if classes else torch.nn.Identity()

    def forward(self, x):
        x = self.pool(torch.relu(self.bn(self.conv(x))))
        return self.fc(x.flatten(1))


@pytest.mark.parametrize(("classes", "witnesses"), [(0, {"torch", "onnxruntime"}), (5, {"torch"})])
def test_a_pool_whose_size_onnx_infers_wrongly_equals_torch(classes, witnesses):
    """Behind a Gemm of the right size onnxruntime, which infers alike, refuses the file."""
    model, report = from_torch(randomised(Ceiled(classes), seed=2), input_shape=(15, 15, 3))
    assert model.output_shape == (None, classes or 36)
    assert set(report.agreements) == witnesses


def test_a_network_that_torch_cannot_export_is_one_sentence(capfd):
    layers = torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(3), torch.nn.Flatten()
    with pytest.raises(ConversionError, match=r"PyTorch cannot export Sequential .* 16 x 16 x 3"):
        from_torch(torch.nn.Sequential(*layers), input_shape=(16, 16, 3))
    assert capfd.readouterr().out == ""


def test_newer_exporter_folds_and_is_refused(tmp_path, assert_equal_to_onnxruntime):
    pytest.importorskip("onnxscript", reason="torch's newer exporter needs onnxscript")
    module = randomised(load_module("resnet20_cifar10"))
    path = export_with_dynamo(module, tmp_path / "m.onnx", 18, optimize=True)
    with pytest.raises(ConversionError, match=r"folded into 19 .*TrainingMode\.PRESERVE"):
        from_onnx(path)
    assert_equal_to_onnxruntime(path, allow_folded=True)


def export_with_dynamo(module, path, opset, optimize):
    torch.onnx.export(
        module,
        (torch.zeros(2, 3, 64, 64),),
        path,
        dynamo=True,
        opset_version=opset,
        optimize=optimize,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    return path


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 16, 17, 18, 20])
def test_older_exporter_in_every_opset(opset, tmp_path, assert_equal_to_onnxruntime):
    module = randomised(load_module("mobilenet_v3_small"))
    path = tmp_path / "m.onnx"
    torch.onnx.export(
        module,
        (torch.zeros(1, 3, 32, 32),),
        path,
        dynamo=False,
        opset_version=opset,
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    model = assert_equal_to_onnxruntime(path, images=1)
    assert_plain_trainable_layers(model, module)


def test_older_exporter_folds_and_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    module = randomised(load_module("resnet20_cifar10"))
    torch.onnx.export(module, (torch.zeros(1, 3, 32, 32),), path, dynamo=False, opset_version=17)
    with pytest.raises(ConversionError, match="already folded into 19 convolutions"):
        from_onnx(path)


def test_export_in_training_mode_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    module = load_module("resnet20_cifar10").train()
    torch.onnx.export(
        module,
        (torch.zeros(2, 3, 32, 32),),
        path,
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    with pytest.raises(ConversionError, match=r"exported in training mode.*model\.eval\(\)"):
        from_onnx(path)


def test_module_stays_in_the_modes_it_was_in(tmp_path):
    module = load_module("resnet20_cifar10").train()
    module.bn1.eval()
    torch_to_onnx(module, tmp_path / "m.onnx", (32, 32, 3))
    assert module.training and module.layer1.training and not module.bn1.training


def test_size_left_open_by_the_file(tmp_path, assert_equal_to_onnxruntime):
    path = tmp_path / "m.onnx"
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.ReLU()).eval()
    torch.onnx.export(
        module,
        (torch.zeros(1, 3, 32, 32),),
        path,
        dynamo=False,
        opset_version=17,
        input_names=["x"],
        dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}},
    )
    with pytest.raises(ConversionError, match=r"Pass input_shape=\(height, width, channels\)"):
        from_onnx(path)
    model = assert_equal_to_onnxruntime(path, input_shape=(20, 24, 3))
    assert model.output_shape == (None, 10, 12, 4)


def test_converted_network_trains_and_batch_norm_moves():
    module = randomised(load_module("resnet20_cifar10"))
    model, _ = from_torch(module, input_shape=(32, 32, 3))
    moving = model.get_layer("layer2_0_bn1").moving_mean.numpy().copy()
    model.compile("sgd", "mse", jit_compile=False)
    x = parity.normalised_photographs((32, 32, 3), 8)
    before, *_, after = model.fit(
        x, np.zeros((8, 10), np.float32), epochs=4, batch_size=8, verbose=0
    ).history["loss"]
    assert after < before
    assert not np.array_equal(model.get_layer("layer2_0_bn1").moving_mean.numpy(), moving)


def test_zoo_holds_the_seven_networks_of_table_1():
    seven = {name for name, entry in ZOO.items() if entry.published}
    assert seven == {
        *("resnet18", "resnet34", "resnet50", "resnet152"),
        *("inception_v3", "densenet161", "vgg16_bn"),
    }
    assert ZOO["resnet18"].published["w4a4"] == (69.78, 89.11)
    assert ZOO["inception_v3"].input_shape == (299, 299, 3)
