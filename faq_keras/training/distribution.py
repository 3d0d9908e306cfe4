"""Training on several devices or machines: the strategy, and steps and validation on its replicas.

Inside a strategy's scope everything trains on it; there is no other switch:

    with strategy_named("mirrored").scope():           # or any tf.distribute strategy
        faq_keras.fine_tune(q, data, "w4a4")
        experiment.run(...)                            # what `faq train --distribution` does

`fine_tune` is Keras' own `fit`, which takes several devices but not several workers (Keras 3.15
makes tensors of what is spread over them). The `Loop` asks `steps_of(model)` for its steps: Keras'
functions on one device, on several those written out here, after each of which all workers know
whether one of them was told to stop. The batches of a configuration are those of all
devices together; batch normalization sees them whole (`faq_keras.synchronized`).
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from faq_keras.compat import keras_of
from faq_keras.training.interruption import StopRequest
from faq_keras.workers import place, team

NAMES = ("none", "mirrored", "multi_worker", "tpu")
_TF_CONFIG = (
    'TF_CONFIG=\'{"cluster": {"worker": ["HOST0:PORT", "HOST1:PORT"]}, '
    '"task": {"type": "worker", "index": 0}}\', with an index of its own on each worker'
)


def strategy_named(name: str) -> tf.distribute.Strategy:
    """The strategy of `--distribution`; make it before anything is computed.

    Args:
        name: "none"; "mirrored": all GPUs of this machine (without any: all logical CPU devices);
            "multi_worker": the workers that the environment variable TF_CONFIG names.

    Raises:
        ValueError: There is no such strategy here, and why.
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return _mirrored()
    if name == "multi_worker":
        cluster_from_environment()
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        raise ValueError(
            "--distribution=tpu is refused: the layers need float64 and exact float32 sums to be "
            "what the integer file computes, TPUs multiply in bfloat16, and nobody has measured "
            "what remains of it. Train on GPUs (mirrored, multi_worker)."
        )
    raise ValueError(f"--distribution={name} does not exist; there are {', '.join(NAMES)}.")


def _mirrored() -> tf.distribute.Strategy:
    for kind in ("GPU", "CPU"):
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        if len(devices) > 1:
            # The collective operations that TensorFlow would take on CPUs cost more than adding.
            add = tf.distribute.ReductionToOneDevice() if kind == "CPU" else None
            return tf.distribute.MirroredStrategy(devices, cross_device_ops=add)
        if devices:
            break
    raise ValueError(
        f"--distribution=mirrored shares a batch among several devices, but this machine has only "
        f"{', '.join(devices)}. Leave it out."
    )


def cluster_from_environment() -> tuple[int, int]:
    """`(worker, workers)` of TF_CONFIG; connects to nobody.

    Raises:
        ValueError: It is missing, or does not describe at least two workers.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise ValueError(
            f"--distribution=multi_worker needs the environment variable TF_CONFIG: {_TF_CONFIG}."
        )
    try:
        config = json.loads(text)
        cluster = tf.train.ClusterSpec(config["cluster"])
        task, index = str(config["task"]["type"]), int(config["task"]["index"])
        cluster.task_address(task, index)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"TF_CONFIG does not describe a cluster and a task of it ({error}). Expected: "
            f"{_TF_CONFIG}."
        ) from error
    worker, workers = place(cluster, task, index)
    if workers < 2 or not set(cluster.jobs) <= {"chief", "worker"}:
        kinds = ", ".join(sorted(cluster.jobs))
        raise ValueError(
            f"TF_CONFIG names {workers} task(s) of the kinds {kinds}; training needs two or more "
            f"of the kinds chief and worker. Expected: {_TF_CONFIG}."
        )
    return worker, workers


def check_batch_size(batch_size: int, devices: int) -> None:
    """Checks that every device gets an equal part.

    Raises:
        ValueError: It would not.
    """
    if batch_size % devices:
        raise ValueError(
            f"A batch of {batch_size} images cannot be shared equally among {devices} "
            "devices. Set batch_size to a multiple of their number."
        )


def synchronize(model: Any) -> None:
    """Makes Keras' own batch normalizations use the statistics of the whole batch, too.

    It is Keras' `synchronized=True`, which is saved with the model and changes nothing where there
    is one device.
    """
    if model.distribute_strategy.num_replicas_in_sync > 1:
        for layer in model._flatten_layers():
            if isinstance(layer, keras_of(layer).layers.BatchNormalization):
                layer.synchronized = True


class Steps(Protocol):
    """What the loop needs of the devices."""

    def build(self, batch: tuple[Any, Any]) -> None:
        """Makes the variables of the metrics and the optimizer."""

    def batches(self, data: Iterable[Any]) -> Iterator[Any]:
        """An iterator to take steps with."""

    def step(self, iterator: Iterator[Any], request: StopRequest) -> Mapping[str, Any]:
        """Takes the next batch and a step; the logs."""

    def evaluate(self, data: Iterable[Any], request: StopRequest) -> dict[str, float]:
        """The metrics on the data; something else if the request asks to stop."""

    def asked(self, request: StopRequest) -> int:
        """The signal that all workers stop for now, or 0."""


def steps_of(model: keras.Model) -> Steps:
    """The steps of a compiled model on the devices that it was made for."""
    several = model.distribute_strategy.num_replicas_in_sync > 1
    return _Replicas(model) if several else _OneDevice(model)


def evaluated(model: keras.Model, data: Iterable[Any]) -> dict[str, float]:
    """The metrics of a compiled model on batches, on all of its devices."""
    return steps_of(model).evaluate(data, StopRequest())


class _OneDevice:
    """Keras' own functions."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def build(self, batch: tuple[Any, Any]) -> None:
        images, labels = batch
        self._model.test_on_batch(images[:1], labels[:1])
        self._model.optimizer.build(self._model.trainable_variables)
        self._model.make_train_function()

    def batches(self, data: Iterable[Any]) -> Iterator[Any]:
        return iter(data)

    def step(self, iterator: Iterator[Any], request: StopRequest) -> Mapping[str, Any]:
        logs: Mapping[str, Any] = self._model.train_function(iterator)
        return logs

    def evaluate(self, data: Iterable[Any], request: StopRequest) -> dict[str, float]:
        values = self._model.evaluate(
            data, verbose=0, return_dict=True, callbacks=[_StopEvaluation(request)]
        )
        return {key: float(value) for key, value in values.items()}

    def asked(self, request: StopRequest) -> int:
        return request.signal


