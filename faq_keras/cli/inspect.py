"""Shows what is in a file: faq inspect m.tflite|m.keras|plan.json.

A .tflite file (anybody's) as a table of its ops: shapes, bits, scales as 2^l, zero points, bytes. A
quantized .keras model as its plan and its integer ops. A plan as a table of its tensors.

Example: faq inspect model_int4.tflite
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from faq_keras.cli import common
from faq_keras.integer.lowering import lower
from faq_keras.plan import QuantPlan
from faq_keras.rewrite.keras3 import plan_of
from faq_keras.tflite import inspect

FLAGS = flags.FlagValues()


def main(arguments: list[str]) -> int:
    """Prints one file."""
    (path,) = common.positional(arguments, "FILE")
    suffix = Path(path).suffix
    if suffix == ".json":
        print(QuantPlan.load(path))
    elif suffix == ".keras":
        _show_model(path)
    elif suffix == ".tflite":
        print(inspect.table(path))
    else:
        raise ValueError(f"{path} is none of .tflite, .keras and .json (a plan).")
    return 0


def _show_model(path: str) -> None:
    model = common.load_model(path)
    print(plan_of(model))
    program = lower(model)
    bounds = {bound.op: bound.bound for bound in program.bounds}
    rows = [
        (
            op.outputs[0],
            op.kind,
            program.tensors[op.outputs[0]].shape[1:],
            op.attributes.get("activation") or "",
            f"{bounds[op.name]:,}" if op.name in bounds else "",
        )
        for op in program.ops
    ]
    common.print_table(("tensor", "op", "shape", "activation", "accumulator bound"), rows)
