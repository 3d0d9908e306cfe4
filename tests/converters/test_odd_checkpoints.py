"""Checkpoints that are read without harm and are no state_dict: one sentence in 4 GiB and 30 s."""

import collections
import io
import zipfile

import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")

from faq_keras.converters import ConversionError  # noqa: E402
from faq_keras.converters.torch_to_onnx import load_module, read_checkpoint  # noqa: E402
from tests.reliability import limited  # noqa: E402


def cyclic():
    content = {}
    content["net"] = content
    return content


def wrapped(depth):
    content = {"conv1.weight": torch.zeros(2)}
    for _ in range(depth):
        content = {"model": content}
    return content


def with_(tensor):
    return {"conv1.weight": tensor}


ODD = {
    "number keys": ({3: torch.zeros(2), "a": torch.zeros(2)}, "keys that are no text: 3"),
    "tuple keys": ({("a", 1): torch.zeros(2)}, "keys that are no text"),
    "bytes keys": ({b"a": torch.zeros(2)}, "keys that are no text"),
    "None keys": ({None: torch.zeros(2)}, "keys that are no text: None"),
    "sparse": (with_(torch.zeros(3, 3).to_sparse()), "'conv1.weight' is sparse"),
    "sparse rows": (with_(torch.eye(3).to_sparse_csr()), "'conv1.weight' is sparse"),
    "meta": (with_(torch.zeros(3, device="meta")), "'conv1.weight' has no values"),
    "large meta": (with_(torch.zeros(10**13, device="meta")), "'conv1.weight' has no values"),
    "expanded": (with_(torch.zeros(1).expand(10**9)), "'conv1.weight' has 1,000,000,000"),
    "expanded rows": (with_(torch.zeros(4, 1).expand(4, 10**10)), "'conv1.weight' has"),
    "expanded integers": (with_(torch.zeros(1, dtype=int).expand(10**10)), "'conv1.weight' has"),
    "overlapping": (
        with_(torch.as_strided(torch.zeros(99), (90, 90), (0, 1))), "'conv1.weight' has"),
    "complex": (with_(torch.zeros(3, dtype=torch.complex64)), "'conv1.weight' is complex64"),
    "quantized": (
        with_(torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)), "quantized"),
    "cyclic": (cyclic(), "wrapped"),
    "wrapped often": (wrapped(200), "wrapped"),
    "NaN": (with_(torch.tensor([float("nan")])), "NaN or infinite: 'conv1.weight'"),
    "escape": ({"a\x1b[2J\u202e\n": torch.zeros(2)}, r"'a\\x1b[2J\\u202e\\n' is unknown"),
    "long keys": ({"k" * 10**6: torch.zeros(2)}, "is unknown"),
    "many keys": ({f"k{i}": torch.zeros(1) for i in range(20_000)}, "more"),
    "no mapping": ([torch.zeros(2)], "holds a list"),
    "a tensor": (torch.zeros(2), "holds a Tensor"),
    "other values": ({"a": 3, "b": "x", "c": None}, "not tensors: 'a' (int)"),
    "ordered": (collections.OrderedDict({5: torch.zeros(2)}), "keys that are no text"),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    for name, (content, _) in ODD.items():
        torch.save(content, folder / f"{name}.pth")
    commands = [
        ["convert", folder / f"{n}.pth", "--arch=resnet20_cifar10", f"--output={folder}/m.keras"]
        for n in ODD
    ]
    return dict(zip(ODD, limited.commands(*commands), strict=True))


@pytest.mark.parametrize("name", ODD)
def test_odd_checkpoints_end_in_one_sentence(outcomes, name):
    message = limited.refusal(outcomes[name], "convert")
    assert f"{name}.pth" in message and ODD[name][1].replace("\\\\", "\\") in message, message


def test_a_zip_bomb_is_refused(tmp_path):
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, stream)
    path = tmp_path / "bomb.pth"
    with (
        zipfile.ZipFile(stream) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
        with target.open("bomb/data/1", "w") as member:
            for _ in range(300):
                member.write(bytes(2**20))
    with pytest.raises(ConversionError, match="decompression bomb"):
        read_checkpoint(path)


def test_views_and_tied_weights_are_read(tmp_path):
    """Transposed, sliced and shared tensors are what people save; none is larger than its data."""
    module = load_module("resnet20_cifar10")
    state = dict(module.state_dict())
    state["linear.weight"] = state["linear.weight"].t().contiguous().t()
    whole = torch.randn(40)
    state["linear.bias"] = whole[5:15]
    torch.save(state, tmp_path / "c.pth")
    again = load_module("resnet20_cifar10", weights=tmp_path / "c.pth").state_dict()
    assert torch.equal(again["linear.weight"], state["linear.weight"])
    assert torch.equal(again["linear.bias"], whole[5:15])
