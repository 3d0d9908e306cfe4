"""Small data sets as users have them on disk, made of the real images of `data_dir`."""

import importlib.util
import io
import itertools
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.material import CIFAR10_NAMES, cifar10_images, write_cifar10


@pytest.fixture(scope="session")
def layout(data_dir):
    """The module `prepare.py` of the test data, which lays them out as users have them."""
    spec = importlib.util.spec_from_file_location("layout", data_dir / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def imagenet_jpegs(data_dir):
    """The 100 ImageNet samples: (JPEG, label in 0..999)."""
    packed = np.load(data_dir / "imagenet-samples" / "imagenet100_256_q90.npz")
    blob = packed["jpeg"].tobytes()
    parts = [blob[a:b] for a, b in itertools.pairwise(packed["offset"].tolist())]
    return list(zip(parts, packed["label"].tolist(), strict=True))


@pytest.fixture(scope="session")
def tree_of_100(layout, tmp_path_factory):
    """An ImageFolder tree of the 100 samples in `val`; not to be changed."""
    root = tmp_path_factory.mktemp("imagenet")
    layout.imagenet(root / "val")
    return root


@pytest.fixture
def tree(tree_of_100, tmp_path):
    """An ImageFolder tree that a test may damage: 4 classes, 3 training images of each."""
    for folder in sorted((tree_of_100 / "val").iterdir())[:4]:
        image = next(folder.iterdir())
        for number in range(3):
            target = tmp_path / "tree" / "train" / folder.name / f"{number}.JPEG"
            target.parent.mkdir(parents=True, exist_ok=True)
            turned = Image.open(image).rotate(90 * number)
            turned.resize((300 + 10 * number, 280)).save(target)
        shutil.copytree(folder, tmp_path / "tree" / "val" / folder.name)
    return tmp_path / "tree"


def example(jpeg: bytes, label: int) -> bytes:
    """A serialized record, as the ImageNet scripts of TensorFlow's models write it."""
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "image/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"JPEG"])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_records(path: pathlib.Path, records: list[bytes]) -> None:
    """A TFRecord file."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


@pytest.fixture(scope="session")
def small_jpegs(imagenet_jpegs):
    """60 JPEGs of 40 x 32 pixels, all different."""
    jpegs = []
    for number in range(60):
        image = Image.open(io.BytesIO(imagenet_jpegs[number][0])).resize((40, 32))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=90)
        jpegs.append(stream.getvalue())
    return jpegs


@pytest.fixture
def record_files(small_jpegs, tmp_path):
    """Four training files of 11, 12, 13 and 14 records, one validation file of 10; 5 classes."""
    folder = tmp_path / "records"
    folder.mkdir()
    start = 0
    sizes = {"validation-00000-of-00001": 10}
    sizes |= {f"train-{number:05d}-of-00004": 11 + number for number in range(4)}
    for name, size in sizes.items():
        part = [example(small_jpegs[n], n % 5) for n in range(start, start + size)]
        write_records(folder / name, part)
        start += size
    return folder


@pytest.fixture(scope="session")
def cifar10_parts(data_dir):
    """Six parts of 8 images [8, 32, 32, 3] uint8 and labels; the last one is the test part."""
    x, y = cifar10_images(data_dir, "test", 48)
    return [(x[n : n + 8].astype(np.uint8), y[n : n + 8]) for n in range(0, 48, 8)]


@pytest.fixture
def cifar10_python(cifar10_parts, tmp_path):
    """A folder with a small cifar-10-batches-py, as `prepare.py` writes it."""
    return write_cifar10(tmp_path, cifar10_parts)


@pytest.fixture
def cifar10_binary(cifar10_parts, tmp_path):
    """A folder with a small cifar-10-batches-bin."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, (x, y) in zip(CIFAR10_NAMES, cifar10_parts, strict=True):
        planar = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        rows = np.concatenate([y[:, None].astype(np.uint8), planar], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return tmp_path
