"""The one exception of this room.

Every message names the file, node or tensor at fault, says why, and what to do about it; all
problems of one input are in one message. Being a `ValueError` it needs no special handling:

    try:
        model = faq_keras.converters.from_onnx("resnet18.onnx")
    except ValueError as problem:
        print(problem)      # Conv node '/features/Conv' ...: ... Re-export with ...
"""

from __future__ import annotations

from collections.abc import Sequence

KEEP_BATCH_NORM = (
    "torch.onnx.export(model.eval(), x, file, dynamo=False, opset_version=17, "
    "training=torch.onnx.TrainingMode.PRESERVE)"
)
"""The export that keeps BatchNorm and the names of the state_dict (architecture.md, section 4)."""


class ConversionError(ValueError):
    """A network that cannot be converted, or a conversion that does not equal its original."""


def listed(items: Sequence[str], limit: int = 20) -> str:
    """Joins `items` with semicolons, says how many more there are beyond `limit`."""
    rest = len(items) - limit
    return "; ".join(items[:limit]) + (f"; and {rest} more" if rest > 0 else "")


def first_line(error: BaseException) -> str:
    """What a library's exception says first, without its full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
