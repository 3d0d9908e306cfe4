"""Two 4-bit codes in one byte, as TFLite's INT4 tensors: the even index is the low nibble.

>>> pack(np.array([1, -2, 7], np.int8))
array([225,   7], dtype=uint8)                  # 0xe1: 1 is low, -2 (0xe) is high
>>> unpack(np.array([225, 7], np.uint8), 3)
array([ 1, -2,  7], dtype=int8)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LOWEST, HIGHEST = -8, 7

# Both codes of every byte: a table is faster than shifting, and files are unpacked at every load.
_NIBBLES = np.arange(256, dtype=np.uint8)[:, None] >> np.array([0, 4], np.uint8) & 15
_PAIRS = ((_NIBBLES ^ 8).astype(np.int8) - 8).astype(np.int8).view(np.uint16).ravel()


def pack(codes: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Packs codes of any shape in C order; an odd last one is followed by a zero nibble.

    Args:
        codes: Integers from -8 to 7.

    Returns:
        Bytes `[ceil(size / 2)]`.

    Raises:
        ValueError: If a code needs more than four bits.
    """
    flat = np.asarray(codes).ravel()
    if flat.size and (flat.min() < LOWEST or flat.max() > HIGHEST):
        raise ValueError(
            f"Codes from {flat.min()} to {flat.max()} do not fit four bits "
            f"({LOWEST} to {HIGHEST}). Write this tensor as int8."
        )
    nibbles = np.zeros(flat.size + flat.size % 2, np.uint8)
    nibbles[: flat.size] = flat.astype(np.int8).view(np.uint8) & 15
    return np.bitwise_or(nibbles[0::2], np.left_shift(nibbles[1::2], 4), dtype=np.uint8)


def unpack(packed: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.int8]:
    """The inverse of `pack`.

    Args:
        packed: Bytes `[ceil(size / 2)]`.
        size: How many codes there are.

    Raises:
        ValueError: If the number of bytes does not fit `size`.
    """
    if packed.size != (size + 1) // 2:
        needed = (size + 1) // 2
        raise ValueError(f"{size} packed 4-bit codes take {needed} bytes, not {packed.size}.")
    return _PAIRS.take(packed).view(np.int8)[:size]
