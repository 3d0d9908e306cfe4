"""The parts of a plan: one tensor, one kernel, one set of multipliers, and where they come from.

Each part is a frozen record that refuses what no integer kernel could compute with, whether it was
made by `policy.make_plan` or read from a file.

    spec = TensorSpec(bits=4, exponent=-2, signed=False)
    spec.step, spec.highest                  # 0.25, 15
    KernelSpec(bits=8, clip_stds=6.5)
    Fit(exponents=(-5, -6), errors=(1e-4, 3e-4), chosen=-5)
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from faq_keras.fixed_point import code_range
from faq_keras.texts import one_line

# Kernels reckon with ratios of scales; beyond these no float32 holds them.
EXPONENTS = range(-60, 61)
# A kernel whose few weights other than zero are to fit needs thousands of standard deviations.
_WIDEST_CLIP = 1e6
_LARGEST_SCALE = 2.0**30
_LARGEST_SQNR = 1e4  # dB: float32 has less than 1,600 from its smallest to its largest number


def _is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


# What the fields' types allow: a plan comes from a file, which may hold anything.
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "int": _is_int,
    "float": _is_number,
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "tuple[str, ...]": lambda value: all(isinstance(part, str) for part in value),
    "tuple[int, ...]": lambda value: all(_is_int(part) for part in value),
    "tuple[float, ...]": lambda value: all(_is_number(part) for part in value),
}


def check_types(entry: Any) -> None:
    """Raises a ValueError if a field of a plan's part has another type than it declares."""
    for field in dataclasses.fields(entry):
        value, (kind, *none) = getattr(entry, field.name), str(field.type).split(" | ")
        if not (none and value is None) and not _TYPES.get(kind, lambda _: True)(value):
            raise ValueError(
                f"The field {field.name} of a {type(entry).__name__} is "
                f"{one_line(repr(value), 80)}, not {field.type}"
            )


_WORDS = "printable text of at most 100 characters"
# What the settings of a plan may be; a field that is None is not asked.
_SETTINGS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "weight_bits": (lambda v: 2 <= v <= 8, "2 to 8"),
    "activation_bits": (lambda v: 2 <= v <= 8, "2 to 8"),
    "logits_bits": (lambda v: v in (8, 16), "8 or 16"),
    "numerics": (lambda v: v.isprintable() and 0 < len(v) <= 100, _WORDS),
    "percentile": (lambda v: 50 <= v <= 100, "50 to 100"),
    "calibration_batches": (lambda v: 0 <= v < 2**31, "0 to 2^31 - 1"),
    "recipe": (lambda v: v.isprintable() and len(v) <= 100, _WORDS),
    "scales": (lambda v: v in ("fitted", "paper"), "'fitted' or 'paper'"),
    "post_training": (lambda v: v.isprintable() and len(v) <= 100, _WORDS),
}


def check_settings(settings: Any) -> None:
    """Raises a ValueError if a field of a `PlanSettings` has a value that no plan has."""
    for name, (fits, wanted) in _SETTINGS.items():
        value = getattr(settings, name)
        if value is not None and not fits(value):
            raise ValueError(
                f"The field {name} of a plan's settings is {one_line(repr(value), 80)}, not "
                f"{wanted}"
            )


def plain(value: Any) -> Any:
    """Lists in the place of tuples: a plan's part equals itself after a trip through JSON."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, tuple | list) else value


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An activation tensor: `value = code * 2**exponent`.

    Attributes:
        bits: 2 to 8 unsigned (ReLU outputs), 8 signed (linear tensors), 16 signed (logits).
        exponent: The paper's `l`.
        signed: Whether codes may be negative.
        limit: Largest code when it is below the width's own (ReLU6), else None.
    """

    bits: int
    exponent: int
    signed: bool
    limit: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.signed and self.bits not in (8, 16):
            raise ValueError(
                f"A signed activation tensor has 8 or 16 bits, not {self.bits}: no TFLite kernel "
                f"clamps a narrower range."
            )
        if not self.signed and not 2 <= self.bits <= 8:
            raise ValueError(f"An unsigned activation tensor has 2 to 8 bits, not {self.bits}.")
        if self.exponent not in EXPONENTS:
            raise ValueError(
                f"The exponent {self.exponent} of an activation tensor is out of the range "
                f"[{EXPONENTS[0]}, {EXPONENTS[-1]}] that integer kernels can compute with."
            )
        if self.limit is not None and not 0 < self.limit <= code_range(self.bits, self.signed)[1]:
            raise ValueError(f"The limit {self.limit} is not a code of a {self.bits}-bit tensor.")

    @property
    def lowest(self) -> int:
        """Smallest code. Signed tensors use the whole container: no kernel clamps at -127."""
        return code_range(self.bits, self.signed, symmetric=False)[0]

    @property
    def highest(self) -> int:
        """Largest code."""
        return code_range(self.bits, self.signed)[1] if self.limit is None else self.limit

    @property
    def step(self) -> float:
        """The value of one code step."""
        return 2.0**self.exponent

    @property
    def zero_point(self) -> int:
        """Integer of code 0: puts the highest code where the int8 container saturates."""
        return 0 if self.signed else 128 - 2**self.bits

    def __str__(self) -> str:
        low, high = self.lowest * self.step, self.highest * self.step
        sign = "signed" if self.signed else "unsigned"
        return f"{self.bits:>2} {sign:<8} 2^{self.exponent:<4} [{low:g}, {high:g}]"


