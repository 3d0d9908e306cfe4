"""faq export MODEL.keras --output=m.tflite|m.onnx [--weights=int4|int8] [--verify_data=x.npz].

Writes a quantized Keras model as a fully integer TFLite file, or as a QDQ ONNX file, and proves
that the file computes the same integers as the model, for every tensor. Nothing is written if it
does not. Without --verify_data random inputs are compared. Beside a .tflite file go
`<name>.model_card.md` and `.json`; a .onnx file takes float32 channels-first images and always
stores weights of 4 bits and fewer as INT4.

--fully_connected_1x1 packs for interpreters that cannot unpack: docs/packed.md.

Example: faq export runs/r20/model.keras --output=r20_int4.tflite --weights=int4
    --verify_data=test.npz
"""

from __future__ import annotations

from typing import Any

from absl import flags

from faq_keras import deployment
from faq_keras.cli import common

FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string(
    "output", None, "the .tflite or .onnx file to write", flag_values=FLAGS
)
_WEIGHTS = flags.DEFINE_enum(
    "weights",
    "int8",
    ["int8", "int4"],
    "container of weights of 4 bits and fewer: int4 packs two in a byte",
    flag_values=FLAGS,
)
_FULLY_CONNECTED_1X1 = flags.DEFINE_boolean(
    "fully_connected_1x1",
    False,
    "with --weights=int4: pack only what LiteRT's own interpreter runs at speed, 1x1 convolutions "
    "as FULLY_CONNECTED",
    flag_values=FLAGS,
)
_VERIFY_DATA = flags.DEFINE_string(
    "verify_data",
    None,
    "model inputs to compare on: .npz with an array x, or .npy",
    flag_values=FLAGS,
)
_INPUT_TYPE = flags.DEFINE_enum(
    "input_type",
    "int8",
    ["int8", "uint8", "float32"],
    "type of the file's input",
    flag_values=FLAGS,
)


def main(arguments: list[str]) -> int:
    """Exports one model."""
    (source,) = common.positional(arguments, "MODEL.keras")
    if not _OUTPUT.value:
        raise ValueError("--output is missing: name the .tflite or .onnx file to write.")
    is_onnx = _OUTPUT.value.endswith(".onnx")
    if not is_onnx and not _OUTPUT.value.endswith(".tflite"):
        raise ValueError(
            f"--output={_OUTPUT.value} does not end in .tflite or .onnx, the formats this command "
            "writes."
        )
    flags_of_tflite = (_WEIGHTS, _INPUT_TYPE, _FULLY_CONNECTED_1X1)
    tflite_only = [f"--{flag.name}" for flag in flags_of_tflite if flag.present]
    if is_onnx and tflite_only:
        raise ValueError(f"{' and '.join(tflite_only)} apply to .tflite files only: leave out.")
    model = common.load_model(source)
    inputs: Any = deployment.RANDOM_INPUTS
    if _VERIFY_DATA.value:
        inputs = common.load_inputs(_VERIFY_DATA.value, model)
    if is_onnx:
        report = deployment.export_onnx(model, _OUTPUT.value, inputs)
    else:
        report = deployment.export_tflite(
            model,
            _OUTPUT.value,
            _WEIGHTS.value,
            inputs,
            input_type=_INPUT_TYPE.value,
            fully_connected_1x1=_FULLY_CONNECTED_1X1.value,
        )
    common.say(f"Wrote {_OUTPUT.value}\n{report}")
    return 0
