"""The walk through a quantized network: every layer is corrected on what those before it give.

The activations of the images lie on the disk. A layer is corrected, then computed batch by batch;
what it read is deleted when no later layer needs it:

    results, comparisons = Walk(network, store, measured, images=256, batch_size=32).run(options)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from faq_keras.post_training.correction import Inputs, Options, Solution, constant_of, correct
from faq_keras.post_training.journal import Journal
from faq_keras.post_training.network import Network, Step
from faq_keras.post_training.result import LayerResult
from faq_keras.post_training.store import ActivationStore
from faq_keras.post_training.teacher import (
    Comparison,
    Measured,
    Noise,
    batches,
    output_key,
    sampled,
)


@dataclasses.dataclass(eq=False)
class Walk:
    """One walk.

    Attributes:
        network: The quantized network; its layers are changed.
        store: Holds the images and the teacher's outputs.
        measured: The teacher's statistics.
        images: How many images there are.
        batch_size: Images per batch.
        journal: Where finished layers are noted, or None.
        advance: Called after each step with its name.
    """

    network: Network
    store: ActivationStore
    measured: Measured
    images: int
    batch_size: int
    journal: Journal | None = None
    advance: Callable[[str], None] = lambda _: None

    def run(self, options: Options) -> tuple[list[LayerResult], list[Comparison]]:
        """Corrects all layers.

        Returns:
            What was done to each quantized layer, and how the outputs agree afterwards.
        """
        left = self.network.readers()
        results: list[LayerResult] = []
        comparisons = [Comparison(flag) for flag in self.network.classifiers]
        for number, step in enumerate(self.network.steps):
            solution = None
            if step.is_folded:
                solution = self._solution(number, step, options)
            if not step.is_input:
                judges = [
                    comparison
                    for output, comparison in zip(self.network.outputs, comparisons, strict=True)
                    if output == number
                ]
                noise = self._compute(number, step, left[number] > 0, judges)
                if step.is_quantized:
                    results.append(self._result(step, solution, noise))
                self.advance(step.name)
            for source in set(step.inputs):
                left[source] -= 1
                if not left[source]:
                    self.store.drop(self._key(source))
        return results, comparisons

    def _key(self, number: int) -> Any:
        step = self.network.steps[number]
        return step.name if step.is_input else number

    def _solution(self, number: int, step: Step, options: Options) -> Solution:
        if self.journal is not None:
            shapes = {"kernel": tuple(step.layer.kernel.shape)} if step.has_kernel else {}
            constant = constant_of(step.layer)
            if constant is not None:
                shapes["constant"] = tuple(constant.shape)
            known = self.journal.load(number, step.name, shapes)
            if known is not None:
                known.apply(step.layer)
                return known
        solution = correct(step, self._inputs(step), self.measured[step.name], options)
        if self.journal is not None:
            self.journal.save(number, step.name, solution)
        return solution

    def _inputs(self, step: Step) -> Inputs:
        (source,) = step.inputs

        def read() -> Iterator[tuple[int, npt.NDArray[Any]]]:
            for start, stop in batches(self.images, self.batch_size):
                yield start, self.store.read(self._key(source), start, stop)

        return read

    def _compute(self, number: int, step: Step, keep: bool, judges: list[Comparison]) -> Noise:
        """Computes a layer's output, stores it if a later layer reads it, and judges it."""
        noise = Noise()
        compute = step.frozen()
        for start, stop in batches(self.images, self.batch_size):
            value = compute([self._value(source, start, stop) for source in step.inputs])
            if step.is_quantized:
                known = self.measured[step.name]
                found = sampled(value, known.positions[start:stop])
                noise.add(known.sample[start:stop], found.numpy())
            for judge in judges:
                exact = self.store.read(output_key(number), start, stop)
                judge.add(exact, np.asarray(value))
            if keep:
                self.store.append(number, to_codes(step, value))
        return noise

    def _value(self, source: int, start: int, stop: int) -> tf.Tensor:
        """Some images' values of a step."""
        step = self.network.steps[source]
        stored = tf.constant(self.store.read(self._key(source), start, stop))
        return stored if step.grid is None else tf.cast(stored, tf.float32) * step.grid.step

    def _result(self, step: Step, solution: Solution | None, noise: Noise) -> LayerResult:
        plan = step.layer.plan
        return LayerResult(
            name=step.name,
            kind=plan.kind,
            bits=None if plan.kernel is None else plan.kernel.bits,
            output_bits=plan.output.bits,
            noise_before=self.measured[step.name].noise.sqnr,
            noise_after=noise.sqnr,
            rounded=solution is not None and solution.kernel is not None,
            means=solution is not None and solution.constant is not None,
            skipped=None if solution is None else solution.skipped,
        )


def to_codes(step: Step, value: Any) -> npt.NDArray[Any]:
    """A step's values as the integers that they are on its grid.

    Raises:
        ValueError: A value is none of them.
    """
    if step.grid is None:
        return np.asarray(value)
    scaled = tf.convert_to_tensor(value) * (1.0 / step.grid.step)
    codes = tf.cast(scaled, step.dtype)
    if not bool(tf.reduce_all(tf.cast(codes, tf.float32) == scaled)):
        raise ValueError(
            f"Layer '{step.name}' gives values that are no multiples of its step of "
            f"2^{step.grid.exponent}: what stands for it on the device has to give codes."
        )
    return codes.numpy()
