"""Write, audit, pack, load and verify integer TFLite files.

    from faq_keras import tflite
    runner = tflite.load("model_int4.tflite", num_threads=2)     # packed files run at int8 speed
    tflite.unpack("model_int4.tflite", "model_int8.tflite")      # for C++ and Android

The runtime is imported with the first call, not with the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faq_keras.tflite.loader import Runner as Runner
    from faq_keras.tflite.loader import load as load
    from faq_keras.tflite.loader import unpack as unpack

__all__ = ["Runner", "load", "unpack"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from faq_keras.tflite import loader

        return getattr(loader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
