"""The loss is read from how the model ends and from the labels' shape."""

import keras
import pytest

from faq_keras.training.losses import classification_loss

SPARSE, ONE_HOT = (None,), (None, 10)
Dense, Input = keras.layers.Dense, keras.Input


def nested():
    inner = keras.Sequential([Input((4,)), Dense(10, activation="softmax")])
    return keras.Sequential([Input((4,)), inner])


def ending_in(*layers):
    return keras.Sequential([Input((4,)), *layers])


ENDS = {
    "linear": (lambda: ending_in(Dense(10)), True),
    "relu": (lambda: ending_in(Dense(10, activation="relu")), True),
    "pool": (lambda: ending_in(Dense(10), keras.layers.Dropout(0.1)), True),
    "dense_softmax": (lambda: ending_in(Dense(10, activation="softmax")), False),
    "softmax_layer": (lambda: ending_in(Dense(10), keras.layers.Softmax()), False),
    "activation": (lambda: ending_in(Dense(10), keras.layers.Activation("softmax")), False),
    "behind": (
        lambda: ending_in(Dense(10), keras.layers.Softmax(), keras.layers.Reshape((10,))),
        False,
    ),
    "nested": (nested, False),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (SPARSE, keras.losses.SparseCategoricalCrossentropy),
        ((None, 1), keras.losses.SparseCategoricalCrossentropy),
        (ONE_HOT, keras.losses.CategoricalCrossentropy),
    ],
)
def test_the_loss_fits_the_end_and_the_labels(end, labels, kind):
    make, from_logits = ENDS[end]
    loss = classification_loss(make(), labels)
    assert type(loss) is kind
    assert loss.get_config()["from_logits"] is from_logits


class Subclassed(keras.Model):
    def call(self, x):
        return x


def two_outputs():
    x = Input((4,))
    return keras.Model(x, [Dense(10)(x), Dense(10)(x)])


@pytest.mark.parametrize(
    ("make", "labels", "message"),
    [
        (Subclassed, SPARSE, "no loss that can be inferred.*Pass loss="),
        (two_outputs, SPARSE, "no loss that can be inferred.*one output"),
        (lambda: ending_in(Dense(1)), SPARSE, "not one score per class.*Pass loss="),
        (lambda: ending_in(Dense(10, activation="sigmoid")), SPARSE, "last activation: sigmoid"),
        (lambda: ending_in(Dense(10)), (None, 7), r"Labels of shape \(None, 7\) do not fit"),
        (lambda: ending_in(Dense(10)), (None, 10, 10), "do not fit"),
    ],
)
def test_anything_else_has_to_be_said(make, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_loss(make(), labels)
