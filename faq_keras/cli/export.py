"""faq export MODEL.keras --output=m.tflite [--weights=int4|int8] [--verify_data=x.npz].

Writes a quantized Keras model as a fully integer TFLite file and proves that the file computes the
same integers as the model, for every tensor. Nothing is written if it does not. Without
--verify_data random inputs are compared. Beside the file go `<name>.model_card.md` and `.json`.

Example: faq export runs/r20/model.keras --output=r20_int4.tflite --weights=int4
    --verify_data=test.npz
"""

from __future__ import annotations

from typing import Any

from absl import flags

from faq_keras import deployment
from faq_keras.cli import common

FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string("output", None, "the .tflite file to write", flag_values=FLAGS)
_WEIGHTS = flags.DEFINE_enum(
    "weights",
    "int8",
    ["int8", "int4"],
    "container of weights of 4 bits and fewer: int4 packs two in a byte",
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
        raise ValueError("--output is missing: name the .tflite file to write.")
    if not _OUTPUT.value.endswith(".tflite"):
        raise ValueError(
            f"--output={_OUTPUT.value} does not end in .tflite, the format this command writes."
        )
    model = common.load_model(source)
    inputs: Any = deployment.RANDOM_INPUTS
    if _VERIFY_DATA.value:
        inputs = common.load_inputs(_VERIFY_DATA.value, model)
    report = deployment.export_tflite(
        model,
        _OUTPUT.value,
        _WEIGHTS.value,
        inputs,
        input_type=_INPUT_TYPE.value,
    )
    print(f"Wrote {_OUTPUT.value}\n{report}")
    return 0
