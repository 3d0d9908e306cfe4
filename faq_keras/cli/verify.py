"""faq verify MODEL.keras m.tflite --data=x.npz [--runtimes=xnnpack].

Runs the Keras model, the integer reference and the file on the given inputs and compares every
tensor, integer by integer. The exit status is 1 on any mismatch. Integer labels, as an array y
beside the inputs x, add the top-1 accuracy that each runtime's rounding gives. docs/runtimes.md
tells of the runtimes: xnnpack, builtin, reference, tflm, aarch64, aarch64-builtin.

Example: faq verify model.keras model_int4.tflite --data=test.npz --runtimes=xnnpack,tflm
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from absl import flags

from faq_keras import deployment
from faq_keras.archives import read_arrays
from faq_keras.cli import common

FLAGS = flags.FlagValues()
_DATA = flags.DEFINE_string(
    "data",
    None,
    "model inputs: .npz with an array x (and y: labels), or .npy",
    flag_values=FLAGS,
)
_RUNTIMES = flags.DEFINE_list(
    "runtimes", ["xnnpack"], "runtimes to compare, separated by commas", flag_values=FLAGS
)
_NUM_THREADS = flags.DEFINE_integer(
    "num_threads", 1, "threads of each runtime", lower_bound=1, flag_values=FLAGS
)
_JSON = flags.DEFINE_string("json", None, "also write the report to this file", flag_values=FLAGS)


def main(arguments: list[str]) -> int:
    """Compares one file with its model."""
    source, file = common.positional(arguments, "MODEL.keras", "m.tflite")
    if not _DATA.value:
        raise ValueError("--data is missing: name an .npz file whose array x holds model inputs.")
    model = common.load_model(source)
    report = deployment.verify(
        model,
        file,
        common.load_inputs(_DATA.value, model),
        runtimes=_RUNTIMES.value,
        num_threads=_NUM_THREADS.value,
        labels=_labels(_DATA.value),
    )
    common.say(report)
    if _JSON.value:
        common.write_text(_JSON.value, report.to_json())
    return 1 if report.mismatches else 0


def _labels(path: str) -> npt.NDArray[Any] | None:
    """The array y beside the inputs, if there is one; `common.load_inputs` has checked the file."""
    arrays = read_arrays(path)
    return arrays.get("y") if len(arrays) > 1 else None
