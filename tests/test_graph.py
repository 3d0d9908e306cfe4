"""Reading models: fusing, nesting, spellings, and the one error that lists everything."""

import keras
import numpy as np
import pytest

from faq_keras.graph import evaluate, last_activation
from faq_keras.graph_reader import read_graph
from tests import networks

layers = keras.layers


def summary(model):
    return [(node.kind, node.activation, len(node.layers)) for node in read_graph(model).nodes]


def test_conv_bn_relu_is_one_node():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, networks.conv_bn_relu(inputs, 4))
    assert summary(model) == [("input", None, 1), ("conv", "relu", 3)]


@pytest.mark.parametrize(
    ("spelling", "activation"),
    [
        (lambda x: layers.Conv2D(4, 3, activation="relu")(x), "relu"),
        (lambda x: layers.Activation("relu")(layers.Conv2D(4, 3)(x)), "relu"),
        (lambda x: layers.ReLU()(layers.Conv2D(4, 3)(x)), "relu"),
        (lambda x: keras.ops.relu(layers.Conv2D(4, 3)(x)), "relu"),
        (lambda x: layers.ReLU(6.0)(layers.Conv2D(4, 3)(x)), "relu6"),
        (lambda x: layers.Activation("relu6")(layers.Conv2D(4, 3)(x)), "relu6"),
        (lambda x: layers.DepthwiseConv2D(3, activation="relu6")(x), "relu6"),
        (lambda x: layers.Conv2D(4, 3)(x), None),
    ],
)
def test_spellings_of_relu(spelling, activation):
    inputs = keras.Input((8, 8, 3))
    graph = read_graph(keras.Model(inputs, spelling(inputs)))
    assert len(graph.nodes) == 2
    assert graph.nodes[1].activation == activation


def test_plus_is_add():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, padding="same")(inputs)
    y = layers.Conv2D(3, 3, padding="same")(inputs)
    assert summary(keras.Model(inputs, layers.ReLU()(x + y)))[-1] == ("add", "relu", 2)


def test_softmax_in_the_last_layer_becomes_a_head():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])
    graph = read_graph(model)
    assert [node.kind for node in graph.nodes] == ["input", "dense", "head"]
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    values = evaluate(graph, {graph.inputs[0]: x}, lambda node, read: node.float_call(read))
    np.testing.assert_allclose(values[graph.outputs[0]], model(x), atol=1e-6)


def test_preprocessing_belongs_to_the_input():
    inputs = keras.Input((8, 8, 3))
    x = layers.Normalization(mean=[0.5] * 3, variance=[0.1] * 3)(layers.Rescaling(1 / 255)(inputs))
    assert summary(keras.Model(inputs, layers.Conv2D(4, 3)(x)))[0] == ("input", None, 3)


def test_relu_with_a_second_reader_of_its_conv_stands_alone():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, padding="same", name="c")(inputs)
    model = keras.Model(inputs, layers.Add()([layers.ReLU(name="r")(x), x]))
    assert summary(model)[1:3] == [("conv", None, 1), ("affine", "relu", 1)]


def test_batch_norm_and_relu_that_stand_alone_are_one_node():
    inputs = keras.Input((8, 8, 3))
    x = layers.MaxPooling2D()(layers.Conv2D(3, 3)(inputs))
    model = keras.Model(inputs, layers.ReLU()(layers.BatchNormalization()(x)))
    assert summary(model)[-1] == ("affine", "relu", 2)


@pytest.mark.parametrize(
    "join", [layers.Concatenate(), lambda parts: keras.ops.concatenate(parts, axis=-1)]
)
def test_unsigned_tensors_join_signed_ones_through_a_requantization(join):
    inputs = keras.Input((8, 8, 3))
    a = layers.MaxPooling2D()(layers.Conv2D(3, 1, activation="relu", name="a")(inputs))
    b = layers.Conv2D(4, 1, strides=2, name="b")(inputs)
    c = join([a, b])
    model = keras.Model(inputs, join([c, a, join([a, a])]))
    graph = read_graph(model)
    moved = [node for node in graph.nodes if node.kind == "requantize"]
    # The pooled ReLU, once for both of its readers, and the inner concatenation.
    assert [graph[node.inputs[0]].kind for node in moved] == ["max_pool", "concat"]
    for node in graph.nodes:
        if node.kind == "concat":
            assert len({graph.is_signed(graph[name]) for name in node.inputs}) == 1


def test_nested_models_are_laid_out_flat():
    inner = networks.tiny_resnet()
    inputs = keras.Input((8, 8, 3))
    outer = keras.Model(inputs, layers.Dense(2)(layers.ReLU()(inner(inputs))), name="outer")
    flat = [node.kind for node in read_graph(outer).nodes]
    assert flat[:-1] == [node.kind for node in read_graph(inner).nodes]
    assert flat[-1] == "dense"


