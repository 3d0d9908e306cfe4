"""Shows what is in a file: faq inspect m.tflite|m.keras|plan.json [--picture=net.svg] [--fits].

A .tflite file (anybody's) as a table of its ops: shapes, bits, scales as 2^l, zero points, bytes. A
quantized .keras model as its plan and its integer ops. A plan as a table of its tensors. With
--picture, also the network of a .tflite or .keras file as a .svg or .png (these need Graphviz) or
as .dot text. With --fits, also how the exponents of a plan were chosen: the candidates of each
tensor and their errors.

Example: faq inspect model_int4.tflite --picture=network.svg
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from faq_keras.cli import common
from faq_keras.integer.lowering import lower
from faq_keras.integer.program import IntegerProgram
from faq_keras.plan import FIT_COLUMNS, QuantPlan
from faq_keras.rewrite.keras3 import plan_of
from faq_keras.tflite import inspect, model_file, picture, writer

FLAGS = flags.FlagValues()
_PICTURE = flags.DEFINE_string(
    "picture", None, "also draw the network: a .svg, .png or .dot file", flag_values=FLAGS
)
_FITS = flags.DEFINE_bool(
    "fits", False, "also show how each exponent was chosen", flag_values=FLAGS
)


def main(arguments: list[str]) -> int:
    """Prints one file."""
    (path,) = common.positional(arguments, "FILE")
    suffix = Path(path).suffix
    if suffix not in (".tflite", ".keras", ".json"):
        raise ValueError(f"{path} is none of .tflite, .keras and .json (a plan).")
    if _PICTURE.value and suffix == ".json":
        raise ValueError(f"{path} is a plan: --picture draws a .tflite or .keras file.")
    if _FITS.value and suffix == ".tflite":
        raise ValueError(f"{path} has no plan: --fits is for a .keras file or a plan.")
    if suffix == ".json":
        _print_plan(QuantPlan.load(path))
    elif suffix == ".keras":
        _show_model(path)
    else:
        file = model_file.read(path)
        _draw(file)
        common.say(inspect.table(path))
    return 0


def _show_model(path: str) -> None:
    model = common.load_model(path)
    plan = plan_of(model)
    program = lower(model)
    if _PICTURE.value:
        _draw(model_file.from_bytes(writer.to_bytes(program), path))
    _print_plan(plan)
    _print_ops(program)


def _print_plan(plan: QuantPlan) -> None:
    common.say(plan)
    if _FITS.value:
        rows = list(plan.fit_rows())
        if rows:
            common.print_table(FIT_COLUMNS, rows)
        else:
            common.say("No exponent was fitted: the scales are those of the paper's rules.")


def _draw(file: model_file.ModelFile) -> None:
    """Draws before anything is printed: a picture that fails leaves one sentence."""
    if _PICTURE.value:
        picture.draw(file, _PICTURE.value)
        common.say(f"Wrote {_PICTURE.value}")


def _print_ops(program: IntegerProgram) -> None:
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
