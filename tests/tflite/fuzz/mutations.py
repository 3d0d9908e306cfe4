"""Seeded damage to .tflite files: of their bytes, and of what they say.

mutant = mutate(content, random.Random(7))

Two of five mutants have bytes changed, cut out or put in; the others are written anew from an
object tree in which one to three things are wrong. Half of the trees are made consistent (constants
get as many bytes as their shapes need), so that the damage comes through to the kernels.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import flatbuffer

INTEGERS = (
    -(2**31), -129, -2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 127, 128, 255, 4096, 65536, 2**31 - 1,
)  # fmt: skip
SIZES = (0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 16, 1000, 65537, 2**20, 2**30, -1)
FLOATS = (0.0, -1.0, 1.0, 2.0**-7, 2.0, 1e-38, 1e-45, 1e38, 1e-8, float("nan"), float("inf"))
NAMES = (b"", None, b"\xff\xfe", b"input_0", b"softmax", b"x" * 5000, b"a\nb", b"a;b\0c")
JSON = (
    b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe\x00", b"[" * 100000, b"{" + b'"a":{' * 5000,
    b'{"preprocessing": 7}', b'{"preprocessing": [7]}', b'{"preprocessing": [{}]}',
    b'{"preprocessing": [{"op": "log"}]}', b'{"preprocessing": {"input_0": 3}}',
    b'{"preprocessing": [{"op": "rescale"}]}', b'{"preprocessing": null, "plan_hash": 3}',
    b'{"preprocessing": [{"op": "rescale", "scale": "x", "offset": [1, 2, 3]}]}',
    b'{"preprocessing": [{"op": "normalize", "mean": [0, 1], "std": 0}]}', b'{"numerics": "x\\ny"}',
)  # fmt: skip

Model = schema.ModelT


def mutate(content: bytes, rng: random.Random) -> bytes:
    """One damaged copy of a valid file."""
    return mutate_bytes(content, rng) if rng.random() < 0.4 else mutate_structure(content, rng)


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes and words replaced, pieces cut out, doubled, inserted, an end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(data))
        kind = rng.randrange(16)
        if kind < 5:
            data[at] ^= 1 << rng.randrange(8)
        elif kind < 8:
            data[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind < 12:  # offsets, lengths and most numbers are words
            at -= at % 4
            data[at : at + 4] = (rng.choice(INTEGERS) % 2**32).to_bytes(4, "little")
        elif kind == 12:
            del data[at : at + rng.choice((1, 2, 4, 16, 100))]
        elif kind == 13:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16, 100)))
        elif kind == 14:
            data[at:at] = data[at : at + rng.choice((4, 16, 100))]
        elif rng.random() < 0.3:
            del data[at:]
        if len(data) < 8:
            break
    return bytes(data)


def mutate_structure(content: bytes, rng: random.Random) -> bytes:
    """A copy whose tree says something else in one to three places."""
    while True:
        model = flatbuffer.parse(content)
        try:
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                rng.choice(CHANGES)(model, rng)
            if rng.random() < 0.5:
                fit_constants(model)
            mutant = flatbuffer.serialize(model)
        except Exception:  # a change that does not apply here, or a tree that cannot be written
            continue
        if mutant != content:
            return mutant


def fit_constants(model: Model) -> None:
    """Gives every constant as many bytes as its type and shape need."""
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data, size = flatbuffer.raw_data(model, tensor), flatbuffer.byte_count(tensor)
            if data is not None and size is not None and 0 < size < 2**20:
                model.buffers[tensor.buffer].data = np.resize(data, size)


# ------------------------------------------------------------------------------------ the changes


def operands(model: Model, rng: random.Random) -> None:
    """An operator reads or writes another tensor: also itself, a later one, none."""
    graph, op = _graph(model, rng), _op(model, rng)
    field = rng.choice(("inputs", "inputs", "inputs", "outputs"))
    values = [int(i) for i in getattr(op, field)]
    kind = rng.randrange(6)
    if kind == 0:
        values.append(rng.randrange(len(graph.tensors)))
    elif kind == 1:
        values.pop(rng.randrange(len(values)))
    elif kind == 2:
        rng.shuffle(values)
    elif kind == 3:
        values[0] = int(op.outputs[0])
    else:
        any_tensor = rng.randrange(len(graph.tensors))
        values[rng.randrange(len(values))] = rng.choice((any_tensor, any_tensor, -1, 10**6, -7))
    setattr(op, field, _vector(values))


def order(model: Model, rng: random.Random) -> None:
    """Operators vanish, come twice, change places."""
    ops = _graph(model, rng).operators
    at = rng.randrange(len(ops))
    kind = rng.randrange(5)
    if kind == 0:
        del ops[at]
    elif kind == 1:
        ops.insert(rng.randrange(len(ops)), ops[at])
    elif kind == 2:
        other = rng.randrange(len(ops))
        ops[at], ops[other] = ops[other], ops[at]
    elif kind == 3:
        ops.reverse()
    else:
        del ops[at:]


def short_cut(model: Model, rng: random.Random) -> None:
    """An operator is left out and its readers read what it read: the tree stays in order."""
    graph = _graph(model, rng)
    op = graph.operators.pop(rng.randrange(len(graph.operators)))
    old, new = int(op.outputs[0]), int(op.inputs[0])
    for other in graph.operators:
        other.inputs = _vector([new if int(i) == old else int(i) for i in other.inputs])
    graph.outputs = _vector([new if int(i) == old else int(i) for i in graph.outputs])


def shape(model: Model, rng: random.Random) -> None:
    """A tensor has another shape."""
    tensor = _tensor(model, rng)
    sizes = [int(n) for n in tensor.shape]
    kind = rng.randrange(7)
    if kind < 4:
        sizes[rng.randrange(len(sizes))] = rng.choice(SIZES)
    elif kind == 4:
        sizes.pop(rng.randrange(len(sizes)))
    elif kind == 5:
        sizes.insert(rng.randrange(len(sizes) + 1), rng.choice(SIZES))
    else:
        sizes = rng.choice(([], [0], [1], sizes[::-1], [1] * 9, [2**15] * 2))
    tensor.shape = _vector(sizes)
    follow = rng.choice((None, sizes, [-1, *sizes[1:]]))
    tensor.shapeSignature = None if follow is None else _vector(follow)


def signature_shape(model: Model, rng: random.Random) -> None:
    """A tensor claims other dimensions to be resizable."""
    tensor = _tensor(model, rng)
    sizes = [int(n) for n in tensor.shape]
    sizes[rng.randrange(len(sizes))] = rng.choice((-1, -1, -2, 0, 99))
    tensor.shapeSignature = rng.choice((None, _vector(sizes), _vector([-1] * len(sizes))))
    tensor.hasRank = rng.random() < 0.5


def element_type(model: Model, rng: random.Random) -> None:
    """A tensor has another type."""
    common = [flatbuffer.TENSOR_TYPES[n] for n in ("int8", "int16", "int32", "float32", "int4")]
    _tensor(model, rng).type = rng.choice((*common, *common, rng.randrange(25)))


def quantization(model: Model, rng: random.Random) -> None:
    """Scales, zero points and axes that are absent, too many, out of range."""
    graph = _graph(model, rng)
    tensor = rng.choice([t for t in graph.tensors if t.quantization is not None])
    found = tensor.quantization
    scale, zero = np.array(found.scale, np.float32), np.array(found.zeroPoint, np.int64)
    kind = rng.randrange(8)
    if kind < 2:
        scale[rng.randrange(len(scale))] = rng.choice(FLOATS)
        found.scale = scale
    elif kind == 2:
        zero[rng.randrange(len(zero))] = rng.choice((*INTEGERS, 2**40))
        found.zeroPoint = zero
    elif kind == 3:
        found.quantizedDimension = rng.choice(INTEGERS)
    elif kind == 4:
        count = rng.choice((0, 1, len(scale) - 1, len(scale) + 1, 2 * len(scale)))
        found.scale = np.resize(scale, count)
        found.zeroPoint = np.resize(zero, rng.choice((count, 0, 1)))
    elif kind == 5:
        found.zeroPoint = None
    elif kind == 6:
        tensor.quantization = rng.choice((None, schema.QuantizationParametersT()))
    else:
        tensor.quantization = rng.choice(graph.tensors).quantization


def op_code(model: Model, rng: random.Random) -> None:
    """An operator becomes another, of another version, or a custom one."""
    code = rng.choice(model.operatorCodes)
    kind = rng.randrange(6)
    if kind < 2:
        _op(model, rng).opcodeIndex = rng.randrange(len(model.operatorCodes) + 1)
    elif kind < 4:
        code.builtinCode = rng.choice((*flatbuffer.OP_NAMES, 210, 10**6, -1))
        code.deprecatedBuiltinCode = min(max(code.builtinCode, 0), 127)
        code.version = rng.choice((code.version, 1, 1, 2))
    elif kind == 4:
        code.version = rng.choice((0, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1000))
    else:
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = rng.choice((None, b"", b"FlexConv", b"TFLite_Detection_PostProcess"))


def options(model: Model, rng: random.Random) -> None:
    """An operator has other options, another's, or none."""
    op = _op(model, rng)
    kind = rng.randrange(8)
    if kind == 0:
        op.builtinOptions, op.builtinOptionsType = None, 0
    elif kind == 1:
        other = _op(model, rng)
        op.builtinOptions, op.builtinOptionsType = other.builtinOptions, other.builtinOptionsType
    elif kind == 2:
        op.customOptions = np.frombuffer(rng.randbytes(rng.randrange(64)), np.uint8)
    elif kind == 3:
        op.largeCustomOptionsOffset, op.largeCustomOptionsSize = rng.choice(
            ((4, 8), (2**40, 8), (8, 2**40))
        )
    elif kind == 4:
        op.intermediates = _vector([rng.choice((0, -1, 10**6))])
    else:
        fields = [k for k, v in vars(op.builtinOptions).items() if isinstance(v, int | float)]
        setattr(op.builtinOptions, rng.choice(fields), rng.choice(INTEGERS[1:-1]) % 2**16 - 2)


