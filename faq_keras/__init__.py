"""Pretrained Keras CNNs become fine-tuned 8- or 4-bit integer TFLite files, bit for bit.

    q = faq_keras.apply(model, bits=4, calibration_data=train_ds)
    faq_keras.fine_tune(q, train_ds, recipe="w4a4", epochs=4, validation_data=test_ds)
    print(faq_keras.export_tflite(q, "model.tflite", weights="int4", verify=x_test))

The command line is `faq --help`.
"""

from importlib import metadata as _metadata
from pathlib import Path as _Path

# Three rooms are links to folders beside this one. In a clone without links (git's default on
# Windows) they are small text files, and the folders are found there.
if any((_Path(__file__).parent / room).is_file() for room in ("configs", "converters", "tflite")):
    __path__.append(str(_Path(__file__).parent.parent))

from faq_keras import converters, custom_layers, diagnostics, tflite
from faq_keras.custom_layers import register
from faq_keras.deployment import export_onnx, export_tflite, verify
from faq_keras.integer.parity_report import ParityError
from faq_keras.plan import QuantPlan
from faq_keras.policy import Policy
from faq_keras.post_training.distillation import Distillation, distill
from faq_keras.post_training.reconstruction import reconstruct
from faq_keras.post_training.result import Reconstruction
from faq_keras.quantization import apply, plan_of, to_float
from faq_keras.rewrite.tfmot import FAQScheme
from faq_keras.training import fine_tune, recipe

__version__ = _metadata.version("faq_keras")
__all__ = [
    "Distillation",
    "FAQScheme",
    "ParityError",
    "Policy",
    "QuantPlan",
    "Reconstruction",
    "apply",
    "converters",
    "custom_layers",
    "diagnostics",
    "distill",
    "export_onnx",
    "export_tflite",
    "fine_tune",
    "plan_of",
    "recipe",
    "reconstruct",
    "register",
    "tflite",
    "to_float",
    "verify",
]
