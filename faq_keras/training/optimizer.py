"""SGD as the paper's experiments ran it: PyTorch's rule, and virtual batches that may grow mid-fit.

Two things differ from `keras.optimizers.SGD`. Weight decay is L2 regularisation *inside* the
momentum (Keras subtracts `lr * decay * w` beside it, which drifts away within tens of steps), and
the gradient of `n` real batches can be averaged before each update (paper, section 4.4, footnote 6)
with `n` in a variable, so that a schedule changes it without a new trace and it is saved with the
model:

    optimizer = SGD(0.0015, momentum=0.9, weight_decay=0.5e-4)
    model.compile(optimizer, loss="sparse_categorical_crossentropy", jit_compile=False)
    model.fit(first_half, epochs=55)
    optimizer.virtual_batches = 2          # from here on two batches make one update
    model.fit(second_half, initial_epoch=55, epochs=150)
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable("faq_keras")
class SGD(keras.optimizers.Optimizer):
    """Stochastic gradient descent with momentum, equal to `torch.optim.SGD` step by step.

    For parameter `w`, the mean gradient `g` of the gathered batches, and velocity `v` (zero at
    first)::

        v = momentum * v + (g + weight_decay * w)
        w = w - learning_rate * v

    The decay acts on every trainable parameter, biases and batch norm's gamma and beta too, as
    PyTorch's does by default; `exclude_from_weight_decay` takes parameters out.

    `virtual_batches = n` gathers the gradients of `n` batches and updates once with their mean.
    Whenever it is changed, the batches gathered so far keep their weight: the next update comes as
    soon as at least `n` are gathered, and divides by the number there is. Gathering goes on across
    epochs, and is part of the saved state. `iterations` counts *updates*, so a
    `LearningRateSchedule` is a function of updates, not of batches; the recipes here set the rate
    once per epoch by a callback instead.

    Parameters without a gradient are left alone, as in PyTorch, and Keras warns of them by name;
    sparse gradients (embeddings) are refused, because momentum and decay move the whole tensor.

    Attributes:
        momentum: Share of the velocity that is kept, in [0, 1).
        weight_decay: L2 coefficient, >= 0.
        exclude_names: Parameters whose name contains one of these strings do not decay.
        exclude_paths: Parameters with exactly these paths do not decay.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        virtual_batches: int = 1,
        exclude_names: Sequence[str] = (),
        exclude_paths: Sequence[str] = (),
        loss_scale_factor: float | None = None,
        name: str = "SGD",
    ) -> None:
        if isinstance(learning_rate, numbers.Real):
            learning_rate = float(learning_rate)
        check_arguments(momentum, weight_decay)
        super().__init__(learning_rate, loss_scale_factor=loss_scale_factor, name=name)
        self.momentum = float(momentum)
        self.weight_decay = float(weight_decay)
        self.exclude_names = list(exclude_names)
        self.exclude_paths = list(exclude_paths)
        self._virtual_batches = self._counter(check_count(virtual_batches), "virtual_batches")
        self._gathered = self._counter(0, "gathered_batches")

    def _counter(self, value: int, name: str) -> keras.Variable:
        start = keras.initializers.Constant(value)
        return self.add_variable((), start, "int32", aggregation="only_first_replica", name=name)

    @property
    def virtual_batches(self) -> int:
        """Number of real batches whose mean gradient makes one update; may be set at any time."""
        return int(ops.convert_to_numpy(self._virtual_batches))

    @virtual_batches.setter
    def virtual_batches(self, count: int) -> None:
        self._virtual_batches.assign(check_count(count))

    def exclude_from_weight_decay(
        self,
        var_list: Iterable[keras.Variable] | None = None,
        var_names: Iterable[str] | None = None,
    ) -> None:
        """Takes parameters out of the weight decay; unlike Keras' own, saved with the optimizer.

        Args:
            var_list: Parameters to exclude.
            var_names: Exclude every parameter whose name contains one of these strings, for
                example `["bias", "gamma", "beta"]`.

        Raises:
            ValueError: The optimizer has made its variables already (training has begun).
        """
        if self.built:
            raise ValueError(
                "SGD: parameters can be excluded from the weight decay only before the first "
                "update. Make a new optimizer and compile the model with it."
            )
        self.exclude_names += list(var_names or ())
        self.exclude_paths += [variable.path for variable in var_list or ()]

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes a velocity and a gradient accumulator for each variable."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")
        self._gradient_sums = self.add_optimizer_variables(variables, "gradient_sum")
        self._decays = [self.weight_decay * self._is_decayed(variable) for variable in variables]

    def _is_decayed(self, variable: keras.Variable) -> bool:
        named = any(part in variable.name for part in self.exclude_names)
        return not named and variable.path not in self.exclude_paths

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Moves a parameter by the mean of the gathered gradients and this one."""
        index = self._get_variable_index(variable)
        velocity, gradient_sum = self._velocities[index], self._gradient_sums[index]
        gathered, _ = self._gather()
        total = gradient_sum + ops.cast(gradient, variable.dtype)
        mean = total / ops.cast(gathered, variable.dtype)
        new = moved(velocity, mean, variable, self.momentum, self._decays[index])
        self.assign(velocity, new)
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * new)
        self.assign(gradient_sum, ops.zeros_like(total))

    def _gather(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The number of batches gathered with this one, and whether they make an update."""
        gathered = self._gathered + 1
        return gathered, ops.greater_equal(gathered, self._virtual_batches)

    def _distributed_tf_update_step(
        self,
        distribution: tf.distribute.Strategy,
        grads_and_vars: Sequence[tuple[tf.Tensor, tf.Variable]],
        learning_rate: tf.Tensor,
    ) -> None:
        """Updates the parameters, or only gathers, by the count of this moment.

        Keras calls this in cross-replica context, where a branch may hold distributed updates; one
        further out would not work under `tf.distribute`.
        """
        whole_update = super()._distributed_tf_update_step

        def gather_one(variable: tf.Variable, gradient: tf.Tensor) -> None:
            gradient_sum = self._gradient_sums[self._get_variable_index(variable)]
            self.assign_add(gradient_sum, gradient)

        def gather() -> None:
            for gradient, variable in grads_and_vars:
                distribution.extended.update(variable, gather_one, args=(gradient,), group=False)

        def update() -> None:
            whole_update(distribution, grads_and_vars, learning_rate)

        _, full = self._gather()
        tf.cond(full, update, gather)

    def _backend_apply_gradients(
        self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable]
    ) -> None:
        check_dense(grads, trainable_variables)
        super()._backend_apply_gradients(grads, trainable_variables)
        gathered, full = self._gather()
        # `apply` counts this batch as an iteration afterwards; only an update is one.
        self._iterations.assign_sub(ops.cast(ops.logical_not(full), self._iterations.dtype))
        self._gathered.assign(ops.where(full, ops.zeros_like(gathered), gathered))

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Nothing: Keras' decay beside the momentum is not wanted, `update_step` decays."""

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, with the present number of virtual batches."""
        base = super().get_config()
        return {
            **{key: base[key] for key in ("learning_rate", "loss_scale_factor", "name")},
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "virtual_batches": self.virtual_batches,
            "exclude_names": list(self.exclude_names),
            "exclude_paths": list(self.exclude_paths),
        }


def moved(velocity: Any, gradient: Any, variable: Any, momentum: float, decay: float) -> Any:
    """The new velocity: PyTorch's rule, with the weight decay inside the momentum."""
    descent = gradient + decay * variable if decay else gradient
    return momentum * velocity + descent


def check_arguments(momentum: float, weight_decay: float) -> None:
    """Raises a ValueError that names the argument of `SGD` that is out of range."""
    if not 0 <= momentum < 1:
        raise ValueError(f"SGD: momentum has to lie in [0, 1). Received: {momentum!r}.")
    if weight_decay < 0:
        raise ValueError(f"SGD: weight_decay has to be >= 0. Received: {weight_decay!r}.")


def check_dense(gradients: Sequence[Any], variables: Sequence[Any]) -> None:
    """Raises a ValueError that names the variables with sparse gradients."""
    sparse = [
        getattr(variable, "path", variable.name)
        for gradient, variable in zip(gradients, variables, strict=True)
        if isinstance(gradient, tf.IndexedSlices)
    ]
    if sparse:
        raise ValueError(
            f"SGD: the gradients of {sparse} are sparse, but momentum and weight decay move "
            "whole tensors. Freeze these layers or train them with keras.optimizers.SGD."
        )


def check_count(count: Any) -> int:
    """A number of virtual batches as an int; a ValueError if it is none."""
    if int(count) != count or count < 1:
        raise ValueError(f"virtual_batches has to be a whole number >= 1. Received: {count!r}.")
    return int(count)
