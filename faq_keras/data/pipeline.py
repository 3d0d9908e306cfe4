"""The batches of a training: a source and its transforms, cut into epochs that can be repeated.

The one idea: epoch `e` after its first `k` batches is a pure function of `(seed, e, k)`, so that a
run that was killed goes on with exactly the images it would have seen.

    data = Pipeline(source, augment, prepare, batch_size=256, seed=1)
    for images, labels in data.train(epoch=3, skip=100): ...     # float32 pixels 0..255, int64
    data.steps_per_epoch, data.input_shape                       # 5004, (224, 224, 3)

Means and standard deviations are not applied here: they belong to the network (as a Rescaling
layer), so that the exported file knows them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.data.preparation import CorruptImages, prepare
from faq_keras.data.records import Source
from faq_keras.data.transforms import Transform

_CALIBRATION_EPOCH = 2**31  # an order of its own, that no epoch of the training has


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Batches for training, validation and calibration.

    Attributes:
        source: Where the images come from.
        augment: What happens to training images.
        prepare: What happens to the images of validation and calibration.
        batch_size: Images per batch, of all workers together.
        seed: Decides the order and the augmentation of every epoch.
        one_hot: Gives labels as float32 rows `[batch, classes]`, as label smoothing needs them.
        corrupt: What happens to images that cannot be decoded.
        part: One worker's shard of the source, if several workers train together: then `train` and
            `validation` give this worker's part of each batch, `batch_size / workers` images.
        workers: Number of workers.
    """

    source: Source
    augment: Transform
    prepare: Transform
    batch_size: int
    seed: int = 0
    one_hot: bool = False
    corrupt: CorruptImages = dataclasses.field(default_factory=CorruptImages)
    part: Source | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size has to be at least 1. Received: {self.batch_size!r}.")
        if self.train_images < self.batch_size:
            raise ValueError(
                f"{self.source.name} in {self.source.place} has {self.train_images:,} training "
                f"images, fewer than one batch of {self.batch_size:,}. Use a smaller batch_size."
            )
        if not self.validation_images:
            raise ValueError(
                f"{self.source.name} in {self.source.place} has no validation images: without "
                "them nobody knows what was trained."
            )
        if self.batch_size % self.workers:
            raise ValueError(
                f"A batch of {self.batch_size} images cannot be shared equally among "
                f"{self.workers} workers. Set batch_size to a multiple of their number."
            )
        if self.part is not None and not self.part.images["validation"]:
            raise ValueError(
                f"{self.source.name} in {self.source.place} has fewer validation images than there "
                f"are workers ({self.workers})."
            )
        if self.workers > 1 and self.corrupt.policy != "error":
            raise ValueError(
                "With several workers corrupt images cannot be left out: one worker would have "
                "fewer batches than the others, which would wait for it. Take these images out of "
                "the data set (a run on one device with corrupt='skip' names them)."
            )

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.source.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)` of an image."""
        return (self.prepare.size, self.prepare.size, self.prepare.channels)

    @property
    def train_images(self) -> int:
        """Number of training images."""
        return self.source.images["train"]

    @property
    def validation_images(self) -> int:
        """Number of validation images."""
        return self.source.images["validation"]

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch; a remainder, other images in each epoch, is left out.

        With corrupt images that are skipped, the epoch is over earlier.
        """
        return self.train_images // self.batch_size

    def train(self, epoch: int, skip: int = 0) -> tf.data.Dataset:
        """The batches of an epoch, all of `batch_size` images.

        Args:
            epoch: Number of the epoch, counted from 0.
            skip: How many of its batches to leave out at the beginning.

        Returns:
            `(float32 [batch, height, width, channels] with pixels 0..255, int64 [batch])`.
        """
        images = prepare(
            self.part or self.source,
            "train",
            self.augment,
            seed=self._seed_of(epoch),
            skip=skip * self._own_batch,
            corrupt=self.corrupt,
        )
        return self._batched(images, self._own_batch, True, self.steps_per_epoch - skip)

    def validation(self) -> tf.data.Dataset:
        """The validation images in their stored order; the last batch may be smaller."""
        source = self.part or self.source
        images = prepare(source, "validation", self.prepare, corrupt=self.corrupt)
        count = -(-source.images["validation"] // self._own_batch)
        return self._batched(images, self._own_batch, False, count)

    def calibration(self, batches: int) -> Iterator[npt.NDArray[np.float32]]:
        """Training images without augmentation, in random order, whole batches one by one.

        Args:
            batches: How many batches to give at most.

        Yields:
            float32 `[batch, height, width, channels]`, pixels 0..255.
        """
        images = prepare(
            self.source,
            "train",
            self.prepare,
            seed=self._seed_of(_CALIBRATION_EPOCH),
            corrupt=self.corrupt,
        )
        with self.corrupt.named():
            for x, _ in self._batched(images, self.batch_size, False).take(batches):
                yield x.numpy()

    @property
    def _own_batch(self) -> int:
        """Images of this worker in a batch."""
        return self.batch_size // self.workers

    def _seed_of(self, epoch: int) -> int:
        """A seed for each epoch; neighbouring seeds of a run share no epoch."""
        return int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])

    def _batched(
        self, images: tf.data.Dataset, size: int, drop_remainder: bool, count: int | None = None
    ) -> tf.data.Dataset:
        batches = images.batch(size, drop_remainder=drop_remainder)
        if count is not None and self.corrupt.policy == "error":  # else some may be left out
            batches = batches.apply(tf.data.experimental.assert_cardinality(count))
        if self.one_hot:
            batches = batches.map(lambda x, y: (x, tf.one_hot(y, self.classes)))
        return batches.prefetch(tf.data.AUTOTUNE)