def test_nested_sequential_models():
    block = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()])
    model = keras.Sequential([keras.Input((8, 8, 3)), block, layers.Flatten(), layers.Dense(2)])
    assert [node.kind for node in read_graph(model).nodes] == ["input", "conv", "flatten", "dense"]


def test_evaluate_computes_what_the_model_computes():
    model = networks.tiny_resnet()
    graph = read_graph(model)
    x = networks.images(4)
    values = evaluate(graph, {"image": x}, lambda node, read: node.float_call(read))
    np.testing.assert_allclose(values[graph.outputs[0]], model(x), atol=1e-5)


def test_everything_unsupported_is_listed_at_once():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="conv")(inputs)
    x = layers.LeakyReLU(name="leaky")(x)
    x = layers.BatchNormalization(1, name="rows")(layers.MaxPooling2D()(x))
    x = layers.Concatenate(2, name="columns")([x, x])
    x = layers.Multiply(name="gate")([x, x])
    x = layers.Dense(4, name="deep")(x)
    x = layers.Conv2D(2, 1, activation="gelu", name="curvy")(x)
    with pytest.raises(ValueError, match="cannot be quantized") as error:
        read_graph(keras.Model(inputs, layers.Softmax()(x), name="net"))
    for name in ("leaky", "rows", "columns", "gate", "deep", "curvy"):
        assert f"Layer '{name}'" in str(error.value)
    assert "Supported layers: Activation, Add" in str(error.value)


def test_layers_without_weights_may_be_shared():
    inputs = keras.Input((12, 12, 3))
    relu, pool = layers.ReLU(name="relu"), layers.MaxPooling2D(name="pool")
    x = relu(layers.Conv2D(3, 3)(pool(relu(layers.Conv2D(3, 3)(inputs)))))
    graph = read_graph(keras.Model(inputs, pool(x)))
    names = [layer.name for node in graph.nodes for layer in node.layers]
    assert {"relu", "relu_1", "pool", "pool_1"} <= set(names)


def test_shared_layers_with_weights_are_refused():
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(3, 3, padding="same", name="shared")
    with pytest.raises(ValueError, match="'shared' is called more than once"):
        read_graph(keras.Model(inputs, conv(conv(inputs))))


def test_unknown_height_is_refused():
    inputs = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match="height and width must be known"):
        read_graph(keras.Model(inputs, layers.Conv2D(3, 3)(inputs)))


def test_channels_first_is_refused():
    inputs = keras.Input((3, 8, 8))
    x = layers.MaxPooling2D(data_format="channels_first", name="pool")(inputs)
    with pytest.raises(ValueError, match=r"'pool' \(MaxPooling2D\) is channels_first"):
        read_graph(keras.Model(inputs, x))


def test_subclassed_models_are_refused():
    class Net(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="subclassed model without a graph"):
        read_graph(Net(name="net"))


def test_unbuilt_models_are_refused():
    with pytest.raises(ValueError, match="not built"):
        read_graph(keras.Sequential([layers.Dense(3)]))


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="Expected a Keras model, received str"):
        read_graph("model.keras")


def test_tf_keras_models_are_read_as_their_twins():
    import tf_keras

    model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"tf_keras \(Keras 2\).*to_keras3"):
        read_graph(model)


def test_an_input_that_nothing_reads_is_refused():
    used, unused = keras.Input((8, 8, 3), name="used"), keras.Input((4,), name="unused")
    model = keras.Model([used, unused], layers.Flatten()(layers.Conv2D(2, 3)(used)))
    with pytest.raises(ValueError, match=r"'unused' \(InputLayer\) is read by nothing"):
        read_graph(model)


def test_a_model_that_computes_nothing_is_refused():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Dropout(0.5)(layers.Rescaling(0.5)(inputs)))
    with pytest.raises(ValueError, match="It has no layer that computes anything"):
        read_graph(model)


def ends(*layers_):
    return keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), *layers_])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: ends(layers.Dense(3)), "linear"),
        (lambda: ends(layers.Dense(3, activation="softmax")), "softmax"),
        (lambda: ends(layers.Dense(3), layers.Softmax(), layers.Dropout(0.1)), "softmax"),
        (lambda: ends(layers.Dense(3), layers.ReLU(6.0)), "relu"),
        (lambda: ends(layers.Dense(3), layers.Activation("sigmoid")), "sigmoid"),
        (lambda: ends(layers.Dense(3, activation="tanh")), "tanh"),
        (lambda: keras.Sequential([keras.Input((4, 4, 3)), ends(layers.Softmax())]), "softmax"),
    ],
)
def test_the_activation_at_the_end(model, expected):
    assert last_activation(model().outputs[0]) == expected


def test_the_activation_of_operations_and_of_subclassed_models():
    inputs = keras.Input((4,))
    assert last_activation(keras.ops.softmax(inputs)) == "softmax"
    assert last_activation(keras.ops.relu(inputs)) == "relu"

    class Subclassed(keras.Model):
        def call(self, x):
            return x

        def compute_output_shape(self, shape):
            return shape

    assert last_activation(Subclassed()(inputs)) is None
