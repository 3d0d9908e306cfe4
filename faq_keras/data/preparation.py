"""From the records of a source to images ready for a network; broken images are named and counted.

    source = load_source("image_folder", "/data/imagenet")
    corrupt = CorruptImages("skip")
    augment = transform("imagenet", training=True, size=224)
    images = prepare(source, "train", augment, seed=3, corrupt=corrupt)     # (image, label)
    with corrupt.named():                # its errors are readable sentences
        for image, label in images: ...
    corrupt.names                        # {"train/n02105855/n02105855_2933.JPEG", ...}

An image's augmentation is a function of the seed and its record's name: it depends neither on how
many workers there are, nor on where in the epoch a run was resumed.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from faq_keras.data.decoding import guarded
from faq_keras.data.records import Record, Source
from faq_keras.data.transforms import Transform

POLICIES = ("error", "skip")
_SHOWN = 20  # names of corrupt images that are logged one by one


class CorruptImages:
    """What to do with images that cannot be decoded, and which they were.

    Attributes:
        policy: "error": the first one ends the run; "skip": they are left out.
        limit: How many different ones are too many: more have another reason than broken files.
        names: Names of the records that were left out.
    """

    def __init__(self, policy: str = "error", limit: int = 1000):
        if policy not in POLICIES:
            raise ValueError(f"Unknown policy {policy!r} for corrupt images: use error or skip.")
        self.policy = policy
        self.limit = limit
        self.names: set[str] = set()
        self._fatal: str | None = None
        self._lock = threading.Lock()

    def __str__(self) -> str:
        """One line for reports."""
        return f"{len(self.names)} corrupt images left out"

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Turns TensorFlow's error about an image met in the block into a readable one.

        Raises:
            ValueError: Names the image and says what is wrong with it.
        """
        self._fatal = None
        try:
            yield
        except tf.errors.OpError as error:
            if self._fatal is None:
                raise
            raise ValueError(self._fatal) from error

    def left_out(self, name: str, place: str, size: int) -> None:
        """Records an image that cannot be decoded.

        Raises:
            ValueError: If the policy is "error" or there are too many.
        """
        with self._lock:
            new = name not in self.names
            self.names.add(name)
            count = len(self.names)
        reason = f"is corrupt: its {size} bytes are no complete JPEG, PNG or BMP"
        if self.policy == "error":
            self.fail(name, place, f"{reason}. Replace it, or leave such images out: corrupt=skip.")
        if count > self.limit:
            self.fail(
                name, place, f"{reason}, and so are {self.limit} others. Check the whole data set."
            )
        if new and count <= _SHOWN:
            logging.getLogger(__name__).warning(
                "Image %s in %s %s; it is left out (%d so far).", name, place, reason, count
            )

    def fail(self, name: str, place: str, problem: str) -> None:
        """Ends the run because of an image.

        Raises:
            ValueError: Always.
        """
        message = f"Image {name} in {place} {problem}"
        with self._lock:
            # The first one counts: tf.data reads on while its error is on the way to `named`.
            self._fatal = self._fatal or message
        raise ValueError(message)


def prepare(
    source: Source,
    split: str,
    transform: Transform,
    *,
    seed: int | None = None,
    skip: int = 0,
    corrupt: CorruptImages | None = None,
) -> tf.data.Dataset:
    """Decoded and transformed images of a split.

    Args:
        source: Where they come from.
        split: "train" or "validation".
        transform: What happens to them.
        seed: Order and augmentation; another one for each epoch. None is the stored order (and
            the augmentation of seed 0).
        skip: How many of the images that would come to leave out at the beginning.
        corrupt: What to do with corrupt images; None makes the first one an error.

    Returns:
        An unbatched dataset of `(float32 [size, size, channels] with pixels 0..255, int64 label)`.

    Raises:
        ValueError: If the stored images do not have the transform's channels.
    """
    corrupt = corrupt or CorruptImages()
    # Only where no image can go missing is the number of a record also the number of its image.
    early = skip if corrupt.policy == "error" else 0
    records = source.records(split, seed, skip=early)
    _check_channels(source, records.element_spec["image"], transform)
    base = tf.constant(np.random.SeedSequence(seed or 0).generate_state(2).astype(np.int32))

    read = _reader(transform, source.classes)
    images = (
        records.map(lambda record: read(record, base), num_parallel_calls=tf.data.AUTOTUNE)
        .filter(lambda image, label, findings: _usable(findings, source, transform, corrupt))
        .map(lambda image, label, findings: (image, label))
    )
    return images.skip(skip - early) if skip > early else images


