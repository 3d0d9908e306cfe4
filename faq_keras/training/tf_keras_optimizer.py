"""`training.optimizer.SGD` for tf_keras models: the same rule on Keras 2's optimizer class.

q = faq_keras.apply(tf_keras_model, bits=4, calibration_data=x)
q.compile(faq_keras.recipe("w4a4", epochs=4).optimizer_for(q), loss)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from faq_keras.training.optimizer import check_arguments, check_count, check_dense, moved


@tf_keras.saving.register_keras_serializable("faq_keras")
class SGD(tf_keras.optimizers.Optimizer):
    """PyTorch's SGD with virtual batches (see `training.optimizer.SGD` for both).

    Attributes:
        momentum: Share of the velocity that is kept, in [0, 1).
        weight_decay: L2 coefficient, >= 0.
        exclude_names: Parameters whose name contains one of these strings do not decay.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        virtual_batches: int = 1,
        exclude_names: Sequence[str] = (),
        name: str = "SGD",
    ) -> None:
        check_arguments(momentum, weight_decay)
        super().__init__(name, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.momentum = float(momentum)
        self.weight_decay = float(weight_decay)
        self.exclude_names = list(exclude_names)
        self._virtual_batches = self._counter(check_count(virtual_batches), "virtual_batches")
        self._gathered = self._counter(0, "gathered_batches")

    def _counter(self, value: int, name: str) -> tf.Variable:
        start = tf_keras.initializers.Constant(value)
        return self.add_variable((), tf.int32, start, name)

    @property
    def virtual_batches(self) -> int:
        """Number of real batches whose mean gradient makes one update; may be set at any time."""
        return int(self._virtual_batches.numpy())

    @virtual_batches.setter
    def virtual_batches(self, count: int) -> None:
        self._virtual_batches.assign(check_count(count))

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Makes a velocity and a gradient accumulator for each variable."""
        if getattr(self, "_built", False):
            return
        super().build(var_list)
        new = self.add_variable_from_reference
        self._velocities = [new(variable, "velocity") for variable in var_list]
        self._gradient_sums = [new(variable, "gradient_sum") for variable in var_list]
        self._built = True

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Moves a parameter by the mean of the gathered gradients and this one."""
        index = self._index_dict[self._var_key(variable)]
        velocity, gradient_sum = self._velocities[index], self._gradient_sums[index]
        decays = not any(part in variable.name for part in self.exclude_names)
        mean = (gradient_sum + gradient) / tf.cast(self._gathered + 1, variable.dtype)
        decay = self.weight_decay if decays else 0.0
        velocity.assign(moved(velocity, mean, variable, self.momentum, decay))
        variable.assign_sub(tf.cast(self.learning_rate, variable.dtype) * velocity)
        gradient_sum.assign(tf.zeros_like(gradient_sum))

    def _distributed_apply_gradients_fn(
        self, distribution: Any, grads_and_vars: Sequence[tuple[Any, Any]], **kwargs: Any
    ) -> tf.Variable:
        """Updates the parameters, or only gathers; `iterations` counts updates."""
        gradients, variables = zip(*grads_and_vars, strict=True)
        check_dense(gradients, variables)
        full = self._gathered + 1 >= self._virtual_batches
        whole_update = super()._distributed_apply_gradients_fn

        def gather_one(variable: tf.Variable, gradient: tf.Tensor) -> None:
            self._gradient_sums[self._index_dict[self._var_key(variable)]].assign_add(gradient)

        def gather() -> tf.Tensor:
            for gradient, variable in grads_and_vars:
                distribution.extended.update(variable, gather_one, args=(gradient,), group=False)
            return self._gathered.assign_add(1).read_value()

        def update() -> tf.Tensor:
            whole_update(distribution, grads_and_vars, **kwargs)
            return self._gathered.assign(0).read_value()

        tf.cond(full, update, gather)
        return self.iterations

    def _apply_weight_decay(self, variables: Sequence[tf.Variable]) -> None:
        """Nothing: Keras' decay beside the momentum is not wanted, `update_step` decays."""

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, with the present number of virtual batches."""
        return {
            "name": self.name,
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "virtual_batches": self.virtual_batches,
            "exclude_names": list(self.exclude_names),
        }
