"""Whether the numbers of a configuration are ones that can be trained with.

A wrong number must not be noticed after an hour of pretraining, so one table says what each field
may be, and it is looked at before anything is built or written:

    check_values(config)     # ValueError: config.percentile is 200.0, but has to lie in [50, 100].

What depends on more than one field (a batch larger than the data set, a model without weights) is
checked where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections.config_dict import ConfigDict

from faq_keras.converters.zoo import Preprocessing
from faq_keras.texts import one_line

_Rule = tuple[Callable[[Any], bool], str]

_POSITIVE: _Rule = (lambda v: 0 < v < math.inf, "be above 0 and finite")
_NOT_NEGATIVE: _Rule = (lambda v: 0 <= v < math.inf, "be 0 or above, and finite")
_COUNT: _Rule = (lambda v: v >= 1, "be at least 1")
_COUNT_OR_NONE: _Rule = (lambda v: v >= 0, "be 0 or above")
_SIZE: _Rule = (lambda v: v in range(1, 4097), "be an integer from 1 to 4096")
_BITS: _Rule = (lambda v: v in range(2, 9), "be an integer from 2 to 8")

# A field without a value is never asked.
_RULES: Mapping[str, _Rule] = {
    "bits": (lambda v: v == 0 or v in range(2, 9), "be 0 or an integer from 2 to 8"),
    "activation_bits": _BITS,
    "logits_bits": (lambda v: v in (8, 16), "be 16 or 8"),
    "percentile": (lambda v: 50 <= v <= 100, "lie in [50, 100]"),
    "calibration_batches": _COUNT_OR_NONE,
    "policy.first_last_bits": _BITS,
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "learning_rate": _POSITIVE,
    "final_learning_rate": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "virtual_batches": _COUNT,
    "label_smoothing": (lambda v: 0 <= v < 1, "lie in [0, 1)"),
    "pretraining.epochs": _COUNT_OR_NONE,
    "pretraining.learning_rate": _POSITIVE,
    "pretraining.final_learning_rate": _POSITIVE,
    "data.size": _SIZE,
    "data.channels": _SIZE,
    "data.classes": _COUNT,
    "data.images": (lambda v: len(v) == 2 and min(v) >= 1, "be two numbers of at least 1"),
    "expected_float_accuracy": (lambda v: 0 <= v <= 1, "lie in [0, 1]"),
    "seed": (lambda v: 0 <= v < 2**32, "lie in [0, 2^32)"),
    "checkpoint_steps": _COUNT,
    "gradient_noise_steps": _COUNT_OR_NONE,
}


def check_values(config: ConfigDict) -> None:
    """Checks every number of a configuration by itself.

    Raises:
        ValueError: Some are out of their ranges; names them all.
    """
    problems = []
    for field, (is_fine, wanted) in _RULES.items():
        value = _value(config, field)
        if value is not None and not _holds(is_fine, value):
            problems.append(f"config.{field} is {one_line(repr(value), 80)}, but has to {wanted}")
    data = config.data
    try:
        if not problems:
            Preprocessing(data.mean, data.std).of_channels(data.channels)
    except (TypeError, ValueError, OverflowError) as error:
        problems.append(f"config.data.mean and config.data.std: {str(error).rstrip('.')}")
    if problems:
        raise ValueError("; ".join(problems) + ".")


def _holds(is_fine: Callable[[Any], bool], value: Any) -> bool:
    try:
        return bool(is_fine(value))
    except (TypeError, ValueError, OverflowError):  # text or a list in the place of a number
        return False


def _value(config: ConfigDict, field: str) -> Any:
    for name in field.split("."):
        config = config[name]
    return config
