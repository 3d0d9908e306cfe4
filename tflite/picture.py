"""A .tflite file's network as a picture: a box per operator with shape, bits, step and bytes.

    draw(model_file.read("model.tflite"), "network.svg")     # or .png; needs Graphviz's `dot`
    draw(model_file.read("model.tflite"), "network.dot")     # text, needs nothing
    print(dot_source(file))

Works for foreign files too. Nothing is executed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import graphviz

from faq_keras.files import atomic_write
from faq_keras.tflite import flatbuffer, inspect
from faq_keras.tflite.inspect import Row
from faq_keras.tflite.model_file import ModelFile

SUFFIXES = (".svg", ".png", ".dot")
# Fill by the bits of the kernel, or of the tensor where there is none: narrow is dark.
_FILLS = ((2, "#6baed6"), (4, "#9ecae1"), (8, "#deebf7"))


def draw(file: ModelFile, path: str | os.PathLike[str]) -> None:
    """Writes the picture; its suffix says in which format.

    Args:
        file: The network.
        path: A `.svg`, `.png` or `.dot` file.

    Raises:
        ValueError: If the suffix is another one, or Graphviz is missing or fails.
        OSError: If the file cannot be written.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"{os.fspath(path)} is no picture: write {', '.join(SUFFIXES)}.")
    source = dot_source(file)
    content = source.encode() if suffix == ".dot" else _render(source, suffix[1:], path)
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def dot_source(file: ModelFile) -> str:
    """The network's main graph in Graphviz's language."""
    picture = graphviz.Digraph(
        Path(file.name).stem or "network",
        node_attr={"shape": "box", "style": "filled", "fontname": "Helvetica", "fontsize": "10"},
    )
    rows = iter(inspect.rows_of(file))
    makers: dict[int, str] = {}  # tensor -> the box that makes it
    for index in _indices(file.graph.inputs):
        makers[index] = f"input{index}"
        _box(picture, makers[index], [next(rows)])
    for number, op in enumerate(file.graph.operators or ()):
        name = f"op{number}"
        outputs = _indices(op.outputs)
        _box(picture, name, [next(rows) for _ in outputs])
        for index in _indices(op.inputs):
            if index in makers:
                picture.edge(makers[index], name)
        makers |= dict.fromkeys(outputs, name)
    for index in _indices(file.graph.outputs):
        tensor = flatbuffer.tensor_name(file.graph.tensors[index])
        label = graphviz.escape(f"output {tensor}")
        picture.node(f"output{index}", label, shape="ellipse", style="")
        if index in makers:
            picture.edge(makers[index], f"output{index}")
    return str(picture.source)


def _box(picture: graphviz.Digraph, name: str, rows: Sequence[Row]) -> None:
    """Adds an operator that computes the tensors of these rows."""
    bits = rows[0].weight_bits or rows[0].bits
    fill = next((color for limit, color in _FILLS if bits is not None and bits <= limit), "white")
    lines = [rows[0].op]
    for row in rows:
        lines += [row.name, _tensor_line(row)]
    if rows[0].weight_bytes:
        lines.append(_weight_line(rows[0]))
    # Escaped line by line, so that a name cannot end the label or start an escape of its own.
    picture.node(name, "\\n".join(map(graphviz.escape, lines)), fillcolor=fill)


def _tensor_line(row: Row) -> str:
    facts = [inspect.dimensions(row.shape), row.dtype]
    facts += [f"{row.bits} bits"] if row.bits is not None else []
    facts += [f"step {row.scale}"] if row.scale else []
    return ", ".join(facts)


def _weight_line(row: Row) -> str:
    kernel = f"kernel {inspect.dimensions(row.weight_shape)}, " if row.weight_shape else ""
    bits = f"{row.weight_bits} bits, " if row.weight_bits is not None else ""
    return f"{kernel}{bits}{row.weight_bytes:,} bytes"


def _indices(vector: Sequence[int] | None) -> list[int]:
    """Tensors in a flatbuffer's vector, without the optional ones that are left out (-1)."""
    return [] if vector is None else [int(i) for i in vector if int(i) >= 0]


def _render(source: str, form: str, path: str | os.PathLike[str]) -> bytes:
    try:
        return bytes(graphviz.Source(source).pipe(format=form))
    except graphviz.ExecutableNotFound as error:
        raise ValueError(
            f"{os.fspath(path)} needs Graphviz's program 'dot', which is not on PATH. Install it "
            "(Debian: apt install graphviz) or write a .dot file, which needs nothing."
        ) from error
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        reason = lines[0] if lines else "no reason given"
        raise ValueError(
            f"Graphviz cannot draw {os.fspath(path)}: {reason}. Write a .dot file to see what it "
            "was given."
        ) from error
