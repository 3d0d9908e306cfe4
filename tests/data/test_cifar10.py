"""CIFAR-10 in both published forms; a pickle that wants more than arrays does not run."""

import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from faq_keras.data import cifar10
from faq_keras.data.sources import load_source
from tests.material import CIFAR10_NAMES, cifar10_images


@pytest.mark.parametrize("kind", ["cifar10_python", "cifar10_binary"])
def test_both_versions_hold_the_same_images(kind, request, cifar10_parts):
    folder = request.getfixturevalue(kind)
    arrays = cifar10.read(folder)
    assert (arrays.x_train == np.concatenate([x for x, _ in cifar10_parts[:5]])).all()
    assert (arrays.y_train == np.concatenate([y for _, y in cifar10_parts[:5]])).all()
    assert (arrays.x_test == cifar10_parts[5][0]).all()
    assert (arrays.y_test == cifar10_parts[5][1]).all()
    assert arrays.x_train.dtype == np.uint8
    assert arrays.y_train.dtype == np.int64
    inside = next(path for path in folder.iterdir() if path.is_dir())
    assert (cifar10.read(inside).x_train == arrays.x_train).all()


def test_class_names_are_read_where_they_are(cifar10_python):
    assert cifar10.read(cifar10_python).class_names[3] == "class 3"
    (cifar10_python / cifar10.PYTHON / "batches.meta").unlink()
    assert cifar10.read(cifar10_python).class_names == ()


@pytest.mark.slow
def test_the_whole_data_set_as_users_have_it(layout, data_dir, tmp_path):
    layout.cifar10(tmp_path)
    source = load_source("cifar10", str(tmp_path))
    assert source.images == {"train": 50_000, "validation": 10_000}
    assert source.class_names[0] == "airplane"
    images, labels = cifar10_images(data_dir, "test", 10_000)
    order = np.random.default_rng(0).permutation(10_000)  # of prepare.py
    records = list(source.records("validation").as_numpy_iterator())
    assert (np.stack([record["image"] for record in records]) == images[order]).all()
    assert ([record["label"] for record in records] == labels[order]).all()


