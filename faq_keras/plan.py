"""QuantPlan: every bit width and every exponent of a quantized network, in one place.

Training, the integer reference, the TFLite writer and the reports read this plan; none of them
derives a scale of its own. It is made once (`policy.make_plan`, from a graph and calibrated
ranges), never changes during fine-tuning, travels inside the saved model layer by layer and comes
back with `plan_of`.

    plan = faq_keras.plan_of(q)
    print(plan)                       # a table: tensor, role, bits, step as 2^l, range
    plan.save("plan.json")
    q2 = faq_keras.apply(model, plan=QuantPlan.load("plan.json"))

Only two kinds of exponent are not numbers in the plan, because the paper recomputes them from the
weights in every step (section 3.1.1): the kernel's, by the rule that its `KernelSpec` states, and
the bias', which is the convolution's accumulator grid `2**(input exponent + kernel exponent)`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from faq_keras.archives import read_text
from faq_keras.files import atomic_write
from faq_keras.fixed_point import code_range

FORMAT = "faq_keras.plan/1"
# A user's own layer (`custom_layers`) has this and its registered name as its kind.
CUSTOM_PREFIX = "custom:"
# Kernels reckon with ratios of scales; beyond these no float32 holds them.
EXPONENTS = range(-60, 61)


def _is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


# What the fields' types allow: a plan comes from a file, which may hold anything.
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "int": _is_int,
    "float": lambda value: _is_int(value) or (isinstance(value, float) and math.isfinite(value)),
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "tuple[str, ...]": lambda value: all(isinstance(part, str) for part in value),
}


def _check_types(entry: Any) -> None:
    """Raises a ValueError if a field of a plan's part has another type than it declares."""
    for field in dataclasses.fields(entry):
        value, (kind, *none) = getattr(entry, field.name), str(field.type).split(" | ")
        if not (none and value is None) and not _TYPES.get(kind, lambda _: True)(value):
            raise ValueError(
                f"The field {field.name} of a {type(entry).__name__} is {value!r}, not {field.type}"
            )


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
        _check_types(self)
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
            (`fixed_point.KERNEL_CLIP_STDS`).
    """

    bits: int
    clip_stds: float

    def __post_init__(self) -> None:
        _check_types(self)
        if not 2 <= self.bits <= 8:
            raise ValueError(f"A weight tensor has 2 to 8 bits, not {self.bits}.")
        if not 0 < self.clip_stds < 1000:
            raise ValueError(f"Weights are not clipped to {self.clip_stds} standard deviations.")

    def __str__(self) -> str:
        return f"{self.bits:>2} signed   from weights: {self.clip_stds:g} std / 2^{self.bits}"


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
    """

    bits: int
    exponent: int
    finer: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
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
class LayerPlan:
    """What one quantized layer (one integer op) needs to know.

    Attributes:
        name: The quantized layer's name (the first float layer that is fused in it).
        kind: The graph's node kind, such as "conv" or "add".
        inputs: Names of the quantized layers whose output codes it reads.
        output: Its output tensor.
        kernel: Its weights, if it has any.
        multiplier: Its batch normalization multipliers, if it has any.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: TensorSpec
    kernel: KernelSpec | None = None
    multiplier: MultiplierSpec | None = None

    def __post_init__(self) -> None:
        _check_types(self)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return dataclasses.asdict(self) | {"inputs": list(self.inputs)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerPlan:
        """The inverse of `to_dict`."""
        kernel, multiplier = data.get("kernel"), data.get("multiplier")
        return cls(
            name=data["name"],
            kind=data["kind"],
            inputs=tuple(data["inputs"]),
            output=TensorSpec(**data["output"]),
            kernel=None if kernel is None else KernelSpec(**kernel),
            multiplier=None if multiplier is None else MultiplierSpec(**multiplier),
        )

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """`(tensor name, role, description)` of every tensor of the layer."""
        if self.kernel and self.kind.startswith(CUSTOM_PREFIX):
            how = f"{self.kernel.bits:>2} signed   from weights, by the layer's quantize config"
            yield f"{self.name}/kernel", "kernel", how
            yield self.name, self.kind.removeprefix(CUSTOM_PREFIX), str(self.output)
            return
        if self.kernel:
            yield f"{self.name}/kernel", "kernel", str(self.kernel)
        if self.multiplier:
            yield f"{self.name}/multiplier", "bn multiplier", str(self.multiplier)
        if self.kernel or self.multiplier:
            yield f"{self.name}/bias", "bias", "32 signed   accumulator grid"
        yield self.name, _ROLES.get(self.kind, self.kind), str(self.output)


_ROLES = {"input": "input", "dense": "dense out", "global_pool": "pooled", "average_pool": "pooled"}


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """How the plan came about; the whole network shares it.

    Attributes:
        weight_bits: Bits of the weights, first and last layer aside.
        activation_bits: Bits of the ReLU outputs, the last one aside.
        logits_bits: 16 or 8.
        numerics: Name of the runtime whose rounding the training graph follows
            (`integer.rounding`).
        percentile: Calibration percentile of the tensors with `activation_bits`.
        calibration_batches: How many batches were looked at.
        recipe: Name of the fine-tuning recipe, when known.
    """

    weight_bits: int
    activation_bits: int
    logits_bits: int = 16
    numerics: str = "xnnpack"
    percentile: float | None = None
    calibration_batches: int = 0
    recipe: str | None = None

    def __post_init__(self) -> None:
        _check_types(self)


@dataclasses.dataclass(frozen=True)
class QuantPlan:
    """The bits and exponents of a whole network.

    Attributes:
        settings: What the plan was made with.
        layers: One entry per quantized layer, in topological order.
    """

    settings: PlanSettings
    layers: tuple[LayerPlan, ...]

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"The plan names these layers more than once: {', '.join(twice)}.")
        unknown = sorted({i for layer in self.layers for i in layer.inputs if i not in set(names)})
        if unknown:
            raise ValueError(
                f"The plan's layers read tensors that the plan lacks: {', '.join(unknown)}."
            )

    def __getitem__(self, name: str) -> LayerPlan:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(
            f"The plan has no layer {name!r}; it has "
            f"{', '.join(layer.name for layer in self.layers)}."
        )

    def __contains__(self, name: str) -> bool:
        return any(layer.name == name for layer in self.layers)

    def input_specs(self, name: str) -> tuple[TensorSpec, ...]:
        """The tensors that a layer reads."""
        return tuple(self[producer].output for producer in self[name].inputs)

    def to_json(self) -> str:
        """The plan as JSON text."""
        data = {
            "format": FORMAT,
            "settings": dataclasses.asdict(self.settings),
            "layers": [layer.to_dict() for layer in self.layers],
        }
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str, source: str = "plan") -> QuantPlan:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: If the text is not a plan; `source` is named.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"its format is {data['format']!r}")
            return cls(
                PlanSettings(**data["settings"]),
                tuple(LayerPlan.from_dict(layer) for layer in data["layers"]),
            )
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{source} is not a quantization plan ({FORMAT}): {error}. Write one with "
                f"plan_of(model).save(path)."
            ) from error

    @property
    def hash(self) -> str:
        """Identifies the plan in exported files: 16 hex digits of its JSON's SHA-256."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON; the file appears whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> QuantPlan:
        """Reads a plan file.

        Raises:
            ValueError: If the file is missing or is not a plan.
        """
        try:
            text = read_text(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"Cannot read the plan {path}: {error}.") from error
        return cls.from_json(text, source=str(path))

    def __str__(self) -> str:
        rows = [row for layer in self.layers for row in layer.rows()]
        width = max([len("tensor")] + [len(row[0]) for row in rows])
        s = self.settings
        title = (
            f"QuantPlan {self.hash}: W{s.weight_bits}A{s.activation_bits}, {s.logits_bits}-bit "
            f"logits, "
            f"{s.numerics} rounding"
        )
        head = f"{'tensor':<{width}}  {'role':<13}  bits, step, range"
        return "\n".join([title, head, *(f"{n:<{width}}  {r:<13}  {d}" for n, r, d in rows)])
