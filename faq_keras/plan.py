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
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from faq_keras.archives import read_text
from faq_keras.files import atomic_write
from faq_keras.plan_parts import (
    Agreement,
    Fit,
    KernelSpec,
    MultiplierSpec,
    TensorSpec,
    check_settings,
    check_types,
    plain,
)
from faq_keras.texts import one_line, printable, reason_of

FORMAT = "faq_keras.plan/1"
_Part = TypeVar("_Part")
# A user's own layer (`custom_layers`) has this and its registered name as its kind.
CUSTOM_PREFIX = "custom:"


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """What one quantized layer (one integer op) needs to know.

    Attributes:
        name: The quantized layer's name (the first float layer that is fused in it).
        kind: The graph's node kind, such as "conv" or "add".
        inputs: Names of the quantized layers whose output codes it reads.
        output: Its output tensor.
        kernel: Its weights, if it has any.
        multiplier: Its batch normalization multipliers, if it has any; without a batch
            normalization, those that take the kernel's channel scales back.
        output_fit: Where the output's exponent comes from, if it was fitted.
        kernel_fit: Where the kernel's exponent comes from, if it was fitted.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: TensorSpec
    kernel: KernelSpec | None = None
    multiplier: MultiplierSpec | None = None
    output_fit: Fit | None = None
    kernel_fit: Fit | None = None

    def __post_init__(self) -> None:
        check_types(self)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerPlan:
        """The inverse of `to_dict`."""

        def part(name: str, kind: type[_Part]) -> _Part | None:
            value = data.get(name)
            return None if value is None else kind(**value)

        return cls(
            name=data["name"],
            kind=data["kind"],
            inputs=tuple(data["inputs"]),
            output=TensorSpec(**data["output"]),
            kernel=part("kernel", KernelSpec),
            multiplier=part("multiplier", MultiplierSpec),
            output_fit=part("output_fit", Fit),
            kernel_fit=part("kernel_fit", Fit),
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
            role = "multiplier" if self.multiplier.constant else "bn multiplier"
            yield f"{self.name}/multiplier", role, str(self.multiplier)
        if self.kernel or self.multiplier:
            yield f"{self.name}/bias", "bias", "32 signed   accumulator grid"
        yield self.name, _ROLES.get(self.kind, self.kind), str(self.output)

    def fit_rows(self) -> Iterator[tuple[str, str, str, str]]:
        """`(tensor name, step, relative error, candidates)` of every exponent that was fitted."""
        for tensor, fit in ((f"{self.name}/kernel", self.kernel_fit), (self.name, self.output_fit)):
            if fit is not None:
                yield tensor, f"2^{fit.chosen}", f"{fit.error:.3g}", str(fit)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no key stands twice: readers would not agree which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {one_line(twice, 80)!r} stands twice in one object")
    return found


# Headings of `fit_rows`. An error is that of quantizing the tensor, relative to its mean square.
FIT_COLUMNS = ("tensor", "step", "relative error", "candidates and their errors")
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
        scales: "fitted" by least squared error, or those of the "paper".
        post_training: The last post-training step that changed the weights: "reconstruct" or
            "distill".
        agreement: How the quantized network agreed with the float one, per output, when it was
            made or after that step.
    """

    weight_bits: int
    activation_bits: int
    logits_bits: int = 16
    numerics: str = "xnnpack"
    percentile: float | None = None
    calibration_batches: int = 0
    recipe: str | None = None
    scales: str = "paper"
    post_training: str | None = None
    agreement: tuple[Agreement, ...] = ()

    def __post_init__(self) -> None:
        parts = tuple(a if isinstance(a, Agreement) else Agreement(**a) for a in self.agreement)
        object.__setattr__(self, "agreement", parts)
        check_types(self)
        check_settings(self)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return plain(dataclasses.asdict(self))


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
        names = Counter(layer.name for layer in self.layers)
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise ValueError(
                f"The plan names these layers more than once: {one_line(', '.join(twice))}."
            )
        unknown = sorted({i for layer in self.layers for i in layer.inputs if i not in names})
        if unknown:
            raise ValueError(
                f"The plan's layers read tensors that the plan lacks: "
                f"{one_line(', '.join(unknown))}."
            )
        self._check_bits()

    def _check_bits(self) -> None:
        """Whether the outputs' bits are those that the settings state.

        Of weights and ReLUs no more can be said: ends, shared grids and overrides may leave no
        layer with the bits of the settings.

        Raises:
            ValueError: They are not.
        """
        s, outputs = self.settings, [layer.output for layer in self.layers]
        if s.logits_bits == 8 and any(o.signed and o.bits == 16 for o in outputs):
            raise ValueError("The plan has 16-bit outputs, but its logits_bits are 8")

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
            "settings": self.settings.to_dict(),
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
            data = json.loads(text, object_pairs_hook=_unique)
            if data["format"] != FORMAT:
                raise ValueError(f"its format is {one_line(repr(data['format']), 80)}")
            return cls(
                PlanSettings(**data["settings"]),
                tuple(LayerPlan.from_dict(layer) for layer in data["layers"]),
            )
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{source} is not a quantization plan ({FORMAT}): "
                f"{reason_of(error, 500).rstrip('.')}. Write one with "
                f"plan_of(model).save(path)."
            ) from error

    def fit_rows(self) -> Iterator[tuple[str, str, str, str]]:
        """The rows of all layers, as `FIT_COLUMNS` names them."""
        for layer in self.layers:
            yield from layer.fit_rows()

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
        rows = [(one_line(n), *more) for layer in self.layers for n, *more in layer.rows()]
        width = max([len("tensor")] + [len(row[0]) for row in rows])
        s = self.settings
        title = (
            f"QuantPlan {self.hash}: W{s.weight_bits}A{s.activation_bits}, {s.logits_bits}-bit "
            f"logits, "
            f"{s.numerics} rounding"
        )
        head = f"{'tensor':<{width}}  {'role':<13}  bits, step, range"
        lines = [title, *self.history(), head]
        text = "\n".join([*lines, *(f"{n:<{width}}  {r:<13}  {d}" for n, r, d in rows)])
        return printable(text)

    def history(self) -> Iterator[str]:
        """How the exponents were chosen, what was done since, and how close to float it is."""
        s = self.settings
        said = {"fitted": "of least squared error", "paper": "by the paper's rules"}
        yield f"scales: {s.scales} ({said.get(s.scales, 'unknown')})"
        if s.post_training:
            yield f"post-training step: {s.post_training}"
        if s.recipe:
            yield f"fine-tuned by the recipe: {s.recipe}"
        when = f"after {s.post_training or 'apply'}"
        for entry in s.agreement:
            yield f"agreement with the float network {when}, {entry}"
