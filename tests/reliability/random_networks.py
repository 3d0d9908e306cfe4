"""Random small CNNs from all supported layers, with weights from sane to extreme.

A network grows step by step: every step draws an op, the tensors that it reads and its geometry.
Afterwards each layer's weights are drawn in a style of its own. Everything comes from one `draw` of
hypothesis, so a failing network shrinks to a small one, and prints how it was made:

    @given(random_networks())
    def test(network):
        network.model, network.x, print(network)
"""

import dataclasses
import math

import keras
import numpy as np
from hypothesis import strategies as st

layers = keras.layers

# 1 is what training leaves; the batch normalization's statistics follow a kernel's magnitude.
MAGNITUDES = (1.0, 1.0, 2.0**-8, 2.0**8, 1e-12, 1e12)
KERNEL_STYLES = (*["normal"] * 5, *["sparse", "outlier", "signs"] * 2, "constant", "zero")
BATCH_NORM_STYLES = ("lived-in", "negative", "zero gamma", "tiny gamma", "zero variance", "spread")
INPUT_STYLES = ("normal", "positive", "constant", "tiny", "huge")


@dataclasses.dataclass(frozen=True, repr=False)
class RandomNetwork:
    """A float network, inputs for it, and how both were made.

    Attributes:
        model: Built, with its weights.
        x: One array per input of the model.
        log: A line per step.
    """

    model: keras.Model
    x: list[np.ndarray]
    log: tuple[str, ...]

    @property
    def data(self) -> np.ndarray | list[np.ndarray]:
        """The inputs as `apply` and `verify` take them."""
        return self.x if len(self.x) > 1 else self.x[0]

    def __repr__(self) -> str:
        return "\n  ".join(["RandomNetwork:", *self.log])


@st.composite
def random_networks(draw, most_steps: int = 5) -> RandomNetwork:
    """Draws a network of up to so many ops between its inputs and its heads."""
    keras.utils.clear_session(free_memory=False)
    growing = _Growing(draw)
    inputs = [growing.input(f"input_{i}") for i in range(draw(st.sampled_from((1, 1, 1, 2))))]
    growing.tensors = [growing.preprocessed(tensor) for tensor in inputs]
    for _ in range(draw(st.integers(1, most_steps))):
        growing.step()
    growing.tensors = growing.tensors[len(inputs) :]
    outputs = [growing.head() for _ in range(draw(st.sampled_from((1, 1, 1, 2))))]
    used = frozenset().union(*(growing.sources[tensor.name] for tensor in outputs))
    inputs = [tensor for tensor in inputs if tensor.name in used]
    model = keras.Model(inputs, outputs, name="random")
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for layer in model._flatten_layers():
        growing.fill(layer, rng)
    x = [growing.images(tensor, rng) for tensor in inputs]
    return RandomNetwork(model, x, tuple(growing.log))


