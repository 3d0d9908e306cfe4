"""The model card beside an exported file: how to feed it, what it is, what was proven.

`model.tflite` gets `model.model_card.md` for people and `model.model_card.json` for programs, from
the same facts that stand in the file's own metadata, plus accuracy and parity figures.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from faq_keras.archives import read_text
from faq_keras.files import atomic_write
from faq_keras.integer.program import IntegerProgram
from faq_keras.texts import one_line
from faq_keras.tflite.audit import Audit
from faq_keras.tflite.parity import ParityReport

_LONGEST_NAME = 255  # bytes of a file's name on the usual file systems


def write(
    path: Path,
    program: IntegerProgram,
    audit: Audit,
    parity: ParityReport | None,
    metrics: Mapping[str, float] | None,
    sha256: str,
) -> None:
    """Writes both cards.

    Args:
        path: The exported `.tflite` file.
        program: What it was written from; its metadata goes into the card.
        audit: The audit of the file.
        parity: The comparison with the model, or None if it was not made.
        metrics: Figures of the user's, such as accuracies.
        sha256: Digest of the file, which tells whether a card and a file belong together.
    """
    card = _facts(path, program, audit, parity, metrics) | {"sha256": sha256}
    texts = json.dumps(card, indent=1), _markdown(_shown(card))
    for own, text in zip(_paths(path), texts, strict=True):
        with atomic_write(own, within=path.parent) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def check_names(path: Path) -> None:
    """Refuses a name that leaves no room for those of its cards, before anything is written.

    Raises:
        ValueError: The name is too long.
    """
    longest = len(os.fsencode(_paths(path)[0].name))
    if longest > _LONGEST_NAME:
        raise ValueError(
            f"The name {one_line(path.name, 60)!r} is too long by {longest - _LONGEST_NAME} bytes: "
            f"its model card has the longer name {one_line(_paths(path)[0].name, 60)!r}, and file "
            f"systems take {_LONGEST_NAME} bytes."
        )


def _paths(path: Path) -> tuple[Path, Path]:
    """The cards of a file: for programs, for people."""
    return path.with_suffix(".model_card.json"), path.with_suffix(".model_card.md")


def of_another_file(path: Path) -> Path | None:
    """The card beside a file, if its SHA-256 is not the file's."""
    card = path.with_suffix(".model_card.json")
    if not card.is_file():
        return None
    try:
        described = json.loads(read_text(card))["sha256"]
    except (KeyError, RecursionError, TypeError, ValueError):
        described = None
    return None if described == hashlib.sha256(path.read_bytes()).hexdigest() else card


def _facts(
    path: Path,
    program: IntegerProgram,
    audit: Audit,
    parity: ParityReport | None,
    metrics: Mapping[str, float] | None,
) -> dict[str, Any]:
    inexact = [bound.op for bound in program.bounds if not bound.exact_in_float32]
    return {
        "file": path.name,
        "bytes": audit.file_bytes,
        **program.metadata,
        "metrics": dict(metrics or {}),
        "audit": audit.to_dict(),
        "parity": json.loads(parity.to_json()) if parity else None,
        "accumulators": {
            "largest_bound": max((bound.bound for bound in program.bounds), default=0),
            "layers_above_2_to_24": inexact,
        },
    }


def _shown(value: Any) -> Any:
    """The same with every text on one printable line: names come from anybody's models."""
    if isinstance(value, Mapping):
        return {one_line(str(key)): _shown(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(part) for part in value]
    return one_line(value) if isinstance(value, str) else value


def _markdown(card: Mapping[str, Any]) -> str:
    parity = card["parity"]
    proof = "not run (verify=None)"
    if parity:
        proof = "; ".join(
            f"{run['runtime']}: {run['mismatches']:,} mismatches of {run['values']:,} values in "
            f"{run['tensors']} tensors "
            f"of {run['images']} images"
            for run in parity["runs"]
        )
    accumulators = card["accumulators"]
    above = ", ".join(accumulators["layers_above_2_to_24"]) or "none"
    lines = [
        f"# {card['file']}",
        "",
        f"- Network: {card['model']}, weights {card['weight_bits']} bits, activations "
        f"{card['activation_bits']} bits, "
        f"logits {card['logits_bits']} bits; weights stored as {card['weights']}",
        f"- File: {card['bytes']:,} bytes, SHA-256 {card['sha256']}",
        f"- Plan: {card['plan_hash']}, scales: {card['scales']}, post-training step: "
        f"{card['post_training'] or 'none'}, recipe: {card['recipe'] or 'none recorded'}",
        *(
            f"- Agreement with the float network {_when(card)}: {entry}"
            for entry in card["agreement"]
        ),
        f"- Rounding follows: {card['numerics']}",
        f"- Parity with the Keras model: {proof}",
        f"- Largest accumulator: {accumulators['largest_bound']:,}; above 2^24 (float32 not "
        f"exact): {above}",
        *(f"- {name}: {value}" for name, value in card["metrics"].items()),
        "",
        "## Feeding it",
        "",
        "| tensor | type | shape | scale | zero point |",
        "|---|---|---|---|---|",
        *(
            f"| {t['name']} ({t['role']}) | {t['type']} | {t['shape']} | {t['scale']} | "
            f"{t['zero_point']} |"
            for t in card["tensors"]
        ),
        "",
        f"Layout: {card['layout']}, colour order: {card['colour_order']}.",
        "",
        *_all_preprocessing(card["preprocessing"]),
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in card["versions"].items()),
    ]
    return "\n".join(lines)


def _when(card: Mapping[str, Any]) -> str:
    return f"after {card['post_training'] or 'apply'}"


def _all_preprocessing(steps: list[dict[str, Any]] | dict[str, Any]) -> list[str]:
    """Of the input, or of each input by name."""
    if isinstance(steps, list):
        return _preprocessing("Preprocessing", steps)
    parts = [_preprocessing(f"Preprocessing of {name}", own) for name, own in steps.items()]
    return [line for part in parts for line in (*part, "")]


def _preprocessing(title: str, steps: list[dict[str, Any]]) -> list[str]:
    lines = [f"{title}, in this order:", ""]
    for step in steps:
        numbers = {key: value for key, value in step.items() if key != "op"}
        arguments = ", ".join(f"{key} {_short(value)}" for key, value in numbers.items())
        lines.append(f"1. {step['op']}: {arguments}")
    lines.append("1. quantize: round(x / scale) + zero point, halves to even, clipped to the type")
    return lines


def _short(value: Any) -> str:
    """One number or one per channel; of more, where they stand."""
    shape = np.shape(value)
    if len(shape) < 2:
        return str(value)
    return f"{' x '.join(map(str, shape))} numbers in the .json"
