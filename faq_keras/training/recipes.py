"""The paper's training recipes, every number in one table.

A recipe is a frozen record: schedule of the learning rate, weight decay, batch size, epochs. It
hands out the optimizer and the callbacks that carry it out, so that fine-tuning stays an ordinary
Keras `fit`:

    r = recipe("w4a4", epochs=4)           # the same course, from 0.0015 to 1e-6, in 4 epochs
    q.compile(optimizer=r.optimizer, loss=loss, metrics=["accuracy"], jit_compile=False)
    q.fit(train_data.batch(r.batch_size), epochs=r.epochs, callbacks=r.callbacks)

Sections and tables are those of McKinstry et al., "Discovering Low-Precision Networks Close to
Full-Precision Networks for Efficient Embedded Inference" (2018).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from typing import Any

import keras

from faq_keras.compat import is_tf_keras
from faq_keras.training import tf_keras_optimizer
from faq_keras.training.callbacks import FrozenStatistics, LearningRate, VirtualBatches
from faq_keras.training.optimizer import SGD
from faq_keras.training.schedules import Constant, Exponential, Schedule, Steps

_SINGLE_BATCHES = Constant(1)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: Name in the table of `recipe`.
        epochs: Number of epochs the schedules are made for.
        learning_rate: Learning rate of each epoch.
        weight_decay: L2 coefficient, inside the momentum.
        momentum: Momentum of SGD.
        batch_size: Images per real batch.
        virtual_batches: Real batches per update in each epoch.
        frozen_statistics: Whether a quantized network is trained with its moving statistics instead
            of each batch's.
    """

    name: str
    epochs: int
    learning_rate: Schedule
    weight_decay: float
    batch_size: int = 256
    momentum: float = 0.9
    virtual_batches: Schedule = _SINGLE_BATCHES
    frozen_statistics: bool = False

    @functools.cached_property
    def optimizer(self) -> SGD:
        """The Keras 3 optimizer: one object per recipe object, as it belongs to one model."""
        return SGD(**self._optimizer_arguments)

    def optimizer_for(self, model: Any) -> Any:
        """`optimizer`, or for a tf_keras model a new one of that Keras."""
        if is_tf_keras(model):
            return tf_keras_optimizer.SGD(**self._optimizer_arguments)
        return self.optimizer

    @property
    def _optimizer_arguments(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate(0),
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "virtual_batches": int(self.virtual_batches(0)),
        }

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Callbacks of either Keras: they set each epoch's learning rate and virtual batches."""
        return [LearningRate(self.learning_rate), *self.other_callbacks]

    @property
    def other_callbacks(self) -> list[keras.callbacks.Callback]:
        """The callbacks without that of the learning rate."""
        frozen = [FrozenStatistics()] if self.frozen_statistics else []
        return [VirtualBatches(self.virtual_batches), *frozen]

    def with_epochs(self, epochs: int) -> Recipe:
        """The same course in another number of epochs: same start and end, milestones moved.

        Raises:
            ValueError: `epochs` is not a whole number >= 1.
        """
        if int(epochs) != epochs or epochs < 1:
            raise ValueError(
                f"Recipe {self.name!r}: epochs has to be a whole number >= 1. Received: {epochs!r}."
            )
        return dataclasses.replace(
            self,
            epochs=int(epochs),
            learning_rate=self.learning_rate.stretched(of=self.epochs, to=epochs),
            virtual_batches=self.virtual_batches.stretched(of=self.epochs, to=epochs),
        )


