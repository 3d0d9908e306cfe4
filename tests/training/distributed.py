"""What runs in processes of its own, since devices and workers are set up before TensorFlow starts.

    python -c "from tests.training import distributed; distributed.two_devices('/tmp/x')"

prints one JSON object of measured values, which `test_distribution` judges.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import faq_keras
from faq_keras.arithmetic import BatchNorm, batch_normalize
from faq_keras.training import distribution, experiment, loop
from faq_keras.training.experiment import compile_for
from faq_keras.training.interruption import Interrupted
from faq_keras.workers import WorkerLostError, team
from tests.training import runs

CONFIG = {"bits": 4, "data": {"source": "stripes"}}


def without_dropout(**fields):
    """The small experiment whose masks, other ones on each device, are switched off."""
    return runs.experiment(network=runs.layers_of_network, **fields)


def two_devices(folder):
    """Everything that two logical CPU devices are compared with one in."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    folder = Path(folder)
    strategy = distribution.strategy_named("mirrored")
    keras.utils.set_random_seed(1)
    network = runs.layers_of_network()
    quantized = calibrated(network)
    found = {"replicas": strategy.num_replicas_in_sync}
    for name, start in (("float", network), ("w4a4", quantized)):
        start.save(folder / "start.keras")
        one = trained(folder, tf.distribute.get_strategy())
        two = trained(folder, strategy)
        found[name] = {
            "losses": difference(one["losses"], two["losses"]),
            "weights": difference(one["weights"], two["weights"]),
            "validation": difference(one["validation"], two["validation"]),
            "updates": [one["updates"], two["updates"]],
            "learned": one["losses"][0] - one["losses"][-1],
        }
    resumed = trained(folder, strategy, stop=7)
    pairs = zip(two["weights"], resumed["weights"], strict=True)
    found["resumed"] = [a.tobytes() == b.tobytes() for a, b in pairs]
    with strategy.scope():
        mirrored = calibrated(keras.models.clone_model(network), network.get_weights())
        found["plans"] = [faq_keras.plan_of(q).to_json() for q in (quantized, mirrored)]
    found["fine_tune"] = fine_tuned(folder, strategy)
    found["unequal_parts"] = unequal_parts(strategy)
    print(json.dumps(found))


def difference(one, two):
    pairs = zip(one, two, strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def calibrated(network, weights=None):
    """The network with 4 bits, calibrated with 3 batches of 40 images: two chunks each."""
    if weights is not None:
        network.set_weights(weights)
    data = runs.pipeline(batch_size=40)
    return faq_keras.apply(network, 4, data.calibration(3), calibration_batches=3)


class Losses(keras.callbacks.Callback):
    """Notes the running loss after each batch; stops after a number of batches."""

    def __init__(self, stop):
        super().__init__()
        self.found, self.stop = [], stop

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(float(logs["loss"]))

    def on_train_batch_begin(self, batch, logs=None):
        if len(self.found) == self.stop:
            raise InterruptedError


def trained(folder, strategy, stop=None):
    """Losses, weights and validation of two epochs, the second one in virtual batches of two."""
    plan = without_dropout(bits=4, recipe=runs.course(learning_rate=0.05))
    losses = Losses(stop)
    folder = folder / f"run{len(list(folder.iterdir()))}"
    folder.mkdir()
    for resume in (False, True) if stop else (False,):
        with strategy.scope():
            model = keras.saving.load_model(folder.parent / "start.keras", compile=False)
            compile_for(model, plan, plan.recipe)
            callbacks = [losses, *plan.recipe.callbacks]
            trainer = loop.Loop(model, plan.data, plan.recipe, folder, 3, callbacks)
            try:
                history = trainer.run(resume).history
            except InterruptedError:
                losses.stop = None
    return {
        "losses": losses.found,
        "weights": model.get_weights(),
        "validation": history["val_loss"] + history["val_accuracy"],
        "updates": int(keras.ops.convert_to_numpy(model.optimizer.iterations)),
    }


def fine_tuned(folder, strategy):
    """How far `fine_tune`, Keras' own `fit`, comes out on two devices from one."""
    weights = []
    data = runs.pipeline().train(0)
    for each in (tf.distribute.get_strategy(), strategy):
        with each.scope():
            model = keras.saving.load_model(folder / "start.keras", compile=False)
            course = runs.course(epochs=1, virtual_batches=2)
            faq_keras.fine_tune(model, data, course, validation_data=data, verbose=0)
            weights.append(model.get_weights())
    return difference(*weights)


def unequal_parts(strategy):
    """Batch normalization and its gradients: 5 + 3 images on two devices, and 8 on one."""
    random = np.random.default_rng(0)
    x, dy = random.normal(3.0, 2.0, size=(2, 8, 3, 3, 4)).astype("float32")
    gamma, beta = random.normal(size=(2, 4)).astype("float32")

    def step(x, dy):
        parameters = tf.constant(gamma), tf.constant(beta)
        with tf.GradientTape() as tape:
            tape.watch([x, *parameters])
            y, mean, variance = batch_normalize(x, BatchNorm(*parameters, None, None, 1e-3))
        return (y, mean, variance), tape.gradient(y, [x, *parameters], dy)

    def part(values):
        pieces = values[:5], values[5:]
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(pieces[context.replica_id_in_sync_group])
        )

    (y, *statistics), (dx, *sums) = step(tf.constant(x), tf.constant(dy))
    results = tf.function(lambda *parts: strategy.run(step, args=parts))(part(x), part(dy))
    (y2, *statistics2), (dx2, *sums2) = keras.tree.map_structure(
        strategy.experimental_local_results, results
    )
    return max(
        difference([y, dx], [np.concatenate(y2), np.concatenate(dx2)]),
        difference(statistics, [pair[1] for pair in statistics2]),
        difference(sums, [sum(pair) for pair in sums2]),
    )


def worker(folder, pretraining, who, number):
    """One of the workers of TF_CONFIG; `who` of them gets a signal in the second epoch."""
    strategy = distribution.strategy_named("multi_worker")
    after_step = loop.Loop._after_step

    def disturbed(self, position, request):
        if team().worker == who and position == loop.Position(1, 5):
            os.kill(os.getpid(), number)
        after_step(self, position, request)

    loop.Loop._after_step = disturbed
    with strategy.scope():
        crew = team()
        keras.utils.set_random_seed(3)
        part = runs.striped_source(shard=(crew.worker, crew.workers))
        data = dataclasses.replace(runs.pipeline(), part=part, workers=crew.workers)
        try:
            report = experiment.run(workers_experiment(data, pretraining), folder, CONFIG, True)
        except WorkerLostError as error:
            sys.exit(f"worker {crew.worker}: {error}")
        except Interrupted as stop:
            print(stop, file=sys.stderr)
            sys.exit(128 + stop.signal)
    print(json.dumps(report))


def workers_experiment(data, pretraining):
    """Two epochs at 4 bits, behind two float ones or not."""
    return without_dropout(data=data, **({} if pretraining else {"pretraining": None}))
