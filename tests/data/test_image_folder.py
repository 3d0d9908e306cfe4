"""Image folders are read as torchvision reads them, and refused where that would go wrong."""

import shutil

import pytest

from faq_keras.data import image_folder
from faq_keras.data.image_folder import SUFFIXES
from faq_keras.data.sources import load_source


def listing(root, split, **options):
    """(path below root, label) of every image."""
    source = load_source("image_folder", str(root), **options)
    records = source.records(split).as_numpy_iterator()
    return [(record["name"].decode(), int(record["label"])) for record in records]


def test_order_and_labels_are_those_of_torchvision(tree):
    pytest.importorskip("torch", reason="needs the extra [torch]")
    from faq_keras.converters.torch_to_onnx import import_torchvision

    import_torchvision()
    from torchvision.datasets import ImageFolder

    nested = tree / "train" / sorted(p.name for p in (tree / "train").iterdir())[1] / "b" / "c"
    nested.mkdir(parents=True)
    first = next((tree / "train").rglob("0.JPEG"))
    for name in ("Z.jpg", "a.PNG", "notes.txt"):
        shutil.copyfile(first, nested / name)
    (tree / "train" / "n00000001").symlink_to(first.parent)
    (tree / "val" / "n00000001").symlink_to(first.parent)
    for split, folder in (("train", "train"), ("validation", "val")):
        theirs = ImageFolder(tree / folder)
        expected = [(str(path).removeprefix(f"{tree}/"), label) for path, label in theirs.samples]
        assert listing(tree, split) == expected
        source = load_source("image_folder", str(tree))
        assert list(source.class_names) == theirs.classes


def test_all_of_torchvisions_suffixes_are_known():
    pytest.importorskip("torch", reason="needs the extra [torch]")
    from faq_keras.converters.torch_to_onnx import import_torchvision

    import_torchvision()
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert {*SUFFIXES, *image_folder.UNREADABLE} == set(IMG_EXTENSIONS)


def test_files_that_are_no_images_are_counted_and_left_out(tree, caplog):
    before = listing(tree, "train")
    (next((tree / "train").iterdir()) / "README.txt").write_text("hello")
    (next((tree / "train").iterdir()) / ".hidden.jpg").write_text("hello")
    assert listing(tree, "train") == before
    assert f"2 files in {tree}/train are no images and are left out" in caplog.text


def test_a_part_of_the_classes_keeps_the_labels_of_all(tree_of_100, tmp_path, data_dir):
    import numpy as np

    packed = np.load(data_dir / "imagenet-samples" / "imagenet100_256_q90.npz")
    wnids = [str(name).split("_")[0] for name in packed["wnid_name"]]
    file = tmp_path / "wnids.txt"
    file.write_text("\n".join(wnids) + "\n")
    found = listing(tree_of_100, "validation", class_names=str(file), classes=1000)
    assert [label for _, label in found] == [int(name[-9:-5]) for name, _ in found]
    assert sorted(label for _, label in found) == packed["label"].tolist()
    assert listing(tree_of_100, "validation", class_names=wnids) == found


def test_only_one_split_is_enough_for_what_needs_only_that(tree_of_100):
    source = load_source("image_folder", str(tree_of_100))
    assert source.images == {"validation": 100}
    with pytest.raises(ValueError, match=r"no split 'train'; they have validation"):
        source.records("train")


def first_class(tree, split="train"):
    return min((tree / split).iterdir())


def empty_class(tree):
    shutil.rmtree(first_class(tree))
    first_class(tree).parent.joinpath(first_class(tree, "val").name).mkdir()


def only_files(tree):
    shutil.rmtree(tree / "train")
    (tree / "train").mkdir()
    (tree / "train" / "a.jpg").write_bytes(b"")


def flat(tree):
    shutil.rmtree(tree / "val")
    for folder in list((tree / "train").iterdir()):
        folder.rename(tree / folder.name)
    (tree / "train").rmdir()


def nothing(tree):
    shutil.rmtree(tree)
    tree.mkdir()


@pytest.mark.parametrize(
    "damage, options, message",
    [
        (nothing, {}, r"has no train and no val folder: it is empty\. .* train/CLASS/"),
        (flat, {}, r"has no train and no val folder \(it has n\d+, n\d+, n\d+, \.\.\.\)"),
        (only_files, {}, r"train has no class folders"),
        (empty_class, {}, r"1 class folders of .*train hold no images .* for example n\d+"),
        (
            lambda tree: shutil.rmtree(first_class(tree, "val")),
            {},
            r"train and validation folders of .* different classes: 1 of them, for example n\d+",
        ),
        (
            lambda tree: shutil.copytree(tree / "val", tree / "validation"),
            {},
            r"has both val and validation",
        ),
        (
            lambda tree: (first_class(tree) / "x.tiff").write_bytes(b"II*"),
            {},
            r"1 images in .*train, for example n\d+/x.tiff, have a format that TensorFlow does not",
        ),
        (lambda tree: None, {"classes": 1000}, r"1000 classes are expected, but .* has 4 class fo"),
        (
            lambda tree: None,
            {"class_names": ["a"]},
            r"The 1 class names .* lack the folder n",
        ),
        (lambda tree: None, {"class_names": "no.txt"}, r"Cannot read the class names in no.txt"),
        (
            lambda tree: None,
            {"class_names": ["n01440764"] * 5},
            r"The 5 class names given .* lack the folder n",
        ),
    ],
)
def test_a_bad_tree_is_one_sentence(tree, damage, options, message):
    damage(tree)
    with pytest.raises(ValueError, match=message):
        load_source("image_folder", str(tree), **options)


def test_class_names_given_twice(tree):
    names = sorted(path.name for path in (tree / "train").iterdir())
    with pytest.raises(ValueError, match=r"The 5 class names given for .* name a class twice"):
        load_source("image_folder", str(tree), class_names=[*names, names[0]])
