"""Reading benchmark_model's output, of several versions of the tool."""

import pytest

from faq_keras.tflite.devices import benchmark_model
from tests.tflite.devices import transcripts


def test_times_percentiles_and_memory_are_read():
    assert benchmark_model.parse(transcripts.PLAIN) == {
        "init_us": 119515,
        "first_us": 87112,
        "warmup_us": 58147.4,
        "mean_us": 52743.2,
        "num_runs": 50,
        "min_us": 49088,
        "max_us": 86105,
        "median_us": 51891,
        "percentiles_us": {"p5": 49620, "p95": 68628},
        "peak_memory_bytes": 8912896,
    }


def test_an_old_tool_gives_no_median_and_no_percentiles():
    figures = benchmark_model.parse(transcripts.OLD)
    assert figures["mean_us"] == 8680.33 and figures["num_runs"] == 110
    assert (figures["min_us"], figures["max_us"]) == (7863, 10688)
    assert figures["peak_memory_bytes"] == 63.5 * 2**20
    assert "median_us" not in figures and "percentiles_us" not in figures


def test_a_single_run_is_its_own_median():
    figures = benchmark_model.parse(transcripts.ONE_RUN)
    assert figures["mean_us"] == 2990280 and figures["num_runs"] == 1
    assert figures["median_us"] == figures["min_us"] == figures["max_us"] == 2990275


def test_the_profile_lists_each_operator_once_in_run_order():
    ops = benchmark_model.parse(transcripts.PROFILE)["ops"]
    assert [(op.op, op.name) for op in ops] == [
        ("CONV_2D", "net/conv/Relu6"),
        ("DEPTHWISE_CONV_2D", "net/depthwise/Relu6"),
        ("SOFTMAX", "net/softmax"),
    ]
    assert [op.us for op in ops] == pytest.approx([60957, 49870, 233])


def test_a_delegates_own_operators_stand_in_its_place():
    ops = benchmark_model.parse(transcripts.DELEGATE_PROFILE)["ops"]
    assert [op.op for op in ops] == [
        "Convolution (NHWC, QC8)",
        "Add (ND, QS8)",
        "FULLY_CONNECTED",
    ]
    assert [op.us for op in ops] == pytest.approx([2900, 1200, 100])


@pytest.mark.parametrize("output", ["", "ERROR: Could not open 'm.tflite'.\n", "count=5 avg=3\n"])
def test_without_the_line_of_timings_there_are_no_figures(output):
    assert benchmark_model.parse(output) == {}
