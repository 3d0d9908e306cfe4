"""The numbers in an ONNX file: its initializers, also those in external data files, and constants.

The one idea: a file from elsewhere says where its weights lie, so it could name any file of this
machine. Only plain files below the folder of the model are read, and only if they are long enough:

    constants = dict(read_constants(model, Path("resnet18.onnx")))
    constants["conv1.weight"]    # float32 [64, 3, 7, 7]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx

from faq_keras.converters.errors import ConversionError, first_line

_MOST_SHARED = 4  # times as many bytes as the file of external data has


def read_constants(model: onnx.ModelProto, file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Initializers and the values of Constant nodes, as numpy arrays by name.

    Raises:
        ConversionError: Data that do not fit their shape, or that lie where they must not.
    """
    if model.graph.sparse_initializer:
        raise ConversionError(f"{file} holds sparse weights. Re-export with dense ones.")
    _check_overlaps(model.graph.initializer, file)
    for tensor in model.graph.initializer:
        yield tensor.name, _array(tensor, file)
    for node in model.graph.node:
        if node.op_type == "Constant":
            if len(node.attribute) != 1 or len(node.output) != 1:
                raise ConversionError(f"{file}: Constant node {node.name!r} needs one value.")
            attribute = node.attribute[0]
            value = onnx.helper.get_attribute_value(attribute)
            is_tensor = isinstance(value, onnx.TensorProto)
            if not is_tensor and attribute.name not in (
                *("value_int", "value_ints", "value_float", "value_floats"),
            ):
                raise ConversionError(
                    f"{file}: Constant node {node.name!r} holds a {attribute.name}, not numbers."
                )
            dtype = np.float32 if "float" in attribute.name else np.int64
            yield node.output[0], _array(value, file) if is_tensor else np.asarray(value, dtype)


def _check_overlaps(tensors: Iterable[onnx.TensorProto], file: Path) -> None:
    """Refuses external data that many weights share: together they would be larger than the file.

    A few may (tied weights): as many bytes as the data have, four times.
    """
    wanted: dict[str, int] = {}
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            location = {entry.key: entry.value for entry in tensor.external_data}.get("location")
            size, data = math.prod(tensor.dims) * _bytes_of(tensor), file.parent / (location or "")
            if data.is_file() and size <= data.stat().st_size:  # else `_check_external` objects
                wanted[location or ""] = wanted.get(location or "", 0) + size
    for location, size in wanted.items():
        data = file.parent / location
        if size > _MOST_SHARED * data.stat().st_size:
            raise ConversionError(
                f"{file}: its weights in {location!r} need {size:,} bytes but share the same bytes "
                f"of {data.stat().st_size:,}. Export it again."
            )


def _bytes_of(tensor: onnx.TensorProto) -> int:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize


def _array(tensor: onnx.TensorProto, file: Path) -> np.ndarray:
    try:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(tensor, file)
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(file.parent))
        array = onnx.numpy_helper.to_array(tensor)
        if array.shape != tuple(tensor.dims):  # -1 is no size, though numpy would take it
            raise ValueError(f"they are of shape {array.shape}")
        return array
    except ConversionError:
        raise
    except Exception as error:  # onnx reports damage by many types, also its own C++ ones
        raise ConversionError(
            f"{file}: the data of {tensor.name!r} do not fit its declared type and shape "
            f"{list(tensor.dims)} ({first_line(error)}). The file is damaged: export it again."
        ) from error


def _check_external(tensor: onnx.TensorProto, file: Path) -> None:
    """Refuses external data that are missing, too short or outside the folder of the file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, folder = entries.get("location", ""), file.parent.resolve()
    data = (folder / location).resolve()
    where = f"{file}: weight {tensor.name!r} lies in the external file {location!r}"
    if not location or folder not in data.parents or (folder / location).is_symlink():
        raise ConversionError(
            f"{where}, which is not a plain file below the folder of the model. "
            "Refused; export with the weights inside or beside the model."
        )
    if not data.is_file():
        raise ConversionError(f"{where}, which does not exist. Copy it beside the model.")
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
    expected = int(np.prod([int(d) for d in tensor.dims], dtype=object)) * _bytes_of(tensor)
    if length >= 0 and length != expected:
        raise ConversionError(f"{where} with {length} bytes, but its shape needs {expected}.")
    if offset < 0 or offset + expected > data.stat().st_size:
        raise ConversionError(
            f"{where}, which is truncated: it has {data.stat().st_size} bytes and "
            f"{offset + expected} are needed. Copy it again."
        )
