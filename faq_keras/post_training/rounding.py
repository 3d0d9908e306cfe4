"""Second-order rounding of kernels: closed form, no gradients (GPTQ/OBQ: Frantar et al. 2022).

Rounding every weight to the nearest code makes the smallest error in the weights, not in what the
layer computes. Here the weights are rounded one input after the other, and those that are still
free move to make up for the error, as far as the layer's inputs are correlated:

    gram = Gram(groups=1, depth=9 * 64)
    gram.add(rows)                                    # input codes [rows, 9, 64]
    codes = round_kernel(kernel / step, gram.matrix, bits=4)

With `H` the Gram matrix of the inputs, the error of a layer is `(W - Q)' H (W - Q)` per output.
`U` is upper triangular with `U' U = inv(H)`; it comes out of one Cholesky factorization of `H` with
reversed indices and the inverse of a triangular matrix, both at the speed of matrix products.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.linalg import lapack

from faq_keras.fixed_point import code_range

DAMPING = 0.01  # of the mean of the diagonal
_BLOCK = 128  # inputs whose errors are passed on to the later ones in one matrix product
_EXACT_FLOAT32 = 2**24
_CHUNK = 2**23  # numbers that are converted at a time

Matrix = npt.NDArray[np.floating]


class Gram:
    """Sums of products of a layer's inputs, exact: they are integers.

    So neither the order of batches nor the number of threads changes a bit.

    Args:
        groups: Groups of a convolution; a depthwise one has a group per channel.
        depth: Inputs of one output: kernel height * kernel width * channels per group.
    """

    def __init__(self, groups: int, depth: int) -> None:
        self.sums = np.zeros((groups, depth, depth))
        self.rows = 0

    def add(self, rows: npt.NDArray[np.integer]) -> None:
        """Takes in rows `[rows, places, channels]` of codes (`rows.gather_rows`)."""
        groups, depth, _ = self.sums.shape
        count, places, channels = rows.shape
        size = max(1, _CHUNK // (places * channels))
        largest = int(np.abs(rows.astype(np.int32)).max(initial=0))
        exact = largest**2 * min(size, count) <= _EXACT_FLOAT32
        dtype = np.float32 if exact else np.float64
        for start in range(0, count, size):
            part = rows[start : start + size].reshape(-1, places, groups, channels // groups)
            matrices = part.transpose(2, 0, 1, 3).astype(dtype).reshape(groups, -1, depth)
            for total, matrix in zip(self.sums, matrices, strict=True):
                total += np.dot(matrix.T, matrix)
        self.rows += count

    @property
    def matrix(self) -> Matrix:
        """`[groups, depth, depth]`: the mean over the rows."""
        return self.sums / max(1, self.rows)


def round_kernel(weights: Matrix, gram: Matrix, bits: int) -> Matrix:
    """The codes of a kernel.

    Args:
        weights: `[groups, depth, outputs]`, in code steps.
        gram: `[groups, depth, depth]`.
        bits: Of the codes.

    Returns:
        Codes `[groups, depth, outputs]`; an output whose error would be larger than that of the
        nearest codes has these.
    """
    _, highest = code_range(bits, signed=True)
    pairs = zip(weights, gram, strict=True)
    return np.stack([_round_group(matrix, inputs, highest) for matrix, inputs in pairs])


def nearest(weights: Matrix, highest: int) -> Matrix:
    """The nearest codes, halves to even."""
    return np.clip(np.rint(weights), -highest, highest)


def quadratic_error(weights: Matrix, codes: Matrix, gram: Matrix) -> Matrix:
    """The mean squared error of each output, `[outputs]`, of `[depth, outputs]` weights."""
    error = weights - codes
    return np.einsum("do,do->o", error, gram @ error)


def _round_group(weights: Matrix, gram: Matrix, highest: int) -> Matrix:
    plain = nearest(weights, highest)
    mean = float(np.mean(np.diag(gram)))
    if mean <= 0:  # nothing but zeros came in
        return plain
    order = np.argsort(-np.diag(gram), kind="stable")
    upper = _inverse_root(gram[np.ix_(order, order)], DAMPING * mean)
    codes = np.empty_like(weights)
    codes[order] = _sequential(weights[order], upper, highest)
    better = quadratic_error(weights, codes, gram) < quadratic_error(weights, plain, gram)
    return np.where(better, codes, plain)


def _inverse_root(gram: Matrix, damping: float) -> Matrix:
    """The upper triangular `U` with `U' U = inv(gram + damping)`."""
    flipped = np.asfortranarray(gram[::-1, ::-1])
    flipped[np.diag_indices_from(flipped)] += damping
    lower = linalg.cholesky(flipped, lower=True, overwrite_a=True, check_finite=False)
    inverse, info = lapack.dtrtri(lower, lower=1, overwrite_c=1)
    if info:
        raise FloatingPointError(f"A triangular matrix is singular (dtrtri: {info}).")
    return np.ascontiguousarray(inverse[::-1, ::-1])


def _sequential(weights: Matrix, upper: Matrix, highest: int) -> Matrix:
    """Rounds input after input; the rest of a block at once, later blocks by a matrix product."""
    free, codes = weights.copy(), np.empty_like(weights)
    for start in range(0, len(free), _BLOCK):
        end = min(start + _BLOCK, len(free))
        errors = np.empty((end - start, free.shape[1]))
        for j in range(start, end):
            codes[j] = nearest(free[j], highest)
            errors[j - start] = (free[j] - codes[j]) / upper[j, j]
            free[j + 1 : end] -= upper[j, j + 1 : end, None] * errors[j - start]
        free[end:] -= upper[start:end, end:].T @ errors
    return codes
