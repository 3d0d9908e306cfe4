"""PyTorch -> ONNX: a module with its checkpoint as a file that keeps BatchNorm and all names.

The one idea: of PyTorch's exporters, only `dynamo=False` with `TrainingMode.PRESERVE` on a module
in eval mode leaves BatchNorm in the graph, keeps the names of the state_dict and does not touch
the running statistics (`TrainingMode.TRAINING` does). Checkpoints are read with `weights_only=True`
and never otherwise: a pickle that wants to run code is refused, not run.

    module = load_module("resnet18", weights="resnet18.pth")
    torch_to_onnx(module, "resnet18.onnx", input_shape=(224, 224, 3))

Needs the extra `[torch]`; this module is imported only when it is used.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from faq_keras.converters.errors import ConversionError, first_line, listed
from faq_keras.converters.torch_checkpoints import read_checkpoint, reason_of, shown
from faq_keras.converters.zoo import ZOO

OPSET = 17

_DECLARED: list[torch.library.Library] = []
"""Declarations of torch ops live as long as the object that made them."""


def load_module(
    arch: str | None = None,
    factory: str | Callable[[], torch.nn.Module] | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> torch.nn.Module:
    """Builds a module, loads its checkpoint and puts it into eval mode.

    Args:
        arch: A name of the zoo or of torchvision's classification models.
        factory: Instead of `arch`: a function without arguments, or its name `pkg.module:function`
            (found from the current folder, too).
        weights: The checkpoint; without one the module keeps the weights that it was built with.

    Raises:
        ConversionError: Unknown architecture or factory, or a checkpoint that is refused or does
            not fit, with the keys that do not.
        OSError: The checkpoint cannot be read.
    """
    if (arch is None) == (factory is None):
        raise ConversionError("Name either an architecture (arch) or a factory, not both.")
    state = None if weights is None else read_checkpoint(weights)
    if factory is not None:
        module = _call_factory(factory)
    else:
        module = _build(str(arch), () if state is None else tuple(state))
    if state is not None:
        _fit(module, state, os.fspath(weights))  # type: ignore[arg-type]
    return module.eval()


def _fit(module: torch.nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    own = module.state_dict()
    problems = [
        f"{shown(key)} is {list(state[key].shape)} instead of {list(own[key].shape)}"
        for key in state
        if key in own and state[key].shape != own[key].shape
    ]
    problems += [f"{shown(key)} is unknown" for key in state if key not in own]
    counters = ".num_batches_tracked"  # absent from old checkpoints, unused in inference
    problems += [
        f"{key!r} is missing" for key in own if key not in state and not key.endswith(counters)
    ]
    if problems:
        raise ConversionError(
            f"{name} does not fit the architecture {type(module).__name__}: {listed(problems)}. "
            "Name the right architecture, or a factory that builds the network."
        )
    module.load_state_dict(state, strict=False)


def _build(arch: str, keys: tuple[str, ...]) -> torch.nn.Module:
    if arch in ZOO:
        arguments = dict(ZOO[arch].arguments)
        if "aux_logits" in arguments:  # heads for training only; they are not converted
            arguments["aux_logits"] = any(key.startswith(("AuxLogits.", "aux1.")) for key in keys)
        return _call_factory(ZOO[arch].factory, **arguments)
    models = import_torchvision().models
    names = models.list_models(module=models)
    if arch not in names:
        raise ConversionError(
            f"Unknown architecture {arch!r}. Known are {listed(sorted({*ZOO, *names}), 200)}; "
            "for any other network name a factory, pkg.module:function."
        )
    return models.get_model(arch, weights=None)


def _call_factory(
    factory: str | Callable[..., torch.nn.Module], **arguments: Any
) -> torch.nn.Module:
    shown = factory if isinstance(factory, str) else getattr(factory, "__name__", repr(factory))
    if isinstance(factory, str):
        factory = _find_factory(factory)
    try:
        module = factory(**arguments)
    except ConversionError:
        raise
    except Exception as error:  # it is the user's code
        raise ConversionError(f"Factory {shown!r} failed: {first_line(error)}.") from error
    if not isinstance(module, torch.nn.Module):
        raise ConversionError(f"Factory {shown!r} returned a {type(module).__name__}, no Module.")
    return module


def _find_factory(name: str) -> Callable[..., torch.nn.Module]:
    package, _, function = name.partition(":")
    if not package or not function:
        raise ConversionError(f"Factory {name!r} is not of the form pkg.module:function.")
    if package.split(".")[0] == "torchvision":
        import_torchvision()
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(package), function, None)
    except Exception as error:  # it is the user's code
        raise ConversionError(
            f"Factory {name!r} cannot be imported: {first_line(error)}."
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise ConversionError(f"Factory {name!r}: {package!r} has no function {function!r}.")
    return found


def import_torchvision() -> Any:
    """torchvision, also beside a torch build for which its compiled ops do not load.

    Its wheel of another build registers shape rules for two detection ops that do not exist then.
    Declaring them (nothing converted here uses them) lets the rest of torchvision import.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise ConversionError(
            "Networks by torchvision's names need torchvision: pip install 'faq_keras[torch]'."
        ) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _DECLARED.append(torch.library.Library("torchvision", "FRAGMENT"))
    for op in ("nms", "qnms"):
        _DECLARED[-1].define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


def torch_to_onnx(
    module: torch.nn.Module, path: str | os.PathLike[str], input_shape: tuple[int, int, int]
) -> None:
    """Exports a module with BatchNorm, a dynamic batch and the names of its state_dict.

    The module is left exactly as it was: its statistics, and whether it is in training mode.

    Args:
        module: Any module that maps one float32 image batch to logits.
        path: The `.onnx` file to write.
        input_shape: `(height, width, channels)`.

    Raises:
        ConversionError: PyTorch cannot export the module.
    """
    height, width, channels = input_shape
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with warnings.catch_warnings(), _no_graph_on_stdout():
            warnings.simplefilter("ignore")  # the exporter announces its successor
            torch.onnx.export(
                module,
                (torch.zeros(1, channels, height, width),),
                os.fspath(path),
                dynamo=False,
                opset_version=OPSET,
                training=torch.onnx.TrainingMode.PRESERVE,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            )
    except Exception as error:  # whatever the user's forward or the exporter raises
        raise ConversionError(
            f"PyTorch cannot export {type(module).__name__} for an image of "
            f"{height} x {width} x {channels}: {reason_of(error)}"
        ) from error
    finally:
        for part, training in modes.items():
            part.training = training


@contextlib.contextmanager
def _no_graph_on_stdout() -> Iterator[None]:
    """Without the dump of its graph that the exporter makes when it fails.

    PyTorch means to switch this log off unless it is verbose, but (2.13) always switches it on; it
    is written past Python's stdout.
    """
    log = getattr(torch._C, "_jit_onnx_log", None)
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log