Findings = dict[str, tf.Tensor]


@functools.lru_cache(maxsize=16)
def _reader(
    transform: Transform, classes: int
) -> Callable[[Record, np.ndarray], tuple[tf.Tensor, tf.Tensor, Findings]]:
    """From a record and a seed to image, label and findings; one graph for all epochs."""

    @tf.function(autograph=False)
    def read(record: Record, base: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, Findings]:
        number = tf.strings.to_hash_bucket_fast(record["name"], 2**31 - 1)
        seed = tf.random.experimental.stateless_fold_in(base, tf.cast(number, tf.int32))
        image, findings = _image(record, seed, classes, transform)
        return image, record["label"], findings

    return read


def _image(
    record: Record, seed: tf.Tensor, classes: int, transform: Transform
) -> tuple[tf.Tensor, Findings]:
    """The image (zeros where there is none) and what was found out about the record."""
    blank = tf.zeros([transform.size, transform.size, transform.channels], tf.uint8)
    size, decoded = tf.constant(0), tf.constant(True)
    if record["image"].dtype == tf.string:
        size = tf.strings.length(record["image"])
        pixels, decoded = guarded(transform.read, (record, seed), blank)
    else:
        pixels = transform.read(record, seed)
    shape = tf.shape(pixels)
    fits = tf.reduce_all(shape == tf.shape(blank)) | transform.resizes
    image = transform.finish(tf.cond(fits, lambda: pixels, lambda: blank), seed)
    known = (record["label"] >= 0) & (record["label"] < classes)
    return image, {
        "good": decoded & fits & known,
        "decoded": decoded,
        "fits": fits,
        "name": record["name"],
        "label": record["label"],
        "size": size,
        "shape": shape,
    }


def _usable(
    findings: Findings, source: Source, transform: Transform, corrupt: CorruptImages
) -> tf.Tensor:
    """Whether to keep an image; anything but a good one is reported in Python.

    This happens one record after the other, after the parallel part: Python code in there would
    make tf.data give up its parallelism where op determinism is on.
    """

    def report(
        name: bytes, decoded: bool, fits: bool, size: int, shape: np.ndarray, label: int
    ) -> bool:
        shown, place = name.decode(errors="replace"), source.place
        if not decoded:
            corrupt.left_out(shown, place, int(size))
        elif not fits:
            found, needed = " x ".join(map(str, shape[:2])), transform.size
            corrupt.fail(
                shown,
                place,
                f"is {found} pixels, but the transform {transform.name!r} takes images of {needed} "
                f"x {needed} as they are. Use the transform 'imagenet', or resize the images.",
            )
        else:
            corrupt.fail(
                shown,
                place,
                f"has the label {label}, which is not in 0..{source.classes - 1}. Check the number "
                "of classes and the label offset.",
            )
        return False

    keys = ("name", "decoded", "fits", "size", "shape", "label")
    return tf.cond(
        findings["good"],
        lambda: True,
        lambda: tf.numpy_function(report, [findings[key] for key in keys], tf.bool),
    )


def _check_channels(source: Source, image: tf.TensorSpec, transform: Transform) -> None:
    if image.dtype != tf.string and image.shape[-1] != transform.channels:
        raise ValueError(
            f"The images of {source.name} have {image.shape[-1]} channels, the transform is to "
            f"give {transform.channels}: set channels to {image.shape[-1]}."
        )
