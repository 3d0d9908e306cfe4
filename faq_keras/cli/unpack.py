"""faq unpack in.tflite out.tflite.

Writes a file with packed 4-bit weights as one with the same weights in int8, which every TFLite
runtime runs at full speed (C++, Android, Ethos-U's compiler). In Python, faq_keras.tflite.load does
the same in memory. A model card is not written: the one beside in.tflite describes that file.

Example: faq unpack model_int4.tflite model_int8.tflite
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from faq_keras import model_card, tflite
from faq_keras.cli import common

FLAGS = flags.FlagValues()


def main(arguments: list[str]) -> int:
    """Unpacks one file."""
    source, target = common.positional(arguments, "in.tflite", "out.tflite")
    if Path(target).suffix != ".tflite":
        raise ValueError(f"{target} does not end in .tflite, the format this command writes.")
    tflite.unpack(source, target)
    packed = Path(source).stat().st_size
    common.say(f"Wrote {target}: {Path(target).stat().st_size:,} bytes (packed: {packed:,})")
    card = model_card.of_another_file(Path(target))
    if card:
        common.say(f"The model card {card} describes another file than this one (see its SHA-256).")
    return 0
