"""Who takes part in a training: the workers (processes) and devices of a `tf.distribute` strategy.

Code that writes files or shares out work asks `team()`, inside `strategy.scope()` or not; without a
strategy it is a team of one, and everything below costs nothing:

    crew = team()
    fresh = crew.first(lambda: claim(folder))      # the chief does it, all get its answer
    table = crew.exchange([1.5, 2.0])              # float64 [workers, 2], everybody's values
    if crew.chief:
        write(table)

Every worker has to make the same calls in the same order: each of them waits for all the others. If
one of them is gone, `WorkerLostError` says so on the others (`crew.watched`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_FAILED = -1.0
# What the messages of collective operations say when a process at the other end is gone.
_LOST = re.compile(r"aborted by|unhealthy|[Cc]onnection (reset|refused)|[Ss]ocket closed|heartbeat")


class WorkerLostError(ValueError):
    """Another worker is gone, or could not go on."""


@dataclasses.dataclass(frozen=True)
class Team:
    """The workers of a strategy, seen from one of them.

    Attributes:
        strategy: The strategy; TensorFlow's default one if there is none.
        worker: Number of this worker; 0 is the chief, who writes the files.
        workers: Number of workers (processes).
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def chief(self) -> bool:
        """Whether this worker is the one that writes files."""
        return self.worker == 0

    @property
    def replicas(self) -> int:
        """Devices of all workers together."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def devices(self) -> tuple[str | None, ...]:
        """Names of this worker's devices; `(None,)` is wherever TensorFlow likes."""
        if self.replicas == self.workers:
            return (None,)
        return tuple(self.strategy.extended.worker_devices)

    def exchange(self, values: Sequence[float]) -> npt.NDArray[np.float64]:
        """The values of every worker, `[workers, number of values]`, in the workers' order."""
        if self.workers == 1:
            return np.array([values], np.float64)
        here = self.replicas // self.workers
        table = np.zeros((self.workers, len(values)))
        table[self.worker] = values

        def part(context: tf.distribute.ValueContext) -> tf.Tensor:
            first = context.replica_id_in_sync_group % here == 0
            return tf.constant(table if first else np.zeros_like(table))

        parts = self.strategy.experimental_distribute_values_from_function(part)
        return np.asarray(self.strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None))

    def first(self, action: Callable[[], object]) -> bool:
        """Lets the chief do something while the others wait.

        It runs outside of the strategy's scope, which is a thread's own: variables that Keras makes
        in passing while it saves a model would wait for the other workers to make theirs.

        Returns:
            Whether the action gave something true; the same for every worker.

        Raises:
            WorkerLostError: It failed, on the workers that are not the chief; there, its own error.
        """
        if self.workers == 1:
            return bool(action())
        answer = 0.0
        if self.chief:
            try:
                with ThreadPoolExecutor(1) as elsewhere:
                    answer = float(bool(elsewhere.submit(action).result()))
            except BaseException:
                self.exchange([_FAILED])
                raise
        answer = float(self.exchange([answer])[0, 0])
        if answer == _FAILED:
            raise WorkerLostError("Worker 0, the chief, could not go on; its own message says why.")
        return bool(answer)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turns TensorFlow's error about a worker that is gone into a readable one.

        Raises:
            WorkerLostError: A worker is gone.
        """
        try:
            yield
        except tf.errors.OpError as error:
            lines = [line.strip() for line in error.message.splitlines()]
            telling = [line for line in lines if _LOST.search(line)]
            if self.workers == 1 or not telling:
                raise
            raise WorkerLostError(
                f"Another worker is gone, and a step needs all {self.workers} (this is worker "
                f"{self.worker}). The run goes on from its last checkpoint when every worker is "
                f"started again with --resume. TensorFlow says: {telling[0][-300:]}"
            ) from error


def team(strategy: tf.distribute.Strategy | None = None) -> Team:
    """The team of a strategy; None: of the one in whose scope this is called."""
    strategy = strategy or tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return Team(strategy)
    resolver = strategy.cluster_resolver
    return Team(strategy, *place(resolver.cluster_spec(), resolver.task_type, resolver.task_id))


def place(cluster: tf.train.ClusterSpec, task: str, index: int) -> tuple[int, int]:
    """The number of a task in its cluster, the chief first, and the number of tasks."""
    jobs = sorted(cluster.jobs)  # "chief" before "worker"
    before = sum(cluster.num_tasks(job) for job in jobs if job < task)
    return before + index, sum(cluster.num_tasks(job) for job in jobs)
