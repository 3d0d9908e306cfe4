"""Real images in the stated form, wherever they lie; and a message where they do not."""

import gzip
import shutil

import keras
import numpy as np
import pytest

from faq_keras.data import datasets, idx

FILES = tuple(idx.FILES.values())


def check_form(data, train, test):
    """Shapes, dtypes and ranges that the module promises."""
    for x, y, count in (
        (data.x_train, data.y_train, train),
        (data.x_test, data.y_test, test),
    ):
        assert x.shape == (count, 28, 28, 1)
        assert x.dtype == np.float32
        assert x.min() == 0
        assert x.max() == 1
        assert y.shape == (count,)
        assert y.dtype == np.int64
        assert set(y) == set(range(10))


@pytest.fixture(scope="session")
def first_images(data_dir):
    """The content of the Fashion-MNIST files by name, cut to the first 20 images or labels."""
    contents = {}
    for name in FILES:
        with gzip.open(data_dir / "fashion-mnist" / name) as file:
            head = file.read(4)
            sizes = np.frombuffer(file.read(4 * head[3]), ">i4").copy()
            sizes[0] = 20
            contents[name] = gzip.compress(head + sizes.tobytes() + file.read(int(sizes.prod())))
    return contents


@pytest.fixture
def folder(first_images, tmp_path):
    """A folder of Fashion-MNIST files that a test may damage."""
    for name, content in first_images.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without Fashion-MNIST and without a network."""

    def no_network(*_, **__):
        raise Exception("URL fetch failure: no network")

    monkeypatch.setattr(datasets, "_DEBIAN", str(tmp_path / "debian"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", no_network)
    monkeypatch.setattr(datasets.urllib.request, "urlopen", no_network)
    return tmp_path


def test_mnist5k_comes_with_a_package():
    data = datasets.load("mnist5k")
    check_form(data, 4500, 500)
    assert data.name == "mnist5k"


def test_mnist5k_is_always_split_alike_and_the_parts_are_disjoint():
    data, again = datasets.load("mnist5k"), datasets.load("mnist5k")
    assert (data.x_test == again.x_test).all()
    assert (data.y_train == again.y_train).all()
    test = {image.tobytes() for image in data.x_test}
    assert not test & {image.tobytes() for image in data.x_train}


def test_fashion_mnist_from_a_folder(data_dir):
    folder = data_dir / "fashion-mnist"
    data = datasets.load("fashion_mnist", str(folder))
    check_form(data, 60_000, 10_000)
    assert data.name == "fashion_mnist"
    assert data.source == str(folder)
    assert list(data.y_train[:5]) == [9, 0, 0, 3, 0]
    assert (np.bincount(data.y_test) == 1000).all()


@pytest.mark.parametrize("place", ["debian", "keras/datasets/fashion-mnist"])
def test_auto_finds_the_folders_of_debian_and_keras(nowhere, data_dir, place):
    (nowhere / place).mkdir(parents=True)
    for name in FILES:
        (nowhere / place / name).symlink_to(data_dir / "fashion-mnist" / name)
    data = datasets.load("auto")
    assert data.name == "fashion_mnist"
    assert data.source == str(nowhere / place)


def test_auto_takes_the_embedded_images_and_says_so(nowhere, caplog):
    assert datasets.load("auto").name == "mnist5k"
    assert "taking the 5,000 embedded MNIST images" in caplog.text


def test_fashion_mnist_that_cannot_be_had_is_an_error(nowhere):
    with pytest.raises(ValueError, match=r"no network.*--data_dir.*--dataset=mnist5k"):
        datasets.load("fashion_mnist")


@pytest.mark.parametrize("name", ["auto", "fashion_mnist"])
@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(folder, name, file):
    (folder / file).unlink()
    with pytest.raises(ValueError, match=f"lacks {file} of Fashion-MNIST"):
        datasets.load(name, str(folder))


def test_a_missing_folder_lacks_all_files(tmp_path):
    with pytest.raises(ValueError, match=f"none lacks {', '.join(FILES)}"):
        datasets.load("fashion_mnist", str(tmp_path / "none"))


@pytest.mark.parametrize("part", [0, 0.0001, 0.5, 0.999])
@pytest.mark.parametrize("file", [FILES[2], FILES[3]])
def test_a_truncated_file(folder, file, part):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match=f"Cannot read .*{file}"):
        datasets.load("fashion_mnist", str(folder))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\x03\0\0",
        b"\0\0\x08\x01\0\0\0\x05abc",
        b"\0\0\x08\x01\0\0\0\x02abc",
        b"\0\0\x0d\x01\0\0\0\x01abcd",
        b"P5 28 28 255 an image",
    ],
    ids=["empty", "magic", "sizes", "few values", "many values", "floats", "other"],
)
def test_a_file_that_is_no_idx(folder, content):
    (folder / FILES[3]).write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=f"Cannot read .*{FILES[3]}"):
        datasets.load("fashion_mnist", str(folder))


def test_images_and_labels_of_different_numbers(folder, data_dir):
    """All 10,000 labels beside 20 images."""
    shutil.copyfile(data_dir / "fashion-mnist" / FILES[3], folder / FILES[3])
    with pytest.raises(ValueError, match=r"test files .* do not belong together"):
        datasets.load("fashion_mnist", str(folder))


def test_a_folder_of_fewer_images_is_fine(folder):
    data = datasets.load("auto", str(folder))
    assert data.x_train.shape == data.x_test.shape == (20, 28, 28, 1)


def test_cifar10_from_a_folder(cifar10_python, cifar10_parts):
    data = datasets.load("cifar10", str(cifar10_python))
    images, labels = cifar10_parts[5]
    assert data.x_train.shape == (40, 32, 32, 3)
    assert (data.x_test == (images / 255).astype(np.float32)).all()
    assert (data.y_test == labels).all()
    assert (data.name, data.classes) == ("cifar10", 10)


def test_cifar10_needs_its_folder():
    with pytest.raises(ValueError, match=r"folder that holds cifar-10-batches-py .*--data_dir"):
        datasets.load("cifar10")


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match=r"'cifar100'.*auto, mnist5k, fashion_mnist"):
        datasets.load("cifar100")
