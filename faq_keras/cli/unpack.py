"""faq unpack in.tflite out.tflite.

Writes a file with packed 4-bit weights as one with the same weights in int8, which every TFLite
runtime runs at full speed (C++, Android, Ethos-U's compiler). In Python, faq_keras.tflite.load does
the same in memory.

Example: faq unpack model_int4.tflite model_int8.tflite
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from faq_keras import tflite
from faq_keras.cli import common

FLAGS = flags.FlagValues()


def main(arguments: list[str]) -> int:
    """Unpacks one file."""
    source, target = common.positional(arguments, "in.tflite", "out.tflite")
    tflite.unpack(source, target)
    before, after = Path(source).stat().st_size, Path(target).stat().st_size
    print(f"Wrote {target}: {after:,} bytes (packed: {before:,})")
    return 0
