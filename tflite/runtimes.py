"""The runtimes that can execute a .tflite file here, by name.

    session = RUNTIMES["xnnpack"].open(content, num_threads=2)
    outputs = session.run({"image": codes})      # any batch size: inputs are resized as needed
    session.undelegated                          # ops that XNNPACK left to the built-in kernels

A runtime's name is also the name of its numerics profile (`faq_keras.integer.rounding`).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import OpResolverType

from faq_keras.tflite import flatbuffer
from faq_keras.tflite.emulation import EmulatedRuntime, EmulatedSession
from faq_keras.tflite.litert_session import LiteRtSession

Codes = npt.NDArray[np.generic]


@dataclasses.dataclass(frozen=True)
class LiteRtRuntime:
    """LiteRT with one choice of kernels.

    Attributes:
        name: The runtime's name, also of its numerics profile.
        resolver: Which kernels LiteRT uses.
        delegates: Whether a delegate should take over the convolutions.
    """

    name: str
    resolver: OpResolverType
    delegates: bool

    def open(self, content: bytes, num_threads: int = 1) -> LiteRtSession:
        """Loads a model.

        Raises:
            ValueError: If the runtime refuses it; gives the runtime's reason.
        """
        try:
            return LiteRtSession(content, self.resolver, num_threads)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"The runtime '{self.name}' refuses the model: {reason}") from error

    @property
    def versions(self) -> dict[str, str]:
        """The packages that the results depend on."""
        return {"ai-edge-litert": importlib.metadata.version("ai-edge-litert")}


class TflmSession:
    """A model inside TensorFlow Lite for Microcontrollers, which knows neither names nor batches.

    Attributes:
        input_details: Names, shapes, types and scales of the inputs, keyed as LiteRT does.
        output_details: The same of the outputs.
    """

    delegated: frozenset[str] = frozenset()

    def __init__(self, content: bytes, interpreter_class: Any) -> None:
        model = flatbuffer.parse(content)
        graph = model.subgraphs[0]
        self.input_details = [_details(graph.tensors[int(i)]) for i in graph.inputs]
        self.output_details = [_details(graph.tensors[int(i)]) for i in graph.outputs]
        self._interpreter = interpreter_class.from_bytes(content, arena_size=arena_bytes(graph))

    def run(self, inputs: Mapping[str, Codes]) -> dict[str, Codes]:
        """Executes the model image by image (see `LiteRtSession.run`)."""
        names = [details["name"] for details in self.input_details]
        rows = []
        for image in range(len(inputs[names[0]])):
            for index, name in enumerate(names):
                self._interpreter.set_input(inputs[name][image : image + 1], index)
            self.invoke()
            count = len(self.output_details)
            rows.append([self._interpreter.get_output(index).copy() for index in range(count)])
        return {
            details["name"]: np.concatenate([row[index] for row in rows])
            for index, details in enumerate(self.output_details)
        }

    def invoke(self) -> None:
        """Executes the model once more on the inputs it has."""
        self._interpreter.invoke()


def arena_bytes(graph: schema.SubGraphT) -> int:
    """A tensor arena that is large enough for TFLM, whatever it plans.

    The sum of all tensors is more than any plan needs; kernels add scratch buffers.
    """
    return 4 * sum(flatbuffer.byte_count(tensor) or 0 for tensor in graph.tensors) + 2**24


def _details(tensor: schema.TensorT) -> dict[str, Any]:
    quantization = tensor.quantization
    scaled = quantization is not None and quantization.scale is not None
    return {
        "name": flatbuffer.tensor_name(tensor),
        "dtype": flatbuffer.NUMPY_TYPES[flatbuffer.type_name(tensor)],
        "shape_signature": flatbuffer.shape(tensor),
        "quantization": (
            (float(quantization.scale[0]), int(quantization.zeroPoint[0])) if scaled else (0.0, 0)
        ),
    }


@dataclasses.dataclass(frozen=True)
class TflmRuntime:
    """TensorFlow Lite for Microcontrollers, through the `tflite-micro` package.

    Attributes:
        name: The runtime's name, also of its numerics profile.
        delegates: It has none.
    """

    name: str = "tflm"
    delegates: bool = False

    def open(self, content: bytes, num_threads: int = 1) -> TflmSession:
        """Loads a model; microcontrollers have one thread.

        Raises:
            ValueError: If the package is missing or the runtime refuses the model.
        """
        try:
            from tflite_micro.python.tflite_micro.runtime import Interpreter as MicroInterpreter
        except ImportError as error:
            raise ValueError(
                "The runtime 'tflm' needs the package tflite-micro: pip install 'faq_keras[edge]'."
            ) from error
        try:
            return TflmSession(content, MicroInterpreter)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"The runtime 'tflm' refuses the model: {error}") from error

    @property
    def versions(self) -> dict[str, str]:
        """The packages that the results depend on."""
        return {"tflite-micro": importlib.metadata.version("tflite-micro")}


Session = LiteRtSession | TflmSession | EmulatedSession
Runtime = LiteRtRuntime | TflmRuntime | EmulatedRuntime

RUNTIMES: Mapping[str, Runtime] = {
    "xnnpack": LiteRtRuntime("xnnpack", OpResolverType.AUTO, delegates=True),
    "builtin": LiteRtRuntime(
        "builtin", OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, delegates=False
    ),
    "reference": LiteRtRuntime("reference", OpResolverType.BUILTIN_REF, delegates=False),
    "tflm": TflmRuntime(),
    "aarch64": EmulatedRuntime("aarch64", "AUTO", delegates=True),
    "aarch64-builtin": EmulatedRuntime(
        "aarch64-builtin", "BUILTIN_WITHOUT_DEFAULT_DELEGATES", delegates=False
    ),
}


def runtime(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in RUNTIMES:
        raise ValueError(f"Unknown runtime {name!r}; expected one of {', '.join(RUNTIMES)}.")
    return RUNTIMES[name]


def names_of(runtimes: str | Iterable[str]) -> tuple[str, ...]:
    """Names of runtimes to compare a file on, at least one: no runtime would prove nothing.

    Args:
        runtimes: Names, or a single one.

    Raises:
        ValueError: There is none, or one that is unknown.
    """
    names = ([runtimes] if runtimes else []) if isinstance(runtimes, str) else list(runtimes)
    if not names:
        raise ValueError(
            "There is nothing to compare: no runtime was named (is a variable unset?). Name at "
            f"least one of {', '.join(RUNTIMES)}."
        )
    return tuple(runtime(name).name for name in names)
