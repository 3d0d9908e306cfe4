"""faq reconstruct q.keras --data=x.npz|FOLDER [--output=q2.keras] [--images=256].

Recovers accuracy that quantization lost, from a few hundred images without labels: better rounding
of the weights and corrected means, layer by layer, then with --distill_steps a short distillation
of the batch normalizations. Without --output the file itself is replaced, when all went well.

--data holds inputs as the model takes them, 64 to 512 (for a distillation 1,024), or is a folder of
JPEGs, PNGs or BMPs. Those are resized and cropped to the model's input, and their pixels 0..255 are
fed as they are, or multiplied by --scale, plus --offset: one number or one per channel, fractions
such as 1/255 too. What is fed is printed: compare it with what the network was trained on.

Example: faq reconstruct q.keras --data=photographs --scale=1/127.5 --offset=-1 --output=q2.keras
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import flags

from faq_keras.cli import common
from faq_keras.files import atomic_write
from faq_keras.post_training.distillation import distill
from faq_keras.post_training.reconstruction import reconstruct
from faq_keras.post_training.teachers import remember, teacher_of
from faq_keras.rewrite.keras3 import plan_of

FLAGS = flags.FlagValues()
_DATA = flags.DEFINE_string(
    "data",
    None,
    "model inputs: .npz with an array x, .npy, or a folder of images",
    flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "the .keras file to write; without it the model's own", flag_values=FLAGS
)
_IMAGES = flags.DEFINE_integer(
    "images", 256, "how many images to use, drawn from all", lower_bound=1, flag_values=FLAGS
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "images that are computed at a time", lower_bound=1, flag_values=FLAGS
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "a folder that makes it resumable, with the same command", flag_values=FLAGS
)
_DISTILL_STEPS = flags.DEFINE_integer(
    "distill_steps", 0, "steps of distillation afterwards, 200 for example", 0, flag_values=FLAGS
)
_AUGMENT = flags.DEFINE_bool(
    "augment", True, "whether distillation flips and shifts images", flag_values=FLAGS
)
_SCALE = flags.DEFINE_list(
    "scale", ["1"], "what pixels of a folder's images are multiplied by", flag_values=FLAGS
)
_OFFSET = flags.DEFINE_list("offset", ["0"], "what is added to them then", flag_values=FLAGS)


def main(arguments: list[str]) -> int:
    """Reconstructs one model."""
    (source,) = common.positional(arguments, "q.keras")
    target = _target(source)
    if not _DATA.value:
        raise ValueError("--data is missing: name an .npz file of inputs or a folder of images.")
    model = common.load_model(source)
    done = plan_of(model).settings.post_training
    if done is not None:
        raise ValueError(
            f"{source} went through {done} already, and holds its float network no more: start "
            "from the file that was saved before."
        )
    x = _inputs(model)
    common.say(f"{len(x):,} images, values {x.min():g} to {x.max():g}, mean {x.mean():.4g}")
    remember(model, teacher_of(model).model)  # the model's own float layers change now
    common.say(reconstruct(model, x, batch_size=_BATCH_SIZE.value, workdir=_WORKDIR.value))
    if _DISTILL_STEPS.value:
        common.say(distill(model, x, _DISTILL_STEPS.value, augment=_AUGMENT.value))
    with atomic_write(target) as partial:
        model.save(partial)
    common.say(f"Wrote {target}" if _OUTPUT.value else f"Replaced {target}")
    return 0


def _target(source: str) -> str:
    """The file to write; whether that can work is known before the work begins."""
    target = str(_OUTPUT.value or source)
    if not target.endswith(".keras"):
        raise ValueError(f"{target} does not end in .keras, the format this command writes.")
    folder = Path(target).parent
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} of {target} does not exist: create it first.")
    return target


def _inputs(model: Any) -> npt.NDArray[np.float32]:
    """Some of the inputs, drawn from all."""
    path = Path(_DATA.value)
    if path.is_dir():
        x = common.load_images(path, model, _IMAGES.value)
        channels = x.shape[-1]
        return x * _numbers(_SCALE, channels) + _numbers(_OFFSET, channels)
    given = [f"--{flag.name}" for flag in (_SCALE, _OFFSET) if flag.present]
    if given:
        raise ValueError(
            f"{' and '.join(given)} apply to a folder of images only: the arrays in {path} are fed "
            "as they are. Leave out."
        )
    return common.drawn(common.load_inputs(str(path), model), _IMAGES.value)


def _numbers(flag: flags.FlagHolder[list[str]], channels: int) -> npt.NDArray[np.float32]:
    """A flag's numbers, one or one per channel."""
    values = [_number(text) for text in flag.value]
    if len(values) not in (1, channels) or None in values:
        raise ValueError(
            f"--{flag.name}={','.join(flag.value)} has to be one number, or {channels} separated "
            "by commas, such as 1/255 or -0.5."
        )
    return np.asarray(values, np.float32)


def _number(text: str) -> float | None:
    """A number or a fraction; None if it is none, or not finite."""
    try:
        dividend, *divisor = map(float, text.split("/"))
        value = dividend / divisor[0] if divisor else dividend
    except (ValueError, ZeroDivisionError):
        return None
    return value if np.isfinite(value) and len(divisor) < 2 else None
