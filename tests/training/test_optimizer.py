"""SGD equals PyTorch's, n virtual batches equal one big one, and its state is saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from faq_keras.training.optimizer import SGD


def classifier(optimizer, loss="sparse_categorical_crossentropy", batch_norm=True):
    layers = [keras.Input((6,)), keras.layers.Dense(16)]
    layers += [keras.layers.BatchNormalization()] if batch_norm else []
    layers += [keras.layers.ReLU(), keras.layers.Dense(4, activation="softmax")]
    model = keras.Sequential(layers)
    model.compile(optimizer, loss=loss, jit_compile=False)
    return model


def data(count, seed=0):
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(count, 6)).astype("float32"),
        random.integers(0, 4, size=count).astype("int32"),
    )


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_100_steps_equal_pytorchs(momentum, weight_decay):
    torch = pytest.importorskip("torch", reason="needs faq_keras[torch]")
    random = np.random.default_rng(1)
    start = random.normal(size=(5, 7)).astype("float32")
    target = random.normal(size=(100, 5, 7)).astype("float32")

    theirs = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.SGD([theirs], lr=0.05, momentum=momentum, weight_decay=weight_decay)
    ours = keras.Variable(start, name="kernel")
    sgd = SGD(0.05, momentum=momentum, weight_decay=weight_decay)
    for step in range(100):
        if step == 50:
            optimizer.param_groups[0]["lr"] = 0.005
            sgd.learning_rate = 0.005
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(theirs, torch.tensor(target[step]), reduction="sum").backward()
        optimizer.step()
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((ours.value - target[step]) ** 2)
        sgd.apply([tape.gradient(loss, ours.value)], [ours])
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=0, atol=1e-6)
    assert np.abs(ours.numpy() - start).max() > 0.1


@pytest.mark.parametrize("count", [2, 4, 8])
def test_n_virtual_batches_equal_one_big_batch(count):
    """Without batch normalization, whose statistics are those of the real batch."""
    x, y = data(64 * 3)
    big = classifier(SGD(0.1, weight_decay=1e-2), batch_norm=False)
    virtual = classifier(SGD(0.1, weight_decay=1e-2, virtual_batches=count), batch_norm=False)
    virtual.set_weights(big.get_weights())
    before = big.get_weights()
    big.fit(x, y, batch_size=64, epochs=3, shuffle=False, verbose=0)
    virtual.fit(x, y, batch_size=64 // count, epochs=3, shuffle=False, verbose=0)
    for a, b, start in zip(big.get_weights(), virtual.get_weights(), before, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
        assert np.abs(a - start).max() > 1e-3
    assert int(big.optimizer.iterations) == int(virtual.optimizer.iterations) == 9


def test_the_number_of_virtual_batches_changes_mid_fit_without_a_new_trace():
    x, y = data(8 * 12)
    traces = []

    def loss(labels, scores):
        traces.append(1)
        return keras.losses.sparse_categorical_crossentropy(labels, scores)

    changed = classifier(SGD(0.1), loss, batch_norm=False)
    start = changed.get_weights()

    traced = []

    def double(epoch, logs):
        changed.optimizer.virtual_batches = 2**epoch

    double_each_epoch = keras.callbacks.LambdaCallback(
        on_epoch_begin=double, on_epoch_end=lambda epoch, logs: traced.append(len(traces))
    )
    fit = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
    changed.fit(x, y, callbacks=[double_each_epoch], **fit)
    assert traced[0] == traced[1] == traced[2] > 0
    assert int(changed.optimizer.iterations) == 12 + 6 + 3

    by_hand = classifier(SGD(0.1), batch_norm=False)  # the same with real batches of 8, 16 and 32
    by_hand.set_weights(start)
    for batch_size in (8, 16, 32):
        by_hand.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0)
    for a, b in zip(changed.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_a_change_inside_a_virtual_batch_loses_and_overweighs_nothing():
    """Three gathered batches make one update by their mean as soon as two are enough."""
    weight = keras.Variable([0.0], name="kernel")
    sgd = SGD(1.0, momentum=0.0, virtual_batches=4)
    for gradient in (3.0, 6.0):
        sgd.apply([tf.constant([gradient])], [weight])
    sgd.virtual_batches = 2
    assert weight.numpy() == [0.0]
    sgd.apply([tf.constant([9.0])], [weight])
    assert weight.numpy() == [-6.0]
    assert int(sgd.iterations) == 1


def test_gathering_goes_on_across_epochs_and_iterations_count_updates():
    x, y = data(8 * 3)
    model = classifier(SGD(0.1, virtual_batches=2))
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    assert int(model.optimizer.iterations) == 1
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    assert int(model.optimizer.iterations) == 3


def test_a_learning_rate_schedule_is_a_function_of_updates():
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.1])  # 1.0 for update 0
    weight = keras.Variable([0.0], name="kernel")
    sgd = SGD(rate, momentum=0.0, virtual_batches=2)
    seen = []
    for _ in range(4):
        sgd.apply([tf.constant([1.0])], [weight])
        seen.append(round(float(weight.numpy()[0]), 6))
    assert seen == [0.0, -1.0, -1.0, -1.1]


@pytest.mark.parametrize("virtual_batches", [1, 3])  # 3: saved in the middle of a virtual batch
def test_a_loaded_model_trains_on_bit_for_bit(tmp_path, virtual_batches):
    x, y = data(8 * 8)
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model = classifier(SGD(0.1, weight_decay=1e-3, virtual_batches=virtual_batches))
    model.fit(x, y, **fit)
    model.save(tmp_path / "model.keras")
    model.fit(x, y, **fit)

    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is SGD
    assert loaded.optimizer.virtual_batches == virtual_batches
    loaded.fit(x, y, **fit)
    states = zip(
        [*model.get_weights(), *model.optimizer.variables],
        [*loaded.get_weights(), *loaded.optimizer.variables],
        strict=True,
    )
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in states)


def test_the_virtual_batches_of_the_moment_are_saved():
    sgd = SGD(0.1, virtual_batches=1)
    sgd.virtual_batches = 8
    assert SGD.from_config(sgd.get_config()).virtual_batches == 8
    assert keras.saving.get_registered_name(SGD) == "faq_keras>SGD"


def test_weight_decay_acts_on_every_parameter_as_in_pytorch():
    model = classifier(SGD(0.1, momentum=0.0, weight_decay=0.5))
    variables = model.trainable_variables
    for variable in variables:
        variable.assign(tf.ones(variable.shape))
    model.optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
    assert {v.name for v in variables} >= {"kernel", "bias", "gamma", "beta"}
    for variable in variables:
        np.testing.assert_allclose(variable.numpy(), 0.95, rtol=1e-6)


def test_excluded_parameters_do_not_decay_nor_after_loading():
    sgd = SGD(0.1, momentum=0.0, weight_decay=0.5)
    model = classifier(sgd)
    first, *_ = model.trainable_variables
    sgd.exclude_from_weight_decay(var_list=[first], var_names=["gamma", "beta"])
    for optimizer in (SGD.from_config(sgd.get_config()), sgd):
        variables = model.trainable_variables
        for variable in variables:
            variable.assign(tf.ones(variable.shape))
        optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
        for variable in variables:
            kept = variable is first or variable.name in ("gamma", "beta")
            np.testing.assert_allclose(variable.numpy(), 1.0 if kept else 0.95, rtol=1e-6)
    with pytest.raises(ValueError, match="only before the first update"):
        sgd.exclude_from_weight_decay(var_names=["bias"])


def test_a_parameter_without_gradient_is_named_and_left_alone():
    a, b = keras.Variable([1.0], name="used"), keras.Variable([1.0], name="unused")
    with pytest.warns(UserWarning, match="unused"):
        SGD(0.1, weight_decay=0.5).apply([tf.constant([1.0]), None], [a, b])
    assert b.numpy() == [1.0]
    with pytest.raises(ValueError, match="No gradients"):
        SGD(0.1).apply([None], [a])


def test_sparse_gradients_are_refused_by_name():
    table = keras.Variable(np.ones((5, 2), "float32"), name="table")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table.value, [1, 3]))
    with pytest.raises(ValueError, match=r"\['table'\] are sparse"):
        SGD(0.1).apply([tape.gradient(loss, table.value)], [table])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1e-4}, "weight_decay"),
        ({"virtual_batches": 0}, "virtual_batches"),
        ({"virtual_batches": 1.5}, "virtual_batches"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SGD(0.1, **arguments)
    if "virtual_batches" in arguments:
        with pytest.raises(ValueError, match=message):
            SGD(0.1).virtual_batches = arguments["virtual_batches"]


def test_it_works_under_mixed_precisions_loss_scaling():
    x, y = data(32)
    inner = SGD(0.1, virtual_batches=2)
    model = classifier(keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=2.0))
    before = model.get_weights()
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    assert int(inner.iterations) == 2
    assert any(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))
