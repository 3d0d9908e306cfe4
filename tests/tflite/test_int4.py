import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from faq_keras.tflite import int4


@given(hnp.arrays(np.int8, hnp.array_shapes(max_dims=4, min_side=0), elements=st.integers(-8, 7)))
def test_unpacking_gives_back_what_was_packed(codes):
    packed = int4.pack(codes)
    assert packed.size == (codes.size + 1) // 2
    np.testing.assert_array_equal(int4.unpack(packed, codes.size), codes.ravel())


def test_even_indices_are_low_nibbles_and_an_odd_last_one_is_padded_with_zero():
    np.testing.assert_array_equal(int4.pack(np.array([1, -2, 7])), np.array([0xE1, 0x07], np.uint8))


@pytest.mark.parametrize("code", [-9, 8, 127])
def test_codes_that_need_more_bits_are_refused(code):
    with pytest.raises(ValueError, match="do not fit four bits"):
        int4.pack(np.array([0, code]))


def test_a_wrong_number_of_bytes_is_refused():
    with pytest.raises(ValueError, match="take 3 bytes, not 2"):
        int4.unpack(np.zeros(2, np.uint8), 5)
