"""What a reconstruction did, as data and as a table.

r = faq_keras.reconstruct(q, images)
print(r)                                  # layer, bits, dB before -> after, what was done
r.outputs[0].agreement_after              # share of the images with the float network's class
"""

from __future__ import annotations

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class LayerResult:
    """One quantized layer.

    Attributes:
        name: Its name in the plan.
        kind: Its kind in the plan.
        bits: Bits of its kernel, or None.
        output_bits: Bits of its output.
        noise_before: Signal to noise of its output against the float network's, in dB, before
            anything was corrected; None if there was no noise (or no signal).
        noise_after: The same afterwards, with all layers before it corrected as well.
        rounded: Whether its kernel has new codes.
        means: Whether the means of its channels were shifted.
        skipped: Why something was left as it was, or None.
    """

    name: str
    kind: str
    bits: int | None
    output_bits: int
    noise_before: float | None
    noise_after: float | None
    rounded: bool
    means: bool
    skipped: str | None

    @property
    def done(self) -> str:
        """What was done, in words."""
        words = [word for word, done in (("rounded", self.rounded), ("means", self.means)) if done]
        return ", ".join(words) or "-"


@dataclasses.dataclass(frozen=True)
class OutputResult:
    """One output of the network, compared with the float network's.

    Attributes:
        name: The layer that gives it.
        agreement_before: Share of the images for which both rank the same class first, before; None
            for what does not score several classes.
        agreement_after: The same afterwards.
        sqnr_before: Signal to noise of its values (before a softmax) in dB, before; None if there
            was no noise.
        sqnr_after: The same afterwards.
    """

    name: str
    agreement_before: float | None
    agreement_after: float | None
    sqnr_before: float | None
    sqnr_after: float | None

    def __str__(self) -> str:
        noise = f"{decibels(self.sqnr_before)} -> {decibels(self.sqnr_after)} dB"
        if self.agreement_before is None or self.agreement_after is None:
            return f"{self.name}: {noise}"
        before, after = 100 * self.agreement_before, 100 * self.agreement_after
        return f"{self.name}: agreement {before:.2f} % -> {after:.2f} %, {noise}"


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What `faq_keras.reconstruct` did.

    Attributes:
        layers: One entry per quantized layer, in the order of the network.
        outputs: One entry per output of the network.
        images: How many images were used.
        more_images: Whether there were more, which were left out.
        seconds: How long it took.
        teacher: Which float network it was compared with.
    """

    layers: tuple[LayerResult, ...]
    outputs: tuple[OutputResult, ...]
    images: int
    more_images: bool
    seconds: float
    teacher: str

    def __getitem__(self, name: str) -> LayerResult:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(
            f"No layer {name!r} was reconstructed; there are "
            f"{', '.join(layer.name for layer in self.layers)}."
        )

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Reconstruction:
        """The inverse of `to_json`."""
        data = json.loads(text)
        layers = tuple(LayerResult(**layer) for layer in data.pop("layers"))
        outputs = tuple(OutputResult(**output) for output in data.pop("outputs"))
        return cls(layers, outputs, **data)

    def __str__(self) -> str:
        first = "the first " if self.more_images else ""
        width = max(len("layer"), *(len(layer.name) for layer in self.layers))
        lines = [
            f"Reconstructed on {first}{self.images:,} images in {self.seconds:.1f} s; teacher: "
            f"{self.teacher}",
            f"{'layer':<{width}}  kind            bits  out  dB before    after  done",
        ]
        for layer in self.layers:
            note = f" ({layer.skipped})" if layer.skipped else ""
            lines.append(
                f"{layer.name:<{width}}  {layer.kind.split(':')[-1]:<14}  {layer.bits or '-':>4}  "
                f"{layer.output_bits:>3}  {decibels(layer.noise_before):>9} "
                f"{decibels(layer.noise_after):>8}  {layer.done}{note}"
            )
        return "\n".join([*lines, *map(str, self.outputs)])


def decibels(ratio: float | None) -> str:
    """A signal to noise ratio; "exact" without noise."""
    return "exact" if ratio is None else f"{ratio:.1f}"
