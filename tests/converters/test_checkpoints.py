"""Checkpoints as people save them; and those that are refused, without running anything."""

import os
import pathlib

import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")

from faq_keras.converters import ConversionError, from_torch  # noqa: E402
from faq_keras.converters.torch_networks import randomised  # noqa: E402
from faq_keras.converters.torch_to_onnx import load_module, read_checkpoint  # noqa: E402


@pytest.fixture(scope="module")
def module():
    return randomised(load_module("resnet20_cifar10"), seed=3)


def with_prefix(state, prefix):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "best": 0.5},
        lambda state: {"net": with_prefix(state, "module."), "acc": 94.6},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: with_prefix(state, "_orig_mod.module."),
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_and_prefixes(module, tmp_path, wrap, zipped):
    path = tmp_path / "c.pth"
    torch.save(wrap(module.state_dict()), path, _use_new_zipfile_serialization=zipped)
    loaded = load_module("resnet20_cifar10", weights=path)
    assert torch.equal(
        loaded.state_dict()["layer3.2.bn2.running_var"], module.layer3[2].bn2.running_var
    )


def test_old_densenet_names():
    module = load_module("densenet121")
    new = "features.denseblock1.denselayer2.norm1.weight"
    assert new in module.state_dict()
    state = {key.replace("norm1", "norm.1"): value for key, value in module.state_dict().items()}
    path = pathlib.Path(os.environ.get("TMPDIR", "/tmp")) / "old_densenet.pth"
    torch.save(state, path)
    assert new in read_checkpoint(path)
    path.unlink()


def test_checkpoint_and_module_object(module, tmp_path):
    path = tmp_path / "c.pth"
    torch.save(module.state_dict(), path)
    _, report = from_torch(load_module("resnet20_cifar10"), path, (32, 32, 3))
    assert report.agreements["torch"].same_top1 == 64


def test_keys_that_do_not_fit_are_all_named(module, tmp_path):
    state = dict(module.state_dict())
    del state["bn1.weight"]
    state["extra"] = torch.zeros(3)
    state["linear.weight"] = torch.zeros(100, 64)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ConversionError) as caught:
        load_module("resnet20_cifar10", weights=tmp_path / "c.pth")
    for part in (
        "'bn1.weight' is missing",
        "'extra' is unknown",
        "'linear.weight' is [100, 64] instead of [10, 64]",
        "CifarResNet",
    ):
        assert part in str(caught.value)


class Malicious:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickle_runs_nothing(tmp_path, zipped):
    path, proof = tmp_path / "c.pth", tmp_path / "executed"
    torch.save({"w": Malicious(proof)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConversionError, match="Nothing of it was executed") as caught:
        load_module("resnet20_cifar10", weights=path)
    assert not proof.exists()
    assert "weights_only=False" not in str(caught.value)


def test_pickled_module_is_refused(module, tmp_path):
    torch.save(module, tmp_path / "c.pth")
    with pytest.raises(ConversionError, match=r"torch\.save\(model\.state_dict\(\), file\)"):
        load_module("resnet20_cifar10", weights=tmp_path / "c.pth")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"no checkpoint at all", "not a checkpoint"),
        (b"PK\x03\x04 truncated", "not a checkpoint"),
        (b"\x80\x04.", "not a checkpoint"),
    ],
)
def test_junk_is_refused(tmp_path, content, message):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(ConversionError, match=message):
        read_checkpoint(tmp_path / "c.pth")


def test_truncated_checkpoint_is_refused(module, tmp_path):
    path = tmp_path / "c.pth"
    torch.save(module.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ConversionError, match="not a checkpoint"):
        read_checkpoint(path)


def test_nan_weights_are_named(module, tmp_path):
    state = dict(module.state_dict())
    state["linear.bias"] = torch.full((10,), float("nan"))
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ConversionError, match=r"NaN or infinite: 'linear\.bias'"):
        read_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1, 2], {"state_dict": {"a": 1}}, {}, {"epoch": 3}]
)
def test_other_contents_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(ConversionError, match="not a state_dict"):
        read_checkpoint(tmp_path / "c.pth")


def test_unknown_architecture_and_factories():
    with pytest.raises(ConversionError, match="Unknown architecture 'resnet19'"):
        load_module("resnet19")
    with pytest.raises(ConversionError, match=r"not of the form pkg\.module:function"):
        load_module(factory="resnet18")
    with pytest.raises(ConversionError, match="cannot be imported"):
        load_module(factory="no_such_package:function")
    with pytest.raises(ConversionError, match="has no function 'no'"):
        load_module(factory="torchvision.models:no")
    with pytest.raises(ConversionError, match=r"failed: .* missing 1 required"):
        load_module(factory=lambda width: width)
    with pytest.raises(ConversionError, match="returned a int"):
        load_module(factory=lambda: 3)