def python2_pickle(data, labels, dtype=b"u1"):
    """What Python 2 and an old NumPy wrote, opcode by opcode: the authors' files look so."""
    raw = np.ascontiguousarray(data).tobytes()
    shape = b"M" + struct.pack("<H", data.shape[0]) + b"M" + struct.pack("<H", data.shape[1])
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(" + shape + b"tcnumpy\ndtype\n(U\x02" + dtype + b"K\x00K\x01tR"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<I", len(raw)) + raw + b"tb"
    )
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels](" + numbers + b"eu."


def test_a_pickle_of_python_2(cifar10_python, cifar10_parts):
    expected = cifar10.read(cifar10_python)
    for name, (x, y) in zip(CIFAR10_NAMES, cifar10_parts, strict=True):
        data = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        content = python2_pickle(data, y.tolist())
        assert (pickle.loads(content, encoding="bytes")[b"data"] == data).all()
        (cifar10_python / cifar10.PYTHON / name).write_bytes(content)
    arrays = cifar10.read(cifar10_python)
    assert (arrays.x_train == expected.x_train).all()
    assert (arrays.y_test == expected.y_test).all()


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


EVIL = {
    "system": lambda path: Call(os.system, f"touch {path}"),
    "subprocess": lambda path: Call(subprocess.getoutput, f"touch {path}"),
    "exec": lambda path: Call(exec, f"open({str(path)!r}, 'w').close()"),
    "eval in data": lambda path: {b"data": Call(eval, f"open({str(path)!r}, 'w')"), b"labels": []},
    "open": lambda path: Call(open, str(path), "w"),
    "getattr": lambda path: Call(getattr, str(path), "upper"),
    "numpy": lambda path: Call(np.save, str(path), np.zeros(3)),
    "object array": lambda path: {b"data": np.array([Call(open, str(path), "w")], object)},
}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("file", ["data_batch_3", "batches.meta"])
def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(
    cifar10_python, tmp_path, name, protocol, file
):
    trace = tmp_path / "it_has_run"
    content = pickle.dumps(EVIL[name](trace), protocol)
    (cifar10_python / cifar10.PYTHON / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file} wants to load .* nothing of it has run"):
        cifar10.read(cifar10_python)
    assert not trace.exists()


def test_the_malicious_pickles_do_run_in_the_open(tmp_path):
    """Else the test above would show nothing. In a process of its own."""
    trace = tmp_path / "it_has_run"
    content = pickle.dumps(EVIL["system"](trace))
    subprocess.run(
        [sys.executable, "-c", "import pickle, sys; pickle.load(sys.stdin.buffer)"],
        input=content,
        check=True,
    )
    assert trace.exists()


def array_pickle(**changes):
    """The pickle of a batch with a changed step of the array's construction."""
    return python2_pickle(np.zeros((2, 3072), np.uint8), [0, 1], **changes)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"not a pickle, or a damaged one \(EOFError"),
        (b"hello", r"not a pickle, or a damaged one \(UnpicklingError"),
        (array_pickle()[:-1], r"damaged one"),
        (array_pickle()[:3000], r"damaged one"),
        (pickle.dumps([1, 2]), r"it holds a list, not a dictionary"),
        (array_pickle(dtype=b"O8"), r"wants to load an array of 'O8'"),
        (array_pickle(dtype=b"V1"), r"wants to load an array of 'V1'"),
        (array_pickle(dtype=b"f4"), r"damaged one \(ValueError: cannot reshape"),
        (
            pickle.dumps({b"data": np.zeros((2, 3072))}),
            r"no batch of CIFAR-10: it has no data an",
        ),
        (
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [1, 2]}),
            r"no data and labels \(this looks like CIFAR-100\)",
        ),
        (
            pickle.dumps({b"data": np.zeros((2, 3072), np.float32), b"labels": [1, 2]}, 4),
            r"its data are float32 of shape \(2, 3072\) for 2 labels, not uint8",
        ),
        (
            pickle.dumps({b"data": np.zeros((3, 3072), np.uint8), b"labels": [1, 2]}, 4),
            r"its data are uint8 of shape \(3, 3072\) for 2 labels, not uint8 of shape \(2, 3072\)",
        ),
        (
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}, 4),
            r"its labels are not all in 0\.\.9",
        ),
        (
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": ["a", "b"]}, 4),
            r"its labels are not all in 0\.\.9",
        ),
    ],
)
def test_a_bad_batch_is_one_sentence(cifar10_python, content, message):
    (cifar10_python / cifar10.PYTHON / "data_batch_2").write_bytes(content)
    with pytest.raises(ValueError, match=f"data_batch_2.*{message}"):
        cifar10.read(cifar10_python)


@pytest.mark.parametrize("content", [b"", b"\0" * 3072, b"\0" * 3073 + b"\1"])
def test_a_truncated_binary_batch(cifar10_binary, content):
    (cifar10_binary / cifar10.BINARY / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"data_batch_2.bin is truncated or no batch"):
        cifar10.read(cifar10_binary)


def test_a_binary_batch_with_other_labels(cifar10_binary):
    """CIFAR-100's records have two label bytes, 3074 bytes in all."""
    (cifar10_binary / cifar10.BINARY / "test_batch.bin").write_bytes(b"\x0b" * 3073)
    with pytest.raises(ValueError, match=r"test_batch.bin .* labels are not all in 0\.\.9"):
        cifar10.read(cifar10_binary)


@pytest.mark.parametrize("kind", ["cifar10_python", "cifar10_binary"])
def test_a_missing_file_is_named(kind, request):
    folder = next(p for p in request.getfixturevalue(kind).iterdir() if p.is_dir())
    victim = next(folder.glob("data_batch_4*"))
    victim.unlink()
    with pytest.raises(ValueError, match=f"lacks {victim.name} of CIFAR-10. Unpack the archive"):
        cifar10.read(folder.parent)


def test_a_folder_of_something_else(tmp_path):
    message = "contains neither cifar-10-batches-py nor cifar-10-batches-bin. Unpack CIFAR-10"
    with pytest.raises(ValueError, match=message):
        cifar10.read(tmp_path)
