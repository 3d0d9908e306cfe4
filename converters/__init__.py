"""Networks from elsewhere (ONNX, PyTorch) as plain Keras models, and the way back.

The one idea: a conversion is worth what its comparison with the original says, so `from_torch`
returns a parity report beside the model and refuses anything above 1e-5 of the largest logit.

    model = faq_keras.converters.from_onnx("resnet18.onnx")
    model, report = faq_keras.converters.from_torch("resnet18", weights="resnet18.pth")
    print(report)
    faq_keras.converters.to_onnx(model, "resnet18_keras.onnx")

The modules are imported on first use: `import faq_keras.converters` needs neither onnx nor torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "ConversionError": "errors",
    "from_onnx": "onnx_to_keras",
    "from_torch": "torch_to_keras",
    "to_onnx": "keras_to_onnx",
}

__all__ = ["ConversionError", "from_onnx", "from_torch", "to_onnx"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        from faq_keras.converters.errors import ConversionError

        raise ConversionError(
            f"{name} needs {error.name}: pip install 'faq_keras[torch]'."
        ) from error
    return getattr(home, name)