class _StopEvaluation(keras.callbacks.Callback):
    """Ends a validation when a signal asks to stop; it is done again after the resume."""

    def __init__(self, request: StopRequest) -> None:
        super().__init__()
        self._request = request

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Looks for a signal."""
        if self._request.signal:
            self.model.stop_evaluating = True


class _Replicas:
    """The same on the replicas of a strategy, in step with the other workers."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._strategy = model.distribute_strategy
        self._team = team(self._strategy)
        self._here = self._team.replicas // self._team.workers
        self._asked = 0
        self._names: list[str] = []
        self._train = tf.function(self._train_step, reduce_retracing=True)
        self._test = tf.function(self._test_step, reduce_retracing=True)

    def build(self, batch: tuple[Any, Any]) -> None:
        self._test(self._shared_out(batch))
        self._model.optimizer.build(self._model.trainable_variables)

    def batches(self, data: Iterable[Any]) -> Iterator[Any]:
        assert isinstance(data, tf.data.Dataset)
        size = data.element_spec[0].shape[0] // self._here
        parts = data.rebatch(size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
        if self._team.workers > 1:  # else TensorFlow asks all workers in every step if there is one
            parts = parts.repeat()
        return iter(self._strategy.distribute_datasets_from_function(lambda context: parts))

    def step(self, iterator: Iterator[Any], request: StopRequest) -> Mapping[str, Any]:
        own = request.signal
        *logs, asked = self._train(iterator, tf.constant(float(own))).numpy()
        self._asked = own or (signal.SIGTERM if asked else 0)
        return dict(zip(self._names, logs, strict=True))

    def _train_step(self, iterator: Iterator[Any], asked: tf.Tensor) -> tf.Tensor:
        """The means of the logs over the replicas, and (not 0) whether a worker is to stop."""

        def step(batch: Any) -> tf.Tensor:
            logs = self._model.train_step(batch)
            self._names = list(logs)
            return tf.stack([*(tf.cast(value, tf.float32) for value in logs.values()), asked])

        results = self._strategy.run(step, args=(next(iterator),))
        return self._strategy.reduce(tf.distribute.ReduceOp.MEAN, results, axis=None)

    def evaluate(self, data: Iterable[Any], request: StopRequest) -> dict[str, float]:
        self._model.reset_metrics()
        for batch in data:  # no worker waits for the others here: their parts may differ in length
            self._test(self._shared_out(batch))
            if request.signal:
                break
        own = request.signal
        self._asked = own or (signal.SIGTERM if self._team.exchange([own]).any() else 0)
        return {key: float(value) for key, value in self._model.get_metrics_result().items()}

    def _shared_out(self, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        """This worker's batch in parts, one for each of its replicas; some may be empty."""
        cuts = np.linspace(0, len(batch[0]), self._here + 1).astype(int)

        def part(values: tf.Tensor, context: tf.distribute.ValueContext) -> tf.Tensor:
            place = context.replica_id_in_sync_group % self._here
            return values[cuts[place] : cuts[place + 1]]

        share = self._strategy.experimental_distribute_values_from_function
        images, labels = (share(lambda context, v=v: part(v, context)) for v in batch)
        return images, labels

    def _test_step(self, batch: tuple[Any, Any]) -> None:
        """Keras' test step, but for parts without images, whose mean loss is no number."""
        model = self._model

        def step(images: tf.Tensor, labels: tf.Tensor) -> None:
            scores = model(images, training=False)
            loss = model.compute_loss(images, labels, scores, training=False)
            loss *= self._team.replicas  # Keras divides by it
            count = tf.shape(images)[0]
            loss = tf.where(count > 0, loss, tf.zeros_like(loss))
            model._loss_tracker.update_state(loss, sample_weight=count)
            model.compute_metrics(images, labels, scores)

        self._strategy.run(step, args=batch)

    def asked(self, request: StopRequest) -> int:
        return self._asked