def constants(model: Model, rng: random.Random) -> None:
    """Constants that are cut, gone, longer, another's, outside of the file, or other numbers."""
    held = [t for t in _graph(model, rng).tensors if flatbuffer.raw_data(model, t) is not None]
    tensor = rng.choice(held)
    buffer = model.buffers[tensor.buffer]
    kind = rng.randrange(9)
    if kind == 0:
        buffer.data = buffer.data[: rng.randrange(len(buffer.data))]
    elif kind == 1:
        tensor.buffer = rng.choice((0, 0, 1, rng.randrange(len(model.buffers)), 10**6))
    elif kind == 2:
        buffer.data = np.resize(buffer.data, rng.randrange(1, 4 * len(buffer.data)))
    elif kind == 3:
        buffer.offset, buffer.size = rng.choice(((2, 8), (2**40, 8), (64, 2**40), (1, 1)))
    elif kind == 4:
        buffer.data = np.frombuffer(rng.randbytes(len(buffer.data)), np.uint8)
    else:  # the numbers of small ones are shapes, axes, paddings
        chosen = rng.choice([t for t in held if 4 <= len(model.buffers[t.buffer].data) <= 64])
        numbers = model.buffers[chosen.buffer].data.copy()
        at = 4 * rng.randrange(len(numbers) // 4)
        wild = np.array([rng.choice(INTEGERS)], np.int32)
        numbers[at : at + 4] = wild.view(np.uint8)
        model.buffers[chosen.buffer].data = numbers


def interface(model: Model, rng: random.Random) -> None:
    """The graph has other inputs or outputs."""
    graph = _graph(model, rng)
    field = rng.choice(("inputs", "outputs"))
    values = [int(i) for i in getattr(graph, field)]
    any_tensor = rng.randrange(len(graph.tensors))
    values = rng.choice(
        ([], None, values * 2, [any_tensor], [*values, any_tensor], [-1], [10**6], values[1:],
         [int(i) for i in graph.inputs], [any_tensor] * 3)
    )  # fmt: skip
    setattr(graph, field, None if values is None else _vector(values))


def tensor_flags(model: Model, rng: random.Random) -> None:
    """A tensor is a variable, sparse, a variant, has no name or that of another."""
    tensor = _tensor(model, rng)
    kind = rng.randrange(5)
    if kind == 0:
        tensor.isVariable = True
    elif kind == 1:
        tensor.sparsity = _sparsity(rng, len(tensor.shape))
    elif kind == 2:
        tensor.variantTensors = [schema.VariantSubTypeT()]
    elif kind == 3:
        tensor.name = _tensor(model, rng).name
    else:
        tensor.name = rng.choice(NAMES)


def _sparsity(rng: random.Random, rank: int) -> schema.SparsityParametersT:
    dimensions = []
    for _ in range(rng.choice((rank, rank, 0, 1, rank + 1))):
        dimension = schema.DimensionMetadataT(format=rng.choice((0, 1)))
        dimension.denseSize = rng.choice(INTEGERS)
        if dimension.format:
            vectors = [schema.Int32VectorT(_vector([0, rng.choice(INTEGERS)])) for _ in range(2)]
            dimension.arraySegmentsType = dimension.arrayIndicesType = 1
            dimension.arraySegments, dimension.arrayIndices = vectors
        dimensions.append(dimension)
    order = _vector(rng.choice((list(range(rank)), [9, -9], [])))
    return schema.SparsityParametersT(order, None, dimensions)


def signatures(model: Model, rng: random.Random) -> None:
    """A signature names other tensors, nothing, everything by one name."""
    signature = rng.choice(model.signatureDefs)
    entries = rng.choice((signature.inputs, signature.outputs))
    kind = rng.randrange(6)
    if kind == 0:
        rng.choice(entries).tensorIndex = rng.choice((0, 1, 5, 10**6))
    elif kind == 1:
        rng.choice(entries).name = rng.choice(NAMES)
    elif kind == 2:
        entries.append(rng.choice(entries))
    elif kind == 3:
        entries.clear()
    elif kind == 4:
        signature.subgraphIndex = rng.choice((1, 10**6))
    else:
        signature.signatureKey = rng.choice(NAMES)
        model.signatureDefs.append(signature)


def metadata(model: Model, rng: random.Random) -> None:
    """The file tells something else about itself."""
    entry = next((e for e in model.metadata if e.name == b"faq_keras"), model.metadata[0])
    kind = rng.randrange(6)
    if kind == 0:
        entry.buffer = rng.choice((0, 1, 10**6))
    elif kind == 1:
        entry.name = rng.choice(NAMES)
    elif kind == 2:
        facts = json.loads(bytes(model.buffers[entry.buffer].data))
        facts[rng.choice([*facts, "preprocessing"])] = rng.choice((None, 7, "x", [], {}, [[1]]))
        model.buffers[entry.buffer].data = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    else:
        entry.name = b"faq_keras"
        model.buffers[entry.buffer].data = np.frombuffer(rng.choice(JSON), np.uint8)


def whole_model(model: Model, rng: random.Random) -> None:
    """Subgraphs, vectors and the version of the file itself."""
    graph = _graph(model, rng)
    kind = rng.randrange(9)
    if kind == 0:
        model.subgraphs.append(graph)
    elif kind == 1:
        model.subgraphs.insert(0, schema.SubGraphT())
    elif kind == 2:
        setattr(graph, rng.choice(("tensors", "operators")), rng.choice((None, [])))
    elif kind == 3:
        setattr(model, rng.choice(("operatorCodes", "metadata", "signatureDefs")), None)
    elif kind == 4:
        model.version = rng.choice((0, 2, 4, 2**32 - 1))
    elif kind == 5:
        model.buffers = model.buffers[: rng.randrange(len(model.buffers))]
    elif kind == 6:
        model.description = rng.choice(NAMES)
    elif kind == 7:
        model.externalBuffers = [schema.ExternalBufferT()]
        _tensor(model, rng).externalBuffer = rng.choice((1, 10**6))
    else:
        model.buffers[0].data = np.zeros(rng.choice((1, 64)), np.uint8)


CHANGES: tuple[Callable[[Model, random.Random], None], ...] = (
    operands, operands, order, short_cut, shape, shape, shape, signature_shape, element_type,
    quantization, quantization, op_code, op_code, options, options, constants, constants,
    interface, tensor_flags, signatures, metadata, whole_model,
)  # fmt: skip


def _graph(model: Model, rng: random.Random) -> schema.SubGraphT:
    return rng.choice(model.subgraphs)


def _op(model: Model, rng: random.Random) -> schema.OperatorT:
    return rng.choice(_graph(model, rng).operators)


def _tensor(model: Model, rng: random.Random) -> schema.TensorT:
    """Kernels, biases and what lies between operators, alike."""
    return rng.choice(_graph(model, rng).tensors)


def _vector(values: list[int]) -> np.ndarray:
    return np.array(values, np.int32)
