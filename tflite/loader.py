"""Runs a .tflite file from Python; packed 4-bit kernels are unpacked in memory first.

The stock interpreter runs packed convolutions three times slower and with another rounding.
Unpacked once at load, the file runs as fast as its int8 twin and gives the same integers:

    runner = load("model_int4.tflite", num_threads=2)
    logits = runner(x)                      # floats in, floats out
    codes = runner.run_int8(x_codes)        # raw integers
    unpack("model_int4.tflite", "model_int8.tflite")    # for those who cannot call this loader
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from faq_keras.files import atomic_write
from faq_keras.tflite import flatbuffer, model_file, trial
from faq_keras.tflite.model_file import ModelFile
from faq_keras.tflite.preprocessing import preprocess
from faq_keras.tflite.runtimes import Session, runtime

Codes = npt.NDArray[np.generic]
Inputs = npt.ArrayLike | Mapping[str, npt.ArrayLike]

# Operators that differ in version for packed and for int8 kernels, with the latter's; fully
# connected ones whose kernel has a scale per channel have one version for both.
_INT8_VERSIONS = {
    schema.BuiltinOperator.CONV_2D: 3,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: 3,
    schema.BuiltinOperator.FULLY_CONNECTED: 4,
}
_PER_CHANNEL_FULLY_CONNECTED = 12


class Runner:
    """A loaded model.

    Attributes:
        file: The checked file, as it is executed.
        runtime_name: Which runtime executes it.
    """

    def __init__(self, file: ModelFile, runtime_name: str, num_threads: int) -> None:
        self.file = file
        self.runtime_name = runtime_name
        self._runtime = runtime(runtime_name)
        self._num_threads = num_threads
        self._session = self._open(file)

    def __call__(self, x: Inputs) -> Any:
        """Predicts floats from floats.

        Args:
            x: `[batch, ...]` in the domain of the Keras model's input, or one array per input name.

        Returns:
            float32 `[batch, ...]`; a dictionary by name if the model has several outputs.

        Raises:
            ValueError: If the shape does not fit, a value is not a number, or the file asks for a
                preprocessing that cannot be done.
        """
        details = self._session.input_details
        feed = self._named(x)
        steps = self.file.metadata.get("preprocessing", ())
        by_name = steps if isinstance(steps, Mapping) else {d["name"]: steps for d in details}
        codes = {
            d["name"]: self._encoded(feed[d["name"]], d, by_name.get(d["name"], ()))
            for d in details
        }
        outputs = self._run(self._session, codes)
        return _single(
            {d["name"]: _decode(outputs[d["name"]], d) for d in self._session.output_details}
        )

    def run_int8(self, x: Inputs) -> Any:
        """Predicts raw codes from raw codes.

        Args:
            x: Codes `[batch, ...]` in the input tensor's own dtype, or one array per input name.

        Returns:
            Codes in the output tensor's dtype; a dictionary by name if there are several outputs.

        Raises:
            ValueError: If shape or dtype do not fit.
        """
        return _single(self._run(self._session, self._named(x)))

    def tensors(self, x: Inputs) -> dict[str, Codes]:
        """Every tensor that the model computes, from raw codes, by name in execution order.

        Runs a copy of the model in which all of them are outputs, because an interpreter reuses the
        memory of intermediate tensors and a delegate never writes them.
        """
        return self._run(self._exposed, self._named(x))

    def random_inputs(self, batch: int, seed: int = 0) -> dict[str, Codes]:
        """Random codes (values in [0, 1) for float inputs) in every input's shape and dtype."""
        rng = np.random.default_rng(seed)
        feed: dict[str, Codes] = {}
        for details in self._session.input_details:
            signature, dtype = details["shape_signature"], np.dtype(details["dtype"])
            shape = [batch if n == -1 else int(n) for n in signature]
            if dtype.kind in "iu":
                limits = np.iinfo(dtype)
                feed[details["name"]] = rng.integers(
                    limits.min, limits.max, shape, dtype, endpoint=True
                )
            else:
                feed[details["name"]] = rng.random(shape, np.float32).astype(dtype)
        return feed

    def prepare(self, x: Inputs) -> Callable[[], None]:
        """Runs the model once on raw codes; the result runs it on them again, without copies."""
        self.run_int8(x)
        return self._session.invoke

    @property
    def packed(self) -> bool:
        """Whether the runtime got packed kernels."""
        return _has_packed(self.file)

    @property
    def undelegated(self) -> tuple[str, ...]:
        """Names of the tensors whose operators the runtime's delegate, if any, did not take."""
        if not self._runtime.delegates:
            return ()
        return tuple(n for n in computed_tensors(self.file) if n not in self._exposed.delegated)

    @functools.cached_property
    def _exposed(self) -> Session:
        return self._open(expose(self.file))

    def _open(self, file: ModelFile) -> Session:
        try:
            model_file.check_for_runtime(file, self.runtime_name)
            trial.check(file, self._runtime, self._num_threads)
            return self._runtime.open(file.content, self._num_threads)
        except ValueError as error:
            raise ValueError(f"'{file.name}' cannot be run. {error}") from error

    def _encoded(self, x: npt.ArrayLike, details: Mapping[str, Any], steps: Any) -> Codes:
        # The steps stand in the file as JSON: they may be anything.
        try:
            return _encode(preprocess(x, steps), details)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"'{self.file.name}' cannot be fed with this array for '{details['name']}' after "
                f"the preprocessing that it asks for ({type(error).__name__}: {reason})."
            ) from error

    def _named(self, x: Inputs) -> dict[str, Any]:
        names = [d["name"] for d in self._session.input_details]
        feed = dict(x) if isinstance(x, Mapping) else dict.fromkeys(names[:1], x)
        if set(feed) != set(names):
            raise ValueError(
                f"'{self.file.name}' has the inputs {', '.join(names)}; received {', '.join(feed)}."
            )
        return feed

    def _run(self, session: Session, feed: Mapping[str, Any]) -> dict[str, Codes]:
        codes = {d["name"]: _checked(feed[d["name"]], d) for d in session.input_details}
        try:
            return session.run(codes)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"'{self.file.name}' failed on the runtime '{self.runtime_name}': {reason}"
            ) from error