def recipe(name: str, epochs: int | None = None, **overrides: Any) -> Recipe:
    """A recipe of the paper by name.

    | name | what (section) | epochs | learning rate | weight decay | batch |
    |---|---|---|---|---|---|
    | w8a8 | every ImageNet network, 8 bits (3.3) | 1 | 1e-4 | 1e-4 | 256 |
    | w4a4 | 4 bits (3.3) | 110 | 0.0015 * 0.936**epoch | 0.5e-4 | 256 |
    | w4a4_large_batch | (4.4) | 165 | same start and end | 0.5e-4 | 256, x2 at 55, 150, 160 |
    | w4a4_step | (4.5) | 110 | 1e-3, x0.1 at 30, 60, 90 | 0.5e-4 | 256 |
    | w4a4_short | (4.2: 30, 60 or 110 epochs) | 60 | same start and end | 0.5e-4 | 400 |
    | from_scratch | not pretrained (4.3) | 110 | 0.1 * 0.901**epoch | 0.5e-4 | 256 |
    | from_scratch_step | (4.3) | 110 | 0.1, x0.1 at 30, 60, 85; 1e-6 from 95 | 0.5e-4 | 256 |
    | cifar10_fp32 | CIFAR-10 ResNet-18, float (4.9) | 350 | 0.1, x0.1 at 150, 250 | 5e-4 | 128 |
    | cifar10_w8a8 | CIFAR-10, 8 bits (4.9) | 10 | 1e-4 | 5e-4 | 256 |
    | cifar10_w4a4 | CIFAR-10, 4 bits (4.9) | 110 | 0.02 to 1e-6, exponential | 5e-4 | 256 |
    | float | control: `w4a4` for the float network | 110 | as w4a4 | 0.5e-4 | 256 |

    Momentum is 0.9 everywhere (3.3, 4.9). The 0.5e-4 is ResNet-18's; ResNet-34 and -50 did best
    with `weight_decay=1e-4` (4.6).

    Args:
        name: One of the names above.
        epochs: Another number of epochs than the paper's. The course stays the same: exponentials
            keep start and end, milestones and doublings move in proportion.
        **overrides: Other fields of `Recipe`. `learning_rate` is a schedule, taken as it is, or a
            number, which replaces the first epoch's rate: an exponential keeps its end, steps and
            constants scale. `virtual_batches` is a schedule or a number.

    Returns:
        A new recipe with an optimizer of its own.

    Raises:
        ValueError: Unknown name or field, or epochs below 1; says what there is.
    """
    if name not in _RECIPES:
        close = difflib.get_close_matches(str(name), _RECIPES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"No recipe is called {name!r}.{hint} There are: {', '.join(_RECIPES)}.")
    fields = [field.name for field in dataclasses.fields(Recipe) if field.name != "epochs"]
    unknown = sorted(set(overrides) - set(fields))
    if unknown:
        raise ValueError(
            f"Recipe {name!r} has no {', '.join(unknown)}. What can be set: epochs, "
            f"{', '.join(fields)}."
        )
    base = dataclasses.replace(_RECIPES[name])  # a copy: the optimizer belongs to one recipe object
    base = base if epochs is None else base.with_epochs(epochs)
    if isinstance(rate := overrides.get("learning_rate"), int | float):
        overrides["learning_rate"] = base.learning_rate.starting_at(float(rate), base.epochs)
    if isinstance(count := overrides.get("virtual_batches"), int):
        overrides["virtual_batches"] = Constant(count)
    return dataclasses.replace(base, **overrides)


_W4A4 = Recipe("w4a4", 110, Exponential(0.0015, 0.936), weight_decay=0.5e-4)

_RECIPES = {
    entry.name: entry
    for entry in (
        Recipe("w8a8", 1, Constant(1e-4), weight_decay=1e-4),
        _W4A4,
        dataclasses.replace(
            _W4A4.with_epochs(165),
            name="w4a4_large_batch",
            virtual_batches=Steps(values=(1, 2, 4, 8), milestones=(55, 150, 160)),
        ),
        Recipe("w4a4_step", 110, Steps((1e-3, 1e-4, 1e-5, 1e-6), (30, 60, 90)), 0.5e-4),
        dataclasses.replace(_W4A4.with_epochs(60), name="w4a4_short", batch_size=400),
        Recipe("from_scratch", 110, Exponential(0.1, 0.901), weight_decay=0.5e-4),
        Recipe(
            "from_scratch_step", 110, Steps((0.1, 0.01, 1e-3, 1e-4, 1e-6), (30, 60, 85, 95)), 0.5e-4
        ),
        Recipe("cifar10_fp32", 350, Steps((0.1, 0.01, 1e-3), (150, 250)), 5e-4, batch_size=128),
        Recipe("cifar10_w8a8", 10, Constant(1e-4), weight_decay=5e-4),
        Recipe("cifar10_w4a4", 110, Exponential.between(0.02, 1e-6, 110), weight_decay=5e-4),
        dataclasses.replace(_W4A4, name="float"),
    )
}
