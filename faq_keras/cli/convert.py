"""faq convert SOURCE --output=m.keras [--arch=NAME | --factory=pkg.module:function] [flags].

Brings a PyTorch network into Keras: convolutions and batch normalisations apart, standard layers
only, channels-last. SOURCE is a checkpoint, .pth, .pt or .th (then --arch or --factory says which
network it belongs to), or an .onnx file. The result is compared with the original on photographs
and written only if it is equal: relative error of the logits at most 1e-5, and the same top-1.

Example: faq convert resnet18.pth --arch=resnet18 --output=resnet18.keras
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import keras
from absl import flags

from faq_keras.cli import common
from faq_keras.files import atomic_write

FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string("output", None, "the .keras file to write", flag_values=FLAGS)
_ARCH = flags.DEFINE_string(
    "arch", None, "name of the architecture in the zoo or in torchvision", flag_values=FLAGS
)
_FACTORY = flags.DEFINE_string(
    "factory", None, "pkg.module:function that builds the torch module", flag_values=FLAGS
)
_INPUT_SHAPE = flags.DEFINE_list(
    "input_shape", None, "height,width,channels of one image", flag_values=FLAGS
)
_ALLOW_FOLDED = flags.DEFINE_bool(
    "allow_folded", False, "accept ONNX files without BatchNorm", flag_values=FLAGS
)
_WITH_PREPROCESSING = flags.DEFINE_bool(
    "with_preprocessing",
    False,
    "put the preprocessing of --arch into the network, as a layer",
    flag_values=FLAGS,
)
_REPORT = flags.DEFINE_string(
    "report", None, "a .json file for the parity report", flag_values=FLAGS
)


def main(arguments: list[str]) -> int:
    """Converts one network."""
    (source,) = common.positional(arguments, "SOURCE")
    if not _OUTPUT.value or not _OUTPUT.value.endswith(".keras"):
        raise ValueError("--output is missing or not a .keras file: name the file to write.")
    if not Path(source).is_file():
        raise ValueError(f"{source} does not exist.")
    suffix = Path(source).suffix.lower()
    if suffix == ".onnx":
        _refuse_torch_flags()
        model, text, json = _from_onnx(source)
    elif suffix in (".pth", ".pt", ".th"):
        model, text, json = _from_torch(source)
    else:
        raise ValueError(f"{source} ends neither in .onnx nor in .pth, .pt or .th.")
    _save(model)
    if _REPORT.value:
        with atomic_write(_REPORT.value) as partial:
            partial.write_text(json)
    common.say(f"Wrote {_OUTPUT.value}\n{text}")
    return 0


def _refuse_torch_flags() -> None:
    if _ARCH.value or _FACTORY.value:
        raise ValueError("--arch and --factory go with a PyTorch checkpoint, not with ONNX.")
    if _WITH_PREPROCESSING.value:
        raise ValueError("--with_preprocessing needs --arch: an ONNX file does not say it.")


def _input_shape() -> tuple[int, int, int] | None:
    if _INPUT_SHAPE.value is None:
        return None
    try:
        height, width, channels = (int(size) for size in _INPUT_SHAPE.value)
    except ValueError as error:
        raise ValueError(
            f"--input_shape={','.join(_INPUT_SHAPE.value)} is not height,width,channels."
        ) from error
    if min(height, width, channels) < 1:
        raise ValueError(f"--input_shape={','.join(_INPUT_SHAPE.value)} has a size below 1.")
    return height, width, channels


def _from_onnx(source: str) -> tuple[keras.Model, str, str]:
    from faq_keras.converters import from_onnx, parity

    start = time.perf_counter()
    model = from_onnx(source, _input_shape(), allow_folded=_ALLOW_FOLDED.value)
    seconds = time.perf_counter() - start
    images = parity.normalised_photographs(model.input_shape[1:])
    installed = importlib.util.find_spec("onnxruntime") is not None
    originals = {"onnxruntime": parity.onnx_runner(source)} if installed else {}
    report = parity.compare(model, originals, images, seconds)
    if originals:  # else the printed report says that nothing was compared
        report.require()
    return model, str(report), report.to_json()


def _from_torch(source: str) -> tuple[keras.Model, str, str]:
    from faq_keras.converters import from_torch
    from faq_keras.converters.zoo import ZOO

    if bool(_ARCH.value) == bool(_FACTORY.value):
        raise ValueError(
            "A checkpoint holds no architecture: pass --arch=NAME or --factory=pkg.module:function."
        )
    shape = _input_shape()
    if shape is None:
        shape = ZOO[_ARCH.value].input_shape if _ARCH.value in ZOO else (224, 224, 3)
    model, report = from_torch(_ARCH.value or "", source, shape, factory=_FACTORY.value)
    return model, str(report), report.to_json()


def _save(model: keras.Model) -> None:
    from faq_keras.converters.zoo import ZOO, attach, with_preprocessing

    preprocessing = ZOO[_ARCH.value].preprocessing if _ARCH.value in ZOO else None
    if _WITH_PREPROCESSING.value:
        if preprocessing is None:
            raise ValueError(f"The preprocessing of {_ARCH.value or _FACTORY.value} is unknown.")
        model = with_preprocessing(model, preprocessing)
    with atomic_write(_OUTPUT.value) as partial:
        model.save(partial)
        if preprocessing is not None:
            attach(partial, preprocessing, in_model=_WITH_PREPROCESSING.value)
