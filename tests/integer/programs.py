"""A small seeded builder of integer programs, for tests that need no Keras model.

b = Builder(seed=1)
x = b.input((8, 8, 3))
y = b.conv(x, 16, activation="relu", out=unsigned(4, -2))
program = b.build(y)
codes = b.images(program, 5)
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from faq_keras.integer.program import IntegerProgram, Op, Tensor


@dataclasses.dataclass(frozen=True)
class Format:
    """An activation tensor's scale and range."""

    scale: float
    zero_point: int
    bits: int = 8
    dtype: str = "int8"
    highest: int | None = None


def unsigned(bits, exponent, limit=None):
    highest = 127 if limit is None else 128 - 2**bits + limit
    return Format(2.0**exponent, 128 - 2**bits, bits, highest=highest)


def signed(exponent):
    return Format(2.0**exponent, 0)


def logits(exponent):
    return Format(2.0**exponent, 0, 16, "int16")


def exactly(message):
    """What `pytest.raises(match=...)` takes for a message word for word."""
    return f"^{re.escape(message)}$"


IMAGE, RELU8, LOGITS = unsigned(8, -7), unsigned(8, -4), logits(-8)


class Builder:
    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.tensors, self.ops, self.inputs, self.count = {}, [], [], 0

    def input(self, shape, fmt=IMAGE, dtype=None, name=None):
        name = name or f"input_{len(self.inputs)}"
        if dtype == "float32":
            tensor = Tensor(name, (None, *shape), "float32")
        else:
            tensor = self._tensor(name, (None, *shape), fmt)
            if dtype:
                tensor = dataclasses.replace(
                    tensor, dtype=dtype, zero_point=0, lowest=0, highest=255
                )
        self._add(tensor)
        self.inputs.append(name)
        return name

    def conv(
        self, x, filters, kernel=(3, 3), *, bits=8, strides=(1, 1), dilations=(1, 1),
        padding="same", activation="relu", out=RELU8, kernel_exponent=None, multipliers=None,
        bias=None, depthwise=False, depth_multiplier=1, codes=None, float_scales=False, groups=1,
    ):  # fmt: skip
        """A convolution; `filters` is ignored when depthwise. Multipliers: 8-bit codes of a BN."""
        source = self.tensors[x]
        channels = source.shape[3]
        if depthwise:
            filters, shape = channels * depth_multiplier, (1, *kernel, channels * depth_multiplier)
        else:
            shape = (filters, *kernel, channels // groups)
        if multipliers is None:
            multipliers = 2.0**-4 * self.rng.integers(1, 128, filters)
        limit = 2 ** (bits - 1) - 1
        if codes is None:
            codes = self.rng.integers(-limit, limit + 1, shape)
        deviation = self._accumulator_deviation(x, codes, 3 if depthwise else 0)
        if kernel_exponent is None:
            kernel_exponent = self._fitting_exponent(x, deviation * np.mean(multipliers), out)
        bias = int(deviation) if bias is None else bias
        scale = np.float32(2.0**kernel_exponent) * np.float32(multipliers)
        if float_scales:
            scale = scale * self.rng.uniform(0.5, 1, filters).astype(np.float32)
        attributes = {
            "strides": strides, "dilations": dilations, "padding": padding,
            "activation": activation,
        }  # fmt: skip
        if depthwise:
            attributes["depth_multiplier"] = depth_multiplier
        kind = "depthwise_conv_2d" if depthwise else "conv_2d"
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        size = [
            -(-n // s) if padding == "same" else (n - r) // s + 1
            for n, r, s in zip(source.shape[1:3], reach, strides, strict=True)
        ]
        return self._weighted(
            kind,
            x,
            codes,
            scale,
            3 if depthwise else 0,
            bits,
            bias,
            (None, *size, filters),
            out,
            attributes,
        )

    def global_pool(self, x, out):
        """A depthwise convolution of ones over the whole map, then a reshape."""
        _, height, width, channels = self.tensors[x].shape
        y = self.conv(
            x, 0, (height, width), padding="valid", activation=None, out=out, bias=0,
            depthwise=True,
            multipliers=np.full(channels, np.float32(1 / (height * width))), kernel_exponent=0,
            codes=np.ones((1, height, width, channels), int),
        )  # fmt: skip
        return self.reshape(y, (channels,))

    def dense(
        self, x, units, *, bits=8, activation=None, out=LOGITS, kernel_exponent=None, bias=None
    ):
        """Fully connected; an int16 output puts a `quantize` before it."""
        source = self.tensors[x]
        if out.dtype == "int16":
            name = self._name("widen")
            wide = Tensor(
                name, source.shape, "int16", source.scale, 0, bits=16, lowest=-32768, highest=32767
            )
            self._add(wide)
            self.ops.append(Op("quantize", name, (x,), (name,)))
            x = name
        limit = 2 ** (bits - 1) - 1
        codes = self.rng.integers(-limit, limit + 1, (units, source.shape[1]))
        deviation = self._accumulator_deviation(x, codes, 0)
        if kernel_exponent is None:
            kernel_exponent = self._fitting_exponent(x, deviation, out)
        bias = int(deviation) if bias is None else bias
        scale = np.array([2.0**kernel_exponent], np.float32)
        return self._weighted(
            "fully_connected", x, codes, scale, None, bits, bias, (None, units), out,
            {"activation": activation}, bias_dtype="int64" if out.dtype == "int16" else "int32",
        )  # fmt: skip

    def add(self, a, b, out, activation="relu"):
        return self._op("add", (a, b), self.tensors[a].shape, out, {"activation": activation})

    def concat(self, *parts):
        """All parts must have one format."""
        shape = self.tensors[parts[0]].shape
        channels = sum(self.tensors[x].shape[-1] for x in parts)
        axis = {"axis": len(shape) - 1}
        return self._same("concatenation", parts, (*shape[:-1], channels), axis)

    def pool(self, x, kind, size=(2, 2), strides=(2, 2), padding="valid"):
        source = self.tensors[x]
        shape = [
            -(-n // s) if padding == "same" else (n - k) // s + 1
            for n, k, s in zip(source.shape[1:3], size, strides, strict=True)
        ]
        attributes = {"pool_size": size, "strides": strides, "padding": padding}
        return self._same(kind, (x,), (None, *shape, source.shape[3]), attributes)

    def mean(self, x, out):
        """Over height and width."""
        axes = self._constant("axes", np.array([1, 2], np.int32), "int32")
        return self._op("mean", (x, axes), (None, self.tensors[x].shape[3]), out, {})

    def pad(self, x, top, bottom, left, right):
        source = self.tensors[x]
        pads = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        constant = self._constant("paddings", pads, "int32")
        _, height, width, channels = source.shape
        shape = (None, height + top + bottom, width + left + right, channels)
        return self._same("pad", (x, constant), shape, {})

    def reshape(self, x, shape):
        constant = self._constant("shape", np.array([-1, *shape], np.int32), "int32")
        return self._same("reshape", (x, constant), (None, *shape), {"shape": (-1, *shape)})

    def quantize(self, x, out):
        return self._op("quantize", (x,), self.tensors[x].shape, out, {})

    def build(self, *outputs, **metadata):
        return IntegerProgram(
            "test", self.tensors, tuple(self.ops), tuple(self.inputs), outputs, metadata=metadata
        )

    def images(self, program, count):
        """Random codes that use each input's whole range; floats for float inputs."""
        feed = {}
        for name in program.inputs:
            tensor = program.tensors[name]
            shape = (count, *tensor.shape[1:])
            if tensor.dtype == "float32":
                feed[name] = self.rng.normal(0, 2, shape).astype(np.float32)
            else:
                codes = self.rng.integers(tensor.lowest, tensor.highest + 1, shape)
                feed[name] = codes.astype(tensor.dtype)
        return feed

    # ------------------------------------------------------------------------------------ details

    def _accumulator_deviation(self, x, codes, axis):
        """Roughly: as if the input's codes were spread over half of its range."""
        fan_in = codes.size // codes.shape[axis]
        steps = min(2 ** self.tensors[x].bits, 256)
        return np.sqrt(fan_in) * max(np.std(codes), 1) * steps / 4 + 1

    def _fitting_exponent(self, x, deviation, out):
        """The kernel exponent with which outputs fill their range and a few saturate."""
        steps = 2.0 ** min(out.bits, 14) / 3
        return int(np.round(np.log2(steps * out.scale / self.tensors[x].scale[0] / deviation)))

    def _weighted(
        self, kind, x, codes, scale, axis, bits, bias, shape, out, attributes, bias_dtype="int32"
    ):
        name = self._name(kind)
        limit = 2 ** (bits - 1) - 1
        kernel = Tensor(
            f"{name}/kernel", codes.shape, "int8", tuple(scale.tolist()), 0, axis, bits,
            -limit, limit,
            codes.astype(np.int8),
        )  # fmt: skip
        values = self.rng.integers(-bias, bias + 1, shape[-1])
        bias_scale = np.float32(self.tensors[x].scale[0]) * scale
        info = np.iinfo(bias_dtype)
        biases = Tensor(
            f"{name}/bias", (shape[-1],), bias_dtype, tuple(bias_scale.tolist()), 0,
            None if axis is None else 0, info.bits, info.min, info.max, values.astype(bias_dtype),
        )  # fmt: skip
        self._add(kernel)
        self._add(biases)
        return self._op(kind, (x, kernel.name, biases.name), shape, out, attributes, name)

    def _op(self, kind, inputs, shape, out, attributes, name=None):
        name = name or self._name(kind)
        self._add(self._tensor(name, shape, out))
        self.ops.append(Op(kind, name, inputs, (name,), attributes))
        return name

    def _same(self, kind, inputs, shape, attributes):
        """An op whose output keeps the scale of its input."""
        source, name = self.tensors[inputs[0]], self._name(kind)
        self._add(dataclasses.replace(source, name=name, shape=shape))
        self.ops.append(Op(kind, name, inputs, (name,), attributes))
        return name

    def _tensor(self, name, shape, fmt):
        info = np.iinfo(fmt.dtype)
        lowest = fmt.zero_point if fmt.highest is not None else info.min
        highest = info.max if fmt.highest is None else fmt.highest
        return Tensor(
            name,
            shape,
            fmt.dtype,
            (fmt.scale,),
            fmt.zero_point,
            None,
            fmt.bits,
            int(lowest),
            int(highest),
        )

    def _constant(self, stem, data, dtype):
        name = self._name(stem)
        self._add(
            Tensor(name, data.shape, dtype, bits=32, lowest=-(2**31), highest=2**31 - 1, data=data)
        )
        return name

    def _name(self, stem):
        self.count += 1
        return f"{stem}_{self.count}"

    def _add(self, tensor):
        assert tensor.name not in self.tensors, tensor.name
        self.tensors[tensor.name] = tensor


def small_resnet(seed=0, bits=4, activation_bits=4, size=(16, 16), channels=8, blocks=2):
    """A residual network with every op kind."""
    b = Builder(seed)
    act = unsigned(activation_bits, -1 if activation_bits == 4 else -5)
    x = b.input((*size, 3))
    x = b.conv(b.pad(x, 1, 1, 1, 1), channels, padding="valid", out=act)
    x = b.pool(x, "max_pool_2d", (3, 3), padding="same")
    for _ in range(blocks):
        y = b.conv(x, channels, bits=bits, out=act)
        y = b.conv(y, channels, bits=bits, out=signed(-5), activation=None)
        x = b.add(x, y, out=act)
    x = b.conv(x, 0, bits=bits, depthwise=True, strides=(2, 2), out=unsigned(8, -6))
    x = b.pool(x, "average_pool_2d")
    x = b.global_pool(x, unsigned(8, -7))
    return b, b.build(b.dense(x, 10), plan_hash="0123456789abcdef")
