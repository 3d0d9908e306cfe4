"""Why it works, and which layers hurt: the paper's Figures 1 and 2, and what to do for a network.

    noise = diagnostics.GradientNoise("run/gradient_noise.jsonl")      # a Keras callback, Figure 1
    diagnostics.weight_similarity(float_model, q).network              # Figure 2
    s = diagnostics.sensitivity(float_model, (images, labels), bits=(3, 4, 6))
    policy = diagnostics.suggest_policy(s, average_bits=4)             # which layers get how many
    diagnostics.activation_statistics(q, images)       # ranges, saturation, noise of each tensor

Pictures of them: `faq_keras.diagnostics.plots`, which imports matplotlib and is therefore not
imported here.
"""

from faq_keras.diagnostics.activations import (
    ActivationStatistics,
    TensorStatistics,
    activation_statistics,
)
from faq_keras.diagnostics.gradient_noise import GradientNoise, NoiseRecord, read_records
from faq_keras.diagnostics.layer_sensitivity import LayerSensitivity, Sensitivity, sensitivity
from faq_keras.diagnostics.mixed_policy import suggest_policy
from faq_keras.diagnostics.weight_distance import WeightSimilarity, weight_similarity

__all__ = [
    "ActivationStatistics",
    "GradientNoise",
    "LayerSensitivity",
    "NoiseRecord",
    "Sensitivity",
    "TensorStatistics",
    "WeightSimilarity",
    "activation_statistics",
    "read_records",
    "sensitivity",
    "suggest_policy",
    "weight_similarity",
]
