"""Runs Google's LiteRT quantizer (PyPI: ai-edge-quantizer) on a float .tflite file.

    PYTHON quantizer_child.py '{"float_file": "f.tflite", "images": "x.npy", "file": "q.tflite",
                                "weight_bits": 4, "algorithm": "MIN_MAX_UNIFORM_QUANT"}'

It may need packages that this project does not have, so `competitors.py` starts it as a process of
its own, with the Python of `--quantizer_python`. Static quantization, 8-bit activations, one float
scale per channel.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import algorithm_manager, quantizer, recipe_manager


def quantize(order: dict[str, Any]) -> None:
    """Writes the quantized file."""
    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(
        regex=".*",
        operation_name="*",
        activation_num_bits=8,
        weight_num_bits=order["weight_bits"],
        algorithm_key=algorithm_manager.AlgorithmName[order["algorithm"]],
    )
    job = quantizer.Quantizer(order["float_file"], recipe.get_quantization_recipe())
    name, signature = next(iter(_signatures(order["float_file"]).items()))
    images = np.load(order["images"])
    samples = [{signature["inputs"][0]: image[None]} for image in images]
    result = job.quantize(job.calibrate({name: samples}), enable_progress_report=False)
    result.export_model(order["file"], overwrite=True)


def _signatures(path: str) -> dict[str, Any]:
    return Interpreter(model_path=path).get_signature_list()


if __name__ == "__main__":
    quantize(json.loads(sys.argv[1]))
