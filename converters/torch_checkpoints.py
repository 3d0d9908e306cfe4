"""The tensors in a PyTorch checkpoint of anybody's.

The one idea: `torch.load(weights_only=True)` runs nothing, but gives whatever a pickle can spell
out of tensors: keys that are numbers, tensors without values, a number that says it is a billion.
So what it gives is checked entry by entry before anything is computed with it:

    state = read_checkpoint("resnet18.pth")      # {"conv1.weight": Tensor, ...}

Needs the extra `[torch]`.
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from faq_keras.archives import check_archive
from faq_keras.converters.errors import ConversionError, listed
from faq_keras.texts import one_line

_WRAPPERS = ("state_dict", "model_state_dict", "net", "model")
_MOST_WRAPPERS = 8
_PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")
"""Names in the published DenseNet checkpoints: `norm.1.weight` is `norm1.weight` today."""
_SAVE_IT = "Save it with torch.save(model.state_dict(), file)."


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Reads the tensors of a checkpoint, without `state_dict` wrapper and `module.` prefixes.

    Raises:
        ConversionError: Not a checkpoint, or one that holds anything but tensors and plain data.
        OSError: The file cannot be read.
    """
    name = os.fspath(path)
    with open(path, "rb") as stream:
        if not stream.read(1):
            raise ConversionError(f"{name} is empty. Save the checkpoint again.")
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load reports damage by many types
        raise ConversionError(
            f"{name} is not a checkpoint of plain tensors: {reason_of(error)} Nothing of it was "
            f"executed. {_SAVE_IT}"
        ) from error
    return _tensors(content, name)


def reason_of(error: Exception) -> str:
    """What torch objects to, without its advice to load a file unsafely."""
    text = " ".join(str(error).split()) or type(error).__name__
    found = re.search(r"Unsupported (?:global|class|operand)[^.]*\S*|GLOBAL \S+", text)
    short = found.group(0) if found else text.split(". ")[0]
    return one_line(short.strip().rstrip("."), 200) + "."


def shown(key: object) -> str:
    """A key for messages, shortened."""
    return one_line(repr(key), 120)


def _tensors(content: Any, name: str) -> dict[str, torch.Tensor]:
    for _ in range(_MOST_WRAPPERS):
        inner = [content[key] for key in _WRAPPERS if _is_mapping(content, key)]
        if not inner:
            break
        content = inner[0]
    else:
        raise ConversionError(
            f"{name} is wrapped in more than {_MOST_WRAPPERS} dictionaries. {_SAVE_IT}"
        )
    if not isinstance(content, Mapping) or not content:
        raise ConversionError(
            f"{name} holds a {type(content).__name__}, not a state_dict. {_SAVE_IT}"
        )
    _check(content, name)
    state = dict(content)
    if all(_PREFIXES.match(key) for key in state):
        state = {_PREFIXES.sub("", key): tensor for key, tensor in state.items()}
    return {_OLD_DENSENET.sub(r"\1\2", key): tensor for key, tensor in state.items()}


def _is_mapping(content: Any, key: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(key), Mapping)


def _check(content: Mapping[Any, Any], name: str) -> None:
    """Refuses what is no state_dict, and weights that are no numbers."""
    keys = [shown(key) for key in content if not isinstance(key, str)]
    if keys:
        raise ConversionError(
            f"{name}: not a state_dict, it has keys that are no text: {listed(keys)}. {_SAVE_IT}"
        )
    others = [
        f"{shown(key)} ({type(value).__name__})"
        for key, value in content.items()
        if not isinstance(value, torch.Tensor)
    ]
    if others:
        raise ConversionError(
            f"{name}: not a state_dict, these entries are not tensors: {listed(others)}. {_SAVE_IT}"
        )
    odd = [f"{shown(key)} {why}" for key, value in content.items() if (why := _oddity(value))]
    if odd:
        raise ConversionError(
            f"{name} has weights that are no plain arrays: {listed(odd)}. Save them as dense "
            "tensors of numbers, on the CPU."
        )
    bad = [
        shown(key)
        for key, tensor in content.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if bad:
        raise ConversionError(
            f"{name} has weights that are NaN or infinite: {listed(bad)}. Repair the checkpoint."
        )


def _oddity(tensor: torch.Tensor) -> str:
    """Why a tensor is no plain array of numbers; empty if it is one."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return "is sparse or nested"
    if tensor.device.type != "cpu":
        return f"has no values (it is on the device '{tensor.device.type}')"
    if tensor.is_quantized:
        return "is quantized"
    if tensor.is_complex():
        return f"is {str(tensor.dtype).removeprefix('torch.')}"
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > stored:
        return f"has {tensor.numel():,} entries, of which only {stored:,} are stored (expanded)"
    return ""
