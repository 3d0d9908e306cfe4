"""A model inside LiteRT's interpreter: in this process, or in another one that runs this file.

    session = LiteRtSession(content, OpResolverType.AUTO, num_threads=2)
    outputs = session.run({"image": codes})      # any batch size: inputs are resized as needed

As a script, `python litert_session.py MODEL RESOLVER THREADS` does the same for a process that
speaks to it in lines of JSON (`tflite.emulation` does, through an emulator). So this file imports
nothing but LiteRT and numpy: where it runs, faq_keras is not installed.

    <- {"inputs": [...], "outputs": [...], "delegated": [...]}      or {"refused": "why"}
    -> {"run": "inputs.npz", "to": "outputs.npz"}                   arrays in the model's order
    <- {"done": true}                                               or {"failed": "why"}
    -> {"run": null}                                                once more on the same inputs
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

Codes = npt.NDArray[np.generic]

# A delegate appears as one more operator whose outputs are those of the operators it took over.
_DELEGATE = "DELEGATE"


class LiteRtSession:
    """A model inside LiteRT's interpreter.

    Attributes:
        input_details: LiteRT's description of the inputs, in the model's order.
        output_details: The same of the outputs.
    """

    def __init__(self, content: bytes, resolver: OpResolverType, num_threads: int) -> None:
        self._interpreter = Interpreter(
            model_content=content,
            num_threads=num_threads,
            experimental_op_resolver_type=resolver,
        )
        self._interpreter.allocate_tensors()
        self.input_details: list[dict[str, Any]] = self._interpreter.get_input_details()
        self.output_details: list[dict[str, Any]] = self._interpreter.get_output_details()
        self._shapes = {d["name"]: tuple(int(n) for n in d["shape"]) for d in self.input_details}

    def run(self, inputs: Mapping[str, Codes]) -> dict[str, Codes]:
        """Executes the model.

        Args:
            inputs: One array per input name, `[batch, ...]` in the input's own dtype.

        Returns:
            One array per output name.
        """
        for details in self.input_details:
            shape = inputs[details["name"]].shape
            if shape != self._shapes[details["name"]]:
                self._interpreter.resize_tensor_input(details["index"], shape)
                self._shapes[details["name"]] = shape
        self._interpreter.allocate_tensors()
        for details in self.input_details:
            self._interpreter.set_tensor(details["index"], inputs[details["name"]])
        self._interpreter.invoke()
        return {d["name"]: self._interpreter.get_tensor(d["index"]) for d in self.output_details}

    def invoke(self) -> None:
        """Executes the model once more on the inputs it has."""
        self._interpreter.invoke()

    @property
    def delegated(self) -> frozenset[str]:
        """Names of the tensors that a delegate hands back: results of delegated operators.

        Only if the model exposes every tensor as an output does this name all delegated operators.
        """
        indices = {
            int(index)
            for op in self._interpreter._get_ops_details()
            if op["op_name"] == _DELEGATE
            for index in op["outputs"]
        }
        details = {d["index"]: d["name"] for d in self._interpreter.get_tensor_details()}
        return frozenset(details[i] for i in indices if i in details)


# --------------------------------------------------------------------------------- for others


def serve(
    content: bytes, resolver: str, num_threads: int, requests: TextIO, answers: TextIO
) -> None:
    """Answers requests, a line of JSON each, until there are no more (see the module's docstring).

    Args:
        content: The model.
        resolver: Name of an `OpResolverType`.
        num_threads: Threads that LiteRT may use.
        requests: Where they come from.
        answers: Where the answers go.
    """

    def answer(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    try:
        session = LiteRtSession(content, OpResolverType[resolver], num_threads)
    except (RuntimeError, ValueError) as error:
        answer(refused=" ".join(str(error).split()))
        return
    answer(
        inputs=[_plain(details) for details in session.input_details],
        outputs=[_plain(details) for details in session.output_details],
        delegated=sorted(session.delegated),
    )
    for line in requests:
        request = json.loads(line)
        try:
            _obey(session, request)
            answer(done=True)
        except RuntimeError as error:
            answer(failed=" ".join(str(error).split()))


def _obey(session: LiteRtSession, request: Mapping[str, Any]) -> None:
    """Does what a request says."""
    if request["run"] is None:
        session.invoke()
        return
    with np.load(request["run"]) as arrays:
        feed = [arrays[name] for name in arrays.files]
    names = [details["name"] for details in session.input_details]
    outputs = session.run(dict(zip(names, feed, strict=True)))
    np.savez(request["to"], *outputs.values())


def _plain(details: Mapping[str, Any]) -> dict[str, Any]:
    """What a session says of a tensor, in JSON's types."""
    scale, zero_point = details["quantization"]
    return {
        "name": details["name"],
        "dtype": np.dtype(details["dtype"]).name,
        "shape": [int(size) for size in details["shape"]],
        "shape_signature": [int(size) for size in details["shape_signature"]],
        "quantization": [float(scale), int(zero_point)],
    }


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        model = file.read()
    serve(model, sys.argv[2], int(sys.argv[3]), sys.stdin, sys.stdout)