@dataclasses.dataclass(frozen=True)
class KernelSpec:
    """A weight tensor; its exponent is recomputed from the float weights (paper section 3.1.1).

    Attributes:
        bits: 2 to 8.
        clip_stds: The paper's constant: range in standard deviations
            (`fixed_point.KERNEL_CLIP_STDS`), or the constant that makes the rule give the exponent
            of least squared error (`fitting`).
        channel_scales: A positive factor per output channel, or None: the codes are those of
            `kernel * channel_scales`, and the layer's multipliers take the factors back. They give
            each channel a real step of its own at no cost on the device.
    """

    bits: int
    clip_stds: float
    channel_scales: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.channel_scales is not None:
            object.__setattr__(self, "channel_scales", tuple(self.channel_scales))
        check_types(self)
        if not 2 <= self.bits <= 8:
            raise ValueError(f"A weight tensor has 2 to 8 bits, not {self.bits}.")
        if not 0 < self.clip_stds < _WIDEST_CLIP:
            raise ValueError(f"Weights are not clipped to {self.clip_stds} standard deviations.")
        if self.channel_scales is not None and not all(
            1 / _LARGEST_SCALE <= scale <= _LARGEST_SCALE for scale in self.channel_scales
        ):
            raise ValueError(
                f"The channel scales of a kernel lie between 1/{_LARGEST_SCALE:g} and "
                f"{_LARGEST_SCALE:g}, not {min(self.channel_scales):g} to "
                f"{max(self.channel_scales):g}."
            )

    def __str__(self) -> str:
        scales = ", scaled per channel" if self.channel_scales else ""
        return (
            f"{self.bits:>2} signed   from weights: {self.clip_stds:g} std / 2^{self.bits}{scales}"
        )


@dataclasses.dataclass(frozen=True)
class MultiplierSpec:
    """The per-channel multipliers of a folded batch normalization.

    Attributes:
        bits: 8 (paper section 2.1).
        exponent: Calibrated from the pretrained multipliers, or the paper's -4 (section 3.1.1: `l =
            -b/2`).
        finer: How many times a channel may halve this step until its multiplier needs all bits; 0
            gives all channels the same step, as in the paper. The deployed scale is a float32
            number per channel, so it costs nothing.
        constant: Whether there is no batch normalization: the multipliers are the inverse of the
            kernel's channel scales.
    """

    bits: int
    exponent: int
    finer: int = 0
    constant: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if not 2 <= self.bits <= 8:
            raise ValueError(f"A multiplier has 2 to 8 bits, not {self.bits}.")
        if self.exponent not in EXPONENTS or not 0 <= self.finer <= 32:
            raise ValueError(
                f"The steps of multipliers cannot go from 2^{self.exponent} down {self.finer} times"
            )

    def __str__(self) -> str:
        high = code_range(self.bits, signed=True)[1] * 2.0**self.exponent
        least = f"2^{self.exponent - self.finer}.." if self.finer else ""
        return f"{self.bits:>2} signed   {least}2^{self.exponent:<4} [{-high:g}, {high:g}]"


@dataclasses.dataclass(frozen=True)
class Fit:
    """How an exponent was chosen: by least squared error among candidates (`fitting`).

    Errors are those of quantizing the tensor, relative to its mean square.

    Attributes:
        exponents: The candidates.
        errors: The error of each of them.
        chosen: The exponent that was taken.
        channel_error: The error of a kernel whose channels are scaled, if they are.
    """

    exponents: tuple[int, ...]
    errors: tuple[float, ...]
    chosen: int
    channel_error: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "exponents", tuple(self.exponents))
        object.__setattr__(self, "errors", tuple(self.errors))
        check_types(self)
        if self.channel_error is None and self.chosen not in self.exponents:
            raise ValueError(f"A fit cannot choose {self.chosen}, which is none of its exponents.")
        if len(self.exponents) != len(self.errors):
            raise ValueError(
                f"A fit has one error per exponent, not {len(self.errors)} for "
                f"{len(self.exponents)}."
            )

    @property
    def error(self) -> float:
        """The error of what was chosen."""
        if self.channel_error is not None:
            return self.channel_error
        return dict(zip(self.exponents, self.errors, strict=True))[self.chosen]

    def __str__(self) -> str:
        candidates = zip(self.exponents, self.errors, strict=True)
        listed = [f"2^{exponent}: {error:.3g}" for exponent, error in candidates]
        if self.channel_error is not None:
            listed.append(f"2^{self.chosen} with scaled channels: {self.channel_error:.3g}")
        return ", ".join(listed)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How close one output of a quantized network is to the float network's.

    Attributes:
        output: Name of the output's layer.
        images: How many images were compared.
        top1: Share of the images with the same largest score, for classifiers; else None.
        sqnr: Signal to quantization noise ratio in dB: of the logits, or the values.
    """

    output: str
    images: int
    top1: float | None
    sqnr: float

    def __post_init__(self) -> None:
        check_types(self)
        share = self.top1 is None or 0 <= self.top1 <= 1
        if not (share and self.images >= 1 and abs(self.sqnr) <= _LARGEST_SQNR):
            raise ValueError(
                f"An Agreement of {self.images} images has no top1 of {self.top1} and sqnr of "
                f"{self.sqnr:g} dB"
            )

    def __str__(self) -> str:
        said = f"SQNR {self.sqnr:.1f} dB on {self.images:,} images"
        if self.top1 is not None:
            said = f"{100 * self.top1:.1f} % same top-1, {said}"
        return f"{self.output}: {said}"
