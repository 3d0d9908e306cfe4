"""Opens .tflite files that may be anything: missing, truncated, damaged, foreign.

TFLite's own code trusts a file: an index out of range or a missing constant ends the process. So a
file is first read as a tree of objects by Python, which cannot crash, then checked (`structure`).
Interpreters get what `serialize` writes from the checked tree (for files of our own the same
bytes), never the file's raw bytes.

    file = read("model.tflite")
    file.model.subgraphs[0].operators       # the tree
    file.content                            # bytes that are safe to interpret
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import flatbuffer, structure


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A checked file.

    Attributes:
        name: Where it came from, for messages.
        model: The object tree.
        size: Bytes of the file.
    """

    name: str
    model: schema.ModelT
    size: int

    @functools.cached_property
    def content(self) -> bytes:
        """The model as bytes, written anew from the checked tree."""
        return flatbuffer.serialize(self.model)

    @property
    def graph(self) -> schema.SubGraphT:
        """The main subgraph."""
        return self.model.subgraphs[0]

    @property
    def input_types(self) -> tuple[str, ...]:
        """Element types of the main subgraph's inputs, such as `int8`."""
        indices = () if self.graph.inputs is None else self.graph.inputs
        return tuple(flatbuffer.type_name(self.graph.tensors[int(i)]) for i in indices)

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the main subgraph's operators, in order."""
        return tuple(flatbuffer.op_name(self.model, op) for op in self.graph.operators or ())

    @property
    def metadata(self) -> dict[str, Any]:
        """What faq_keras wrote about the network; empty for foreign files."""
        for entry in self.model.metadata or ():
            if entry.name == b"faq_keras":
                data = self.model.buffers[entry.buffer].data
                try:
                    return dict(json.loads(bytes(np.asarray(data, np.uint8))))
                except (TypeError, ValueError):
                    return {}
        return {}


def read(path: str | os.PathLike[str]) -> ModelFile:
    """Reads and checks a .tflite file.

    Raises:
        ValueError: If it is missing, unreadable, truncated or no valid TFLite model.
    """
    name = os.fspath(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"Cannot read the TFLite file '{name}': {error.strerror}.") from error
    return from_bytes(content, name)


def from_bytes(content: bytes, name: str = "model in memory") -> ModelFile:
    """Checks a .tflite file's content.

    Raises:
        ValueError: If it is no valid TFLite model; names `name` and all problems found.
    """
    try:
        model = flatbuffer.parse(content)
    except ValueError as error:
        raise ValueError(f"'{name}' {error}. Export or copy it again.") from error
    try:
        problems = list(structure.problems(model))
    except Exception as error:  # a tree with holes where no valid file has any
        problems = [f"its structure is broken ({type(error).__name__}: {error})"]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(
            f"'{name}' is not a valid TFLite model: {'; '.join(problems[:8])}{more}. "
            "Export or copy it again."
        )
    return ModelFile(name, model, len(content))
