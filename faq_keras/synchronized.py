"""Batch normalization over several devices: statistics of the whole batch, not of one's part.

With `tf.distribute` each replica sees a part of the batch. The statistics of the parts would train
another network than one device does, so the replicas put theirs together, in one exchange forward
(count, mean, variance) and one backward (the two sums that the gradient needs). The variance is
combined from deviations, never as `E[x^2] - E[x]^2`, which float32 does not carry. What is computed
per element is done by the fused kernels.

    y, mean, variance = batch_normalize(x, gamma, beta, epsilon=1e-3)      # in a replica's step
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

Triple = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def replicas() -> int:
    """How many replicas take part in the step that is being built; 1 outside of a replica."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def batch_normalize(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> Triple:
    """Normalizes with the statistics of all replicas' parts; parts may differ in size.

    Args:
        x: This replica's part, `[batch, height, width, channels]`, float32.
        gamma: `[channels]`.
        beta: `[channels]`.
        epsilon: Added to the variance.

    Returns:
        The normalized part; mean and (unbiased, as the fused kernel's) variance of the whole batch,
        which have no gradient.
    """

    @tf.custom_gradient
    def normalize(
        x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
    ) -> tuple[Triple, Callable[..., Triple]]:
        count, mean, variance = _statistics(x)

        def scaled(scale: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
            y, *_ = tf.compat.v1.nn.fused_batch_norm(
                x, scale, offset, mean, variance, epsilon, is_training=False
            )
            return y

        def gradient(dy: tf.Tensor, *_: tf.Tensor) -> Triple:
            direct, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.zeros([0]),
                epsilon=epsilon,
                is_training=False,
            )
            sums = _all_reduce(tf.stack([dgamma, dbeta])) / count
            factor = -gamma * tf.math.rsqrt(variance + epsilon)
            return direct + scaled(factor * sums[0], factor * sums[1]), dgamma, dbeta

        unbiased = variance * (count / tf.maximum(count - 1, 1))
        return (scaled(gamma, beta), mean, unbiased), gradient

    y, mean, variance = normalize(x, gamma, beta)
    return y, tf.stop_gradient(mean), tf.stop_gradient(variance)


def _statistics(x: tf.Tensor) -> Triple:
    """Count of values per channel, mean, and (biased) variance of all replicas' parts."""
    context = tf.distribute.get_replica_context()
    mean, variance = tf.nn.moments(x, [0, 1, 2])
    count = tf.fill(tf.shape(mean), tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype))
    own = tf.stack([count, mean, variance])
    own = tf.where(count > 0, own, tf.zeros_like(own))  # an empty part has no mean
    place = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync)
    # Every replica adds its row to a table of zeros: the sum holds all rows.
    table = _all_reduce(place[:, None, None] * own)
    counts, means, variances = tf.unstack(table, axis=1)
    total = tf.reduce_sum(counts, axis=0)
    mean = tf.reduce_sum(counts * means, axis=0) / total
    spread = variances + tf.math.squared_difference(means, mean)
    return total[0], mean, tf.reduce_sum(counts * spread, axis=0) / total


def _all_reduce(value: tf.Tensor) -> tf.Tensor:
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)
