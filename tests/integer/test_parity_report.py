"""What a report says, word for word, and what counting finds."""

import json

import numpy as np
import pytest

from faq_keras.integer.parity_report import (
    Mismatch,
    ParityError,
    ParityReport,
    RuntimeRun,
    TensorResult,
    counted,
)

SAMPLES = (Mismatch("a", (3, 1), 5, 4), Mismatch("a", (4, 0), -1, 0))
RIGHT = TensorResult("x", "pad", 2000)
WRONG = TensorResult("a", "add", 3000, 1200, 7, "xnnpack", SAMPLES)
LATER = TensorResult("b", "conv_2d", 10, 2, 1, "integer reference", (Mismatch("b", (0,), 1, 2),))
WRONG_TEXT = (
    "op 'a' (add): 1,200 of 3,000 values differ by up to 7 "
    "(first in the xnnpack: [3, 1] expected 5 got 4, [4, 0] expected -1 got 0)"
)
LATER_TEXT = (
    "op 'b' (conv_2d): 2 of 10 values differ by up to 1 "
    "(first in the integer reference: [0] expected 1 got 2)"
)


def run(*results, name="xnnpack", **options):
    return RuntimeRun(name, 1000, results, (), {"numpy": "2.4", "litert": "2.3"}, **options)


def test_a_report_without_mismatches_is_its_own_check():
    report = ParityReport("m.tflite", (run(RIGHT, RIGHT), run(RIGHT, name="tflm")))
    assert report.check() is report
    assert str(report) == (
        "m.tflite: 0 mismatches of 6,000 values\n"
        "  xnnpack: 0 mismatches of 4,000 values (2 tensors, 1,000 images; numpy 2.4, litert 2.3)\n"
        "  tflm: 0 mismatches of 2,000 values (1 tensors, 1,000 images; numpy 2.4, litert 2.3)"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "2.3)"),
        ({"top1": 0.90625}, "2.3); top-1 90.62 %"),
        ({"top1": 0.5, "expected_top1": 0.75}, "2.3); top-1 50.00 %, Keras 75.00 %"),
        ({"expected_top1": 0.75}, "2.3)"),
    ],
)
def test_accuracies_follow_where_labels_were_given(options, expected):
    assert str(run(RIGHT, **options)).endswith(expected)


def test_a_report_lists_the_tensors_that_differ():
    report = ParityReport("m.tflite", (run(RIGHT, WRONG, LATER),))
    assert report.mismatches == 1202 and report.values == 5010
    assert report.runs[0].first_mismatch == SAMPLES[0]
    assert str(report).splitlines()[2:] == [f"    {WRONG_TEXT}", f"    {LATER_TEXT}"]


@pytest.mark.parametrize(
    ("results", "problem"),
    [
        ((WRONG,), f"on xnnpack, {WRONG_TEXT}"),
        ((RIGHT, WRONG, LATER), f"on xnnpack, {WRONG_TEXT}; 1 later tensors differ too"),
        ((WRONG, LATER, LATER), f"on xnnpack, {WRONG_TEXT}; 2 later tensors differ too"),
    ],
)
def test_the_error_names_the_first_op_that_differs(results, problem):
    report = ParityReport("m.tflite", (run(*results),))
    with pytest.raises(ParityError) as error:
        report.check()
    assert str(error.value) == (
        f"'m.tflite' does not equal its model ({report.mismatches:,} mismatches of "
        f"{report.values:,} values): {problem}. Do not deploy it: export the model again with the "
        "installed versions, and report this if it persists."
    )


def test_the_error_names_every_runtime_that_differs():
    report = ParityReport("m", (run(WRONG), run(RIGHT, name="tflm"), run(LATER, name="builtin")))
    with pytest.raises(ParityError) as error:
        report.check()
    assert f": on xnnpack, {WRONG_TEXT}. And on builtin, {LATER_TEXT}. Do not" in str(error.value)


def test_json_has_the_totals_and_all_of_the_runs():
    report = ParityReport("m.tflite", (run(RIGHT, WRONG, top1=0.5),))
    found = json.loads(report.to_json())
    assert {key: found[key] for key in ("path", "mismatches", "values")} == {
        "path": "m.tflite",
        "mismatches": 1200,
        "values": 5000,
    }
    (only,) = found["runs"]
    assert only["versions"] == {"numpy": "2.4", "litert": "2.3"}
    assert (only["tensors"], only["values"], only["mismatches"]) == (2, 5000, 1200)
    assert only["first_mismatch"] == ["a", [3, 1], 5, 4]
    assert (only["runtime"], only["images"], only["top1"]) == ("xnnpack", 1000, 0.5)
    assert only["results"][1]["samples"][1] == ["a", [4, 0], -1, 0]
    assert report.to_json().startswith('{\n "path"')


def test_counting_adds_up_over_chunks_and_parties():
    want = np.int8([[1, 2, 3], [4, 5, 6]])
    result = counted(TensorResult("a", "add"), want, {"reference": want, "xnnpack": want}, 0)
    assert result == TensorResult("a", "add", 6)
    one, other = want.copy(), want.copy()
    one[1, 2], other[0, 0] = 9, -128
    result = counted(result, want, {"reference": one, "xnnpack": other}, 10)
    sample = Mismatch("a", (11, 2), 6, 9)
    assert result == TensorResult("a", "add", 12, 2, 129, "reference", (sample,))
    again = counted(result, want, {"reference": want, "xnnpack": other}, 20)
    assert again == TensorResult("a", "add", 18, 3, 129, "reference", (sample,))


def test_five_samples_are_kept():
    want = np.zeros((2, 4), np.int16)
    result = counted(TensorResult("a", "add"), want, {"xnnpack": want + 3}, 5)
    assert [sample.index for sample in result.samples] == [(5, n) for n in range(4)] + [(6, 0)]
    assert (result.mismatches, result.largest_difference, result.by) == (8, 3, "xnnpack")
