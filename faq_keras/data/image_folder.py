"""A tree of images with one folder per class, as torchvision's `ImageFolder` reads it.

    DATA/train/n01440764/n01440764_18.JPEG, ...
    DATA/val/n01440764/ILSVRC2012_val_00000293.JPEG, ...

    source = read("/data/imagenet", shard=(0, 1), classes=1000)
    source.class_names[0]                      # "n01440764"

Labels count the class folders in alphabetical order, as in torchvision; folders whose names begin
with a dot are not classes. `class_names` gives the order instead: so a part of ImageNet with 100 of
the 1000 class folders can keep ImageNet's labels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf

from faq_keras.data.records import SPLITS, Record, Shard, Source, indexed, shard_size

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
# What torchvision reads and TensorFlow does not: leaving these out silently would change the data.
UNREADABLE = (".ppm", ".pgm", ".tif", ".tiff", ".webp")
_FOLDERS = {"train": ("train",), "validation": ("val", "validation")}


def read(
    data_dir: str,
    shard: Shard,
    classes: int | None = None,
    class_names: Sequence[str] | str | None = None,
) -> Source:
    """Opens a tree of images.

    Args:
        data_dir: Folder with `train` and `val` (or `validation`), or one of them.
        shard: `(index, count)`.
        classes: The expected number of classes; None takes what is there.
        class_names: Names of the class folders by label, or a text file with one name per line;
            not all of them have to be there. None sorts the folders that are.

    Raises:
        ValueError: If there are no such folders, a class is empty, the splits or the expected
            number of classes disagree, or images have a format that TensorFlow does not read.
    """
    root = Path(data_dir)
    roots = _split_folders(root)
    found = {split: _class_folders(folder) for split, folder in roots.items()}
    names = _class_names(class_names, found, root)
    if classes is not None and classes != len(names):
        raise ValueError(
            f"{classes} classes are expected, but {root} has {len(names)} class folders. Name "
            "another folder, or correct the number of classes."
        )
    label_of = {name: label for label, name in enumerate(names)}
    listings = {}
    for split, folder in roots.items():
        files = _images(folder, found[split])
        paths = tf.constant([path for path, _ in files])
        labels = tf.constant([label_of[name] for _, name in files], tf.int64)
        listings[split] = (os.path.relpath(folder, root), paths, labels)
    totals = {split: len(labels) for split, (_, _, labels) in listings.items()}
    return Source(
        "image_folder",
        str(root),
        len(names),
        {split: shard_size(split, total, shard) for split, total in totals.items()},
        indexed(totals, _lookup(str(root), listings), shard),
        tuple(names),
    )


def _lookup(
    root: str, listings: dict[str, tuple[str, tf.Tensor, tf.Tensor]]
) -> Callable[[str], Callable[[tf.Tensor], Record]]:
    """Reads a file, by its number, as an encoded image."""

    def of_split(split: str) -> Callable[[tf.Tensor], Record]:
        folder, paths, labels = listings[split]

        def record(number: tf.Tensor) -> Record:
            name = tf.strings.join([folder, paths[number]], "/")
            content = tf.io.read_file(tf.strings.join([root, name], "/"))
            return {"image": content, "label": labels[number], "name": name}

        return record

    return of_split


def _split_folders(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise ValueError(f"The image folder {root} does not exist. Name the folder of the data.")
    roots = {}
    for split in SPLITS:
        there = [root / name for name in _FOLDERS[split] if (root / name).is_dir()]
        if len(there) > 1:
            raise ValueError(f"{root} has both val and validation: remove or rename one of them.")
        if there:
            roots[split] = there[0]
    if not roots:
        inside = sorted(entry.name for entry in root.iterdir())
        shown = ", ".join(inside[:3]) + (", ..." if len(inside) > 3 else "")
        raise ValueError(
            f"The image folder {root} has no train and no val folder"
            f"{f' (it has {shown})' if inside else ': it is empty'}. The images of a class lie in "
            "train/CLASS/ and val/CLASS/."
        )
    return roots


def _class_folders(folder: Path) -> list[str]:
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise ValueError(f"{folder} has no class folders. The images of a class lie in its folder.")
    return names


def _class_names(
    given: Sequence[str] | str | None, found: dict[str, list[str]], root: Path
) -> list[str]:
    """The class folders by label, after a check that the splits agree."""
    if given is None:
        names = found[next(iter(found))]
        for split, others in found.items():
            odd = sorted(set(names) ^ set(others))
            if odd:
                raise ValueError(
                    f"The train and {split} folders of {root} have different classes: {len(odd)} "
                    f"of them, for example {odd[0]}, are in only one. Add the missing folders, or "
                    "give class_names."
                )
        return names
    if isinstance(given, str):
        try:
            given = Path(given).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"Cannot read the class names in {given}: {error}.") from error
    names = [name.strip() for name in given if name.strip()]
    unknown = sorted(set().union(*found.values()) - set(names))
    if unknown or len(set(names)) != len(names):
        problem = f"lack the folder {unknown[0]}" if unknown else "name a class twice"
        raise ValueError(f"The {len(names)} class names given for {root} {problem}.")
    return names


def _images(folder: Path, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Path below `folder` and class of every image, in torchvision's order."""
    images: list[tuple[str, str]] = []
    others, unreadable, empty = 0, [], []
    for name in classes:
        before = len(images)
        for parent, _, files in sorted(os.walk(folder / name, followlinks=True)):
            base = os.path.relpath(parent, folder)
            for file in sorted(files):
                suffix = os.path.splitext(file)[1].lower()
                if suffix in SUFFIXES and not file.startswith("."):
                    images.append((os.path.join(base, file), name))
                elif suffix in UNREADABLE:
                    unreadable.append(os.path.join(base, file))
                else:
                    others += 1
        if len(images) == before:
            empty.append(name)
    if unreadable:
        raise ValueError(
            f"{len(unreadable)} images in {folder}, for example {unreadable[0]}, have a format "
            "that TensorFlow does not read. Convert them to PNG or JPEG."
        )
    if empty:
        raise ValueError(
            f"{len(empty)} class folders of {folder} hold no images ({', '.join(SUFFIXES)}), for "
            f"example {empty[0]}. Fill or remove them."
        )
    if others:
        logging.getLogger(__name__).warning(
            "%d files in %s are no images and are left out.", others, folder
        )
    return images
