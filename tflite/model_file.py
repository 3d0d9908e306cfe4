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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import flatbuffer, structure

METADATA_NAME = "faq_keras"


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
        data = _metadata_bytes(self.model)
        return {} if data is None else dict(json.loads(data))


def _metadata_bytes(model: schema.ModelT) -> bytes | None:
    for entry in model.metadata or ():
        if entry.name == METADATA_NAME.encode():
            return bytes(np.asarray(model.buffers[entry.buffer].data, np.uint8))
    return None


def _metadata_problems(model: schema.ModelT) -> Iterator[str]:
    """Without its metadata, a file of ours would be fed without the preprocessing it needs."""
    try:
        data = _metadata_bytes(model)
        facts = {} if data is None else json.loads(data)
    except (RecursionError, TypeError, ValueError) as error:
        yield f"its metadata cannot be read ({type(error).__name__})"
        return
    if not isinstance(facts, dict):
        yield "its metadata is no JSON object"


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
        problems = list(structure.problems(model)) or list(_metadata_problems(model))
    except Exception as error:  # a tree with holes where no valid file has any
        problems = [f"its structure is broken ({type(error).__name__}: {error})"]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(
            f"'{name}' is not a valid TFLite model: {'; '.join(problems[:8])}{more}. "
            "Export or copy it again."
        )
    return ModelFile(name, model, len(content))


def check_for_runtime(file: ModelFile, runtime: str) -> None:
    """Checks what would end the process in one runtime, whose kernels check less than others'.

    Args:
        file: A checked file.
        runtime: The runtime's name.

    Raises:
        ValueError: If there is anything; the message has no subject.
    """
    problems = list(structure.runtime_problems(file.model, runtime))
    if problems:
        raise ValueError(
            f"It is nothing for the runtime '{runtime}': {'; '.join(problems[:8])}. "
            "Use another one, or convert the model again with a fixed shape."
        )
