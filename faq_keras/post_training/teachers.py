"""Which float network a quantized one is compared with: its teacher.

A quantized model holds the float layers that it was made of, so `to_float` gives its float network
back, but only until `reconstruct` or `distill` has changed those layers. For later the float
network is remembered beside the quantized one: in this process alone, on no attribute of the model,
so nothing of it is saved.

    remember(q, model)                  # `apply` does this
    teacher = teacher_of(q)
    teacher.model, str(teacher)         # model, "the float model 'resnet20' that was quantized"

What is remembered is the model itself, not a copy of it: if its owner trains it further after
`apply`, the teacher has these newer weights. It lives as long as the quantized model does.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence
from typing import Any

from faq_keras.compat import is_tf_keras
from faq_keras.graph import functional_of
from faq_keras.rewrite.bridge import to_keras3, to_tf_keras
from faq_keras.rewrite.keras3 import float_model, plan_of

_REMEMBERED: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A float network, and where it comes from.

    Attributes:
        model: The network, of either Keras.
        origin: What it is, for reports: "the given model 'resnet20'", for example.
    """

    model: Any
    origin: str

    def __str__(self) -> str:
        return self.origin


def remember(quantized: Any, model: Any) -> None:
    """Notes the float network that a quantized one was made of.

    Args:
        quantized: The quantized model, of either Keras.
        model: The float model, or its float32 twin, of either Keras. It is kept, not copied, until
            `quantized` is gone.
    """
    _REMEMBERED[quantized] = model


def remember_own(quantized: Any) -> None:
    """Remembers the float layers of a quantized model before a step changes them.

    Nothing happens if a float network is remembered already, or if the layers are no longer those
    of one.

    Args:
        quantized: A quantized model, of either Keras.
    """
    if quantized not in _REMEMBERED and plan_of(quantized).settings.post_training is None:
        remember(quantized, float_model(to_keras3(quantized)))


def teacher_of(quantized: Any, teacher: Any = None) -> Teacher:
    """The float network that a quantized one shall equal.

    Args:
        quantized: A quantized model, of either Keras.
        teacher: A float model, of either Keras, with the same inputs and outputs. None: the model
            that `apply` quantized in this process, or if there is none (the quantized model was
            loaded from a file) a copy of the float layers that it holds, with the weights of this
            moment: fine-tuned ones, if it was fine-tuned.

    Raises:
        ValueError: If the model is not quantized; if `teacher` has other inputs or outputs, or no
            graph; if none is given or remembered, and the model's own float layers were changed by
            `reconstruct` or `distill`.
    """
    plan = plan_of(quantized)
    if teacher is quantized:
        raise ValueError(
            f"Model '{quantized.name}' cannot be its own teacher: pass the float network that it "
            "was made of, or leave teacher out."
        )
    if teacher is not None:
        _check_shapes(quantized, teacher)
        return Teacher(teacher, f"the given model '{teacher.name}'")
    remembered = _REMEMBERED.get(quantized)
    if remembered is not None:
        origin = f"the float model '{remembered.name}' that was quantized"
        return Teacher(remembered, origin)
    done = plan.settings.post_training
    if done is not None:
        raise ValueError(
            f"Model '{quantized.name}' went through {done} in another process, which changed the "
            "float layers in it: they are no longer the network that it was made of. Pass "
            "that network: teacher=model."
        )
    copy = float_model(to_keras3(quantized))
    copy = to_tf_keras(copy) if is_tf_keras(quantized) else copy
    return Teacher(copy, f"the float layers that '{quantized.name}' holds (to_float)")


def _check_shapes(quantized: Any, teacher: Any) -> None:
    """Raises a ValueError that names both models' inputs and outputs if they differ."""
    models = [functional_of(model) for model in (quantized, teacher)]
    for role in ("inputs", "outputs"):
        own, others = ([tuple(t.shape) for t in getattr(model, role)] for model in models)
        if not _fits(own, others):
            raise ValueError(
                f"The teacher '{teacher.name}' has the {role} {_listed(others)}, the quantized "
                f"model '{quantized.name}' {_listed(own)}. Pass the float network that was "
                f"quantized, or another one with the same inputs and outputs."
            )


def _fits(
    shapes: Sequence[tuple[int | None, ...]], others: Sequence[tuple[int | None, ...]]
) -> bool:
    return len(shapes) == len(others) and all(
        len(one) == len(other)
        and all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))
        for one, other in zip(shapes, others, strict=True)
    )


def _listed(shapes: Sequence[tuple[int | None, ...]]) -> str:
    return ", ".join(map(str, shapes))
