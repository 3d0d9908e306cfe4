"""Accuracy without training: what a few unlabelled images can mend in a quantized network.

q = faq_keras.apply(model, bits=4, calibration_data=x)
print(faq_keras.reconstruct(q, x[:256]))     # in place: noise before and after, per layer
print(faq_keras.distill(q, x[:1024]))        # in place: gamma and beta
faq_keras.export_tflite(q, "model.tflite", weights="int4", verify=x)
"""

from faq_keras.post_training.distillation import Distillation, distill
from faq_keras.post_training.reconstruction import reconstruct
from faq_keras.post_training.result import LayerResult, OutputResult, Reconstruction

__all__ = [
    "Distillation",
    "LayerResult",
    "OutputResult",
    "Reconstruction",
    "distill",
    "reconstruct",
]
