"""Small .tflite files as other programs write them."""

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from faq_keras.tflite import flatbuffer

_Op, _Type = schema.BuiltinOperator, schema.TensorType


def _tensor(name, kind, scale, zero_point):
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.array([scale], np.float32)
    quantization.zeroPoint = np.array([zero_point], np.int64)
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.quantization = name.encode(), kind, quantization
    tensor.shape = np.array([1, 4], np.int32)
    tensor.buffer = 0
    return tensor


def softmax_file(damage=""):
    """An int8 SOFTMAX with an int16 output, as microcontroller examples have it."""
    kinds = {"int16 to int8": (_Type.INT16, _Type.INT8), "int8 to int32": (_Type.INT8, _Type.INT32)}
    source, target = kinds.get(damage, (_Type.INT8, _Type.INT16))
    op, options = schema.OperatorT(), schema.SoftmaxOptionsT()
    options.beta = 1.0
    op.opcodeIndex, op.inputs = 0, np.array([0], np.int32)
    op.outputs = np.array([] if damage == "no output" else [1], np.int32)
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.SoftmaxOptions, options
    graph = schema.SubGraphT()
    graph.tensors = [_tensor("x", source, 0.125, 0), _tensor("y", target, 2**-16, -32768)]
    graph.inputs, graph.outputs = np.array([0], np.int32), np.array([1], np.int32)
    graph.operators, graph.name = [op], b"main"
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = _Op.SOFTMAX
    code.version = 2
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers, model.description = [schema.BufferT()], b"of others"
    return flatbuffer.serialize(model)


class _Counter(tf.Module):
    def __init__(self):
        super().__init__()
        self.total = tf.Variable(tf.zeros((1, 4)))

    @tf.function(input_signature=[tf.TensorSpec((1, 4))])
    def __call__(self, x):
        self.total.assign_add(x)
        return self.total.read_value() * 2.0


def stateful_file():
    """A network with a state: CALL_ONCE, VAR_HANDLE, ASSIGN_VARIABLE, READ_VARIABLE."""
    module = _Counter()
    function = module.__call__.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    converter.experimental_enable_resource_variables = True
    return converter.convert()