class _Growing:
    """The tensors so far and the log of a network that grows."""

    def __init__(self, draw) -> None:
        self.draw = draw
        self.log: list[str] = []
        self.tensors: list = []
        self.sources: dict[str, frozenset[str]] = {}  # the inputs that each tensor depends on
        self.kernel_before: dict[str, str] = {}  # batch normalization -> its kernel layer
        self.magnitudes: dict[str, float] = {}  # of kernels, by layer

    def choose(self, *values):
        return self.draw(st.sampled_from(values))

    def number(self, lowest: int, highest: int) -> int:
        return self.draw(st.integers(lowest, highest))

    def pair(self, lowest: int, highest: int) -> tuple[int, int]:
        return self.number(lowest, highest), self.number(lowest, highest)

    def apply(self, layer, *read):
        config = {} if isinstance(layer, keras.Model) else layer.get_config()
        what = ", ".join(f"{k}={v}" for k, v in config.items() if k in _SHOWN)
        result = layer(read[0] if len(read) == 1 else list(read))
        return self.made(result, f"{type(layer).__name__}({what})", *read)

    def made(self, result, how: str, *read):
        """Notes how a tensor came about."""
        self.sources[result.name] = frozenset().union(*(self.sources[x.name] for x in read))
        self.log.append(f"{result.name} = {how}({', '.join(x.name for x in read)})")
        return result

    # ------------------------------------------------------------------------------- the ends

    def input(self, name: str):
        shape = (*self.pair(1, 8), self.number(1, 4))
        if self.choose(False, False, False, True):
            shape = (math.prod(shape),)
        return self.new_input(keras.Input(shape, name=name))

    def new_input(self, tensor):
        self.sources[tensor.name] = frozenset([tensor.name])
        self.log.append(f"{tensor.name} = Input({tuple(tensor.shape[1:])})")
        return tensor

    def preprocessed(self, x):
        kind = self.choose("none", "none", "rescaling", "normalization")
        if kind == "rescaling":
            x = self.apply(layers.Rescaling(self.choose(1 / 255, 0.5, 3.0), offset=0.25), x)
        elif kind == "normalization" and len(x.shape) == 4:
            channels = x.shape[-1]
            mean, variance = np.linspace(-1, 1, channels), np.linspace(0.5, 2, channels)
            x = self.apply(layers.Normalization(mean=mean, variance=variance), x)
        return x

    def head(self):
        x = self.read()
        kind = self.choose("dense", "dense", "none", "softmax", "sigmoid", "dense softmax", "flat")
        if len(x.shape) > 2 and kind != "none":
            pool = self.choose(layers.GlobalAveragePooling2D, layers.Flatten)
            x = self.apply(pool(), x)
        if kind == "none" or kind == "flat":
            return x
        classes = self.number(1, 5)
        if kind == "dense softmax":
            return self.apply(layers.Dense(classes, activation="softmax"), x)
        x = self.apply(layers.Dense(classes, use_bias=self.choose(True, False)), x)
        if kind == "softmax":
            return self.apply(layers.Softmax(), x)
        return self.apply(layers.Activation(kind), x) if kind == "sigmoid" else x

    # -------------------------------------------------------------------------------- the steps

    def read(self, candidates=None):
        """One of the tensors so far, the newest first."""
        candidates = self.tensors if candidates is None else candidates
        return self.draw(st.sampled_from(candidates[::-1]))

    def step(self) -> None:
        x = self.read()
        on_maps = (
            self.conv, self.conv, self.depthwise, self.batch_norm, self.relu, self.add, self.join,
            self.pool, self.pad, self.global_pool, self.flatten, self.reshape, self.unchanged,
            self.nested, self.residual,
        )  # fmt: skip
        on_vectors = (
            self.dense, self.dense, self.batch_norm, self.relu, self.add, self.join, self.to_map,
            self.unchanged, self.reshape,
        )  # fmt: skip
        op = self.choose(*(on_maps if len(x.shape) == 4 else on_vectors))
        self.tensors.append(op(x))

    def conv(self, x):
        height, width, channels = x.shape[1:]
        padding = self.choose("same", "valid")
        limits = (4, 4) if padding == "same" else (min(4, height), min(4, width))
        size = self.number(1, limits[0]), self.number(1, limits[1])
        strides, dilations = (1, 1), (1, 1)
        if self.choose(False, False, True):
            strides = self.pair(1, 3)
        elif self.choose(False, False, True):
            dilations = self.dilations(x, size, padding)
        groups = self.choose(*[n for n in range(1, channels + 1) if channels % n == 0])
        filters = groups * self.number(1, 4)
        conv = layers.Conv2D(
            filters, size, strides, padding, dilation_rate=dilations,
            groups=groups, use_bias=self.choose(False, True), activation=self.inner_activation(),
        )  # fmt: skip
        return self.finish(self.apply(conv, x), conv)

    def dilations(self, x, size, padding) -> tuple[int, int]:
        rates = [
            3 if padding == "same" or k == 1 else min(3, (n - 1) // (k - 1))
            for n, k in zip(x.shape[1:3], size, strict=True)
        ]
        return self.number(1, max(1, rates[0])), self.number(1, max(1, rates[1]))

    def depthwise(self, x):
        padding = self.choose("same", "valid")
        largest = 4 if padding == "same" else min(4, *x.shape[1:3])
        size = self.pair(1, largest)
        stride, dilations = self.choose(1, 1, 2, 3), (1, 1)
        if stride == 1 and self.choose(False, False, True):
            dilations = self.dilations(x, size, padding)
        conv = layers.DepthwiseConv2D(
            size, stride, padding, self.choose(1, 1, 2, 3), dilation_rate=dilations,
            use_bias=self.choose(False, True), activation=self.inner_activation(),
        )  # fmt: skip
        return self.finish(self.apply(conv, x), conv)

    def dense(self, x):
        dense = layers.Dense(
            self.number(1, 6), use_bias=self.choose(False, True), activation=self.inner_activation()
        )
        return self.finish(self.apply(dense, x), dense)

    def inner_activation(self):
        return self.choose(None, None, None, "relu", "relu6")

    def finish(self, x, layer):
        """A batch normalization and a ReLU behind a kernel, or not."""
        if self.choose(True, True, False):
            x = self.batch_norm(x, layer.name)
        return self.relu(x) if self.choose(True, True, False) else x

    def batch_norm(self, x, kernel_layer: str = ""):
        options = {
            "scale": self.choose(True, True, False),
            "center": self.choose(True, True, False),
        }
        norm = layers.BatchNormalization(epsilon=self.choose(1e-3, 1e-5), **options)
        self.kernel_before[norm.name] = kernel_layer
        return self.apply(norm, x)

    def relu(self, x):
        form = self.choose("layer", "layer", "relu6", "activation", "operation")
        if form == "operation":
            return self.made(keras.ops.relu(x), "keras.ops.relu", x)
        if form == "activation":
            return self.apply(layers.Activation("relu"), x)
        return self.apply(layers.ReLU(6.0 if form == "relu6" else None), x)

    def add(self, x):
        other = self.read([t for t in self.tensors if tuple(t.shape) == tuple(x.shape)])
        if self.choose(True, True, False):
            total = self.apply(layers.Add(), x, other)
        else:
            total = self.made(x + other, "sum", x, other)
        return self.relu(total) if self.choose(True, False) else total

    def residual(self, x):
        """A branch that is added to what it reads."""
        conv = layers.Conv2D(x.shape[-1], self.pair(1, 3), padding="same", use_bias=False)
        branch = self.batch_norm(self.apply(conv, x), conv.name)
        total = self.apply(layers.Add(), branch, x)
        return self.relu(total) if self.choose(True, False) else total

    def join(self, x):
        alike = [t for t in self.tensors if tuple(t.shape[:-1]) == tuple(x.shape[:-1])]
        others = [self.read(alike) for _ in range(self.choose(1, 1, 2, 5))]
        return self.apply(layers.Concatenate(), x, *others)

    def pool(self, x):
        padding = self.choose("valid", "same")
        limits = [4 if padding == "same" else min(4, n) for n in x.shape[1:3]]
        size = self.number(1, limits[0]), self.number(1, limits[1])
        kind = self.choose(layers.MaxPooling2D, layers.AveragePooling2D, layers.AveragePooling2D)
        return self.apply(kind(size, self.pair(1, 3), padding), x)

    def pad(self, x):
        return self.apply(layers.ZeroPadding2D((self.pair(0, 2), self.pair(0, 2))), x)

    def global_pool(self, x):
        return self.apply(layers.GlobalAveragePooling2D(keepdims=self.choose(False, True)), x)

    def flatten(self, x):
        return self.apply(layers.Flatten(), x)

    def reshape(self, x):
        sizes = tuple(x.shape[1:])
        shape = (math.prod(sizes),) if len(sizes) == 1 else (sizes[0] * sizes[1], 1, sizes[2])
        return self.apply(layers.Reshape(self.choose(shape, (1, 1, math.prod(sizes)))), x)

    def to_map(self, x):
        return self.apply(layers.Reshape((1, 1, x.shape[-1])), x)

    def unchanged(self, x):
        kinds = [layers.Dropout(0.3), layers.Identity()]
        kinds += [layers.SpatialDropout2D(0.3)] if len(x.shape) == 4 else []
        return self.apply(self.choose(*kinds), x)

    def nested(self, x):
        """One or two ops inside of a model of their own."""
        inner = self.new_input(keras.Input(x.shape[1:]))
        outside, self.tensors = self.tensors, [inner]
        for _ in range(self.number(1, 2)):
            self.step()
        model = keras.Model(inner, self.tensors[-1])
        self.tensors = outside
        return self.apply(model, x)

    # ------------------------------------------------------------------------ weights, images

    def fill(self, layer, rng: np.random.Generator) -> None:
        """Draws the style of a layer's weights, and takes the numbers from `rng`."""
        if isinstance(layer, layers.BatchNormalization):
            self.fill_batch_norm(layer, rng)
        elif isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)):
            style, magnitude = self.choose(*KERNEL_STYLES), self.choose(*MAGNITUDES)
            self.log.append(f"kernel of {layer.name}: {style}, times {magnitude:g}")
            self.magnitudes[layer.name] = magnitude
            layer.kernel.assign(_kernel(style, layer.kernel.shape, rng) * magnitude)
            if layer.use_bias:
                layer.bias.assign(rng.normal(0.1, 0.3, layer.bias.shape) * magnitude)

    def fill_batch_norm(self, layer, rng: np.random.Generator) -> None:
        style, channels = self.choose(*BATCH_NORM_STYLES), layer.moving_mean.shape[0]
        self.log.append(f"{layer.name}: {style}")
        mean, variance = rng.normal(0, 0.3, channels), rng.uniform(0.2, 2.0, channels)
        gamma, beta = rng.normal(1, 0.4, channels), rng.normal(0.3, 0.3, channels)
        some = rng.random(channels) < 0.4
        if style == "negative":
            gamma = -gamma
        elif style in ("zero gamma", "tiny gamma"):
            gamma = np.where(some, 0.0 if style == "zero gamma" else 1e-7, gamma)
        elif style == "zero variance":
            variance = np.where(some, 0.0, variance)
        elif style == "spread":
            variance = variance * 2.0 ** rng.integers(-12, 12, channels)
        magnitude = self.magnitudes.get(self.kernel_before[layer.name], 1.0)
        layer.moving_mean.assign(mean * magnitude)
        layer.moving_variance.assign(variance * magnitude**2)
        if layer.scale:
            layer.gamma.assign(gamma)
        if layer.center:
            layer.beta.assign(beta)

    def images(self, tensor, rng: np.random.Generator, count: int = 6) -> np.ndarray:
        style = self.choose(*INPUT_STYLES)
        self.log.append(f"images for {tensor.name}: {style}")
        x = rng.normal(0, 0.6, (count, *tensor.shape[1:]))
        if style == "constant":
            x = np.full_like(x, 0.7)
        elif style == "positive":
            x = np.abs(x)
        x *= {"tiny": 2.0**-20, "huge": 2.0**20}.get(style, 1.0)
        return x.astype(np.float32)


_SHOWN = (
    "filters", "units", "kernel_size", "strides", "padding", "dilation_rate", "groups", "use_bias",
    "activation", "depth_multiplier", "max_value", "pool_size", "keepdims", "target_shape", "scale",
    "center", "epsilon", "offset",
)  # fmt: skip


def _kernel(style: str, shape, rng: np.random.Generator) -> np.ndarray:
    kernel = rng.normal(0.05, 1.0, shape) / math.sqrt(math.prod(shape[:-1]))
    if style == "sparse":
        return np.where(rng.random(shape) < 0.2, kernel, 0.0)
    if style == "outlier":
        kernel.flat[rng.integers(kernel.size)] *= 200.0
    elif style == "signs":
        kernel = np.sign(kernel) * 0.5
    elif style == "constant":
        kernel = np.full(shape, 0.3)
    elif style == "zero":
        kernel = np.zeros(shape)
    return kernel