def load(
    path: str | os.PathLike[str],
    runtime: str = "xnnpack",
    num_threads: int = 1,
    keep_packed: bool = False,
) -> Runner:
    """Loads a .tflite file for inference.

    Args:
        path: A file written here, packed or not, or a foreign one.
        runtime: Name of the runtime (`faq_keras.tflite.runtimes`).
        num_threads: Threads that the runtime may use.
        keep_packed: Gives the runtime packed kernels as they are, as an interpreter without this
            loader does. Many runtimes are slow with them, round in another way or refuse them.

    Raises:
        ValueError: If the file is missing or invalid, the runtime refuses it, or it ends the
            process of the runtime (files with operators of others are tried in one of their own).
    """
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, not {num_threads}.")
    file = model_file.read(path)
    return Runner(file if keep_packed else unpacked(file), runtime, num_threads)


def unpack(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
    """Writes the int8 twin of a packed file, which every runtime executes at full speed.

    Raises:
        ValueError: If the source is missing or no valid TFLite model, or is the target, too.
    """
    if os.path.exists(dst) and os.path.exists(src) and os.path.samefile(src, dst):
        raise ValueError(
            f"'{os.fspath(dst)}' is the packed file itself, which would be lost. Name another one."
        )
    content = unpacked(model_file.read(src)).content
    with atomic_write(dst) as partial:
        partial.write_bytes(content)


def unpacked(file: ModelFile) -> ModelFile:
    """A copy of a model in which every packed INT4 constant is an int8 one.

    The model itself if it has none.
    """
    if not _has_packed(file):
        return file
    model = flatbuffer.parse(file.content)
    touched = set()
    for graph in model.subgraphs:
        for index, tensor in enumerate(graph.tensors or ()):
            codes = flatbuffer.constant(model, tensor)
            if flatbuffer.type_name(tensor) != "int4" or codes is None:
                continue
            model.buffers.append(schema.BufferT(data=codes.reshape(-1).view(np.uint8)))
            tensor.type, tensor.buffer = flatbuffer.TENSOR_TYPES["int8"], len(model.buffers) - 1
            touched.add((id(graph), index))
        for op in graph.operators or ():
            if any((id(graph), i) in touched for i in flatbuffer.indices(op.inputs)):
                _use_int8_version(model, graph, op)
    _drop_unused_buffers(model)
    _drop_unused_codes(model)
    return ModelFile(file.name, model, file.size)


def expose(file: ModelFile) -> ModelFile:
    """A copy of a model in which every computed tensor of the main graph is an output."""
    model = flatbuffer.parse(file.content)
    graph = model.subgraphs[0]
    operators = graph.operators or ()
    computed = [i for op in operators for i in flatbuffer.indices(op.outputs)]
    graph.outputs = np.array(computed, np.int32)
    return ModelFile(file.name, model, file.size)


def computed_tensors(file: ModelFile) -> tuple[str, ...]:
    """Names of the tensors that the main graph computes, in execution order."""
    graph = file.graph
    return tuple(
        flatbuffer.tensor_name(graph.tensors[i])
        for op in graph.operators or ()
        for i in flatbuffer.indices(op.outputs)
    )


# ----------------------------------------------------------------------------------------- details


def _has_packed(file: ModelFile) -> bool:
    tensors = (t for graph in file.model.subgraphs for t in graph.tensors or ())
    return any(flatbuffer.type_name(tensor) == "int4" for tensor in tensors)


def _use_int8_version(model: schema.ModelT, graph: schema.SubGraphT, op: schema.OperatorT) -> None:
    code = flatbuffer.op_code(model, op)
    if code not in _INT8_VERSIONS:
        return
    version = _INT8_VERSIONS[code]
    quantization = graph.tensors[int(op.inputs[1])].quantization
    scales = () if quantization is None or quantization.scale is None else quantization.scale
    if code == schema.BuiltinOperator.FULLY_CONNECTED and len(scales) > 1:
        version = _PER_CHANNEL_FULLY_CONNECTED
    model.operatorCodes.append(
        schema.OperatorCodeT(
            deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=version
        )
    )
    op.opcodeIndex = len(model.operatorCodes) - 1


def _drop_unused_codes(model: schema.ModelT) -> None:
    """Merges equal operator codes and drops those that no operator uses."""
    kept: dict[tuple[Any, ...], int] = {}
    codes: list[schema.OperatorCodeT] = []
    for graph in model.subgraphs:
        for op in graph.operators or ():
            code = model.operatorCodes[op.opcodeIndex]
            key = (code.builtinCode, code.deprecatedBuiltinCode, code.customCode, code.version)
            if key not in kept:
                kept[key] = len(codes)
                codes.append(code)
            op.opcodeIndex = kept[key]
    model.operatorCodes = codes


def _drop_unused_buffers(model: schema.ModelT) -> None:
    """Empties the buffers that no tensor and no metadata reads any more."""
    used = {t.buffer for g in model.subgraphs for t in g.tensors or ()}
    used |= {entry.buffer for entry in model.metadata or ()}
    kept = [0, *sorted(used - {0})]
    new_index = {old: new for new, old in enumerate(kept)}
    for graph in model.subgraphs:
        for tensor in graph.tensors or ():
            tensor.buffer = new_index[tensor.buffer]
    for entry in model.metadata or ():
        entry.buffer = new_index[entry.buffer]
    model.buffers = [model.buffers[old] for old in kept]


def _checked(x: Any, details: Mapping[str, Any]) -> Codes:
    """An input in the dtype and shape that the model takes."""
    codes = np.asarray(x, order="C")  # ascontiguousarray would make a vector of a scalar
    shape = tuple(int(n) for n in details["shape_signature"])
    fits = codes.ndim == len(shape) and all(
        want in (-1, have) for want, have in zip(shape, codes.shape, strict=True)
    )
    if codes.dtype != details["dtype"] or not fits or 0 in codes.shape:
        wanted = ", ".join("batch" if n == -1 else str(n) for n in shape)
        raise ValueError(
            f"Input '{details['name']}' must be {np.dtype(details['dtype']).name} [{wanted}]; "
            f"received {codes.dtype.name} {list(codes.shape)}."
        )
    return codes


def _encode(x: npt.NDArray[Any], details: Mapping[str, Any]) -> Codes:
    """Float values as the input's codes: nearest, halves to even, saturated."""
    dtype = np.dtype(details["dtype"])
    if dtype.kind == "f":
        return x.astype(dtype)
    if not np.issubdtype(x.dtype, np.number) or np.isnan(x).any():
        raise ValueError(f"Input '{details['name']}' must be numbers without NaN.")
    scale, zero_point = details["quantization"]
    if scale == 0:  # a foreign file's plain integers
        return x.astype(dtype)
    limits = np.iinfo(dtype)
    codes = np.rint(x.astype(np.float32) * (np.float32(1) / np.float32(scale))) + zero_point
    return np.clip(codes, limits.min, limits.max).astype(dtype)


def _decode(codes: Codes, details: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    scale, zero_point = details["quantization"]
    if scale == 0:
        return codes.astype(np.float32)
    return (codes.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _single(outputs: dict[str, Any]) -> Any:
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs
