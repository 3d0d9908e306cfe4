import json
import re

import numpy as np
import pytest

from faq_keras.tflite import inspect
from faq_keras.tflite.benchmark import BenchmarkResult, benchmark


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_rows_show_ops_shapes_bits_scales_and_bytes(files, program, weights):
    rows = inspect.rows(files[weights])
    assert [row.name for row in rows] == [*program.inputs, *program.activations()]
    by_op = {row.op: row for row in rows}
    conv = next(row for row in rows if row.name == "conv_2d_5")
    assert conv.op == "CONV_2D+relu" and conv.shape == (-1, 8, 8, 8)
    assert (conv.bits, conv.scale, conv.zero_point) == (4, "2^-1", 112)
    assert conv.weight_shape == (8, 3, 3, 8) and conv.weight_bits == 4
    assert conv.weight_bytes == 576 // (1 if weights == "int8" else 2) + 32
    assert by_op["MAX_POOL_2D"].bits == 4  # hands on the codes of the convolution before it
    assert by_op["ADD+relu"].bits == 4 and by_op["CONV_2D"].bits == 8
    assert by_op["FULLY_CONNECTED"].bits == 16 and by_op["FULLY_CONNECTED"].dtype == "int16"


def test_the_table_has_a_line_per_op_totals_and_metadata(files, program):
    table = inspect.table(files["int4"])
    lines = table.splitlines()
    assert len(lines) == 1 + 1 + len(program.ops) + 1 + 2
    assert f"{files['int4'].stat().st_size:,} bytes" in table
    assert "plan_hash: 0123456789abcdef" in lines
    assert re.search(
        r"CONV_2D\+relu +conv_2d_5 +Nx8x8x8 +int8 +4 +2\^-1 +112 +8x3x3x8 +4 +320", table
    )


@pytest.mark.parametrize(
    ("scales", "text"),
    [([], ""), ([0.25], "2^-2"), ([1.0], "2^0"), ([0.3], "0.3"), ([0.5, 2.0, 1.0], "2^-1 .. 2^1")],
)
def test_scales_are_powers_of_two_where_they_are(scales, text):
    assert inspect.scale_text(scales) == text


def test_foreign_files_can_be_inspected_run_and_measured(data_dir):
    for path in sorted((data_dir / "mlperf-tiny").glob("*.tflite")):
        rows = inspect.rows(path)
        assert rows[0].op == "INPUT" and len(rows) == 17
        assert benchmark(path, num_runs=2, warmup_runs=1).mean_us > 0
    assert {row.dtype for row in rows} == {"int8"}


def test_benchmarks_speak_the_format_of_benchmark_model(files):
    result = benchmark(files["int4"], num_runs=20, warmup_runs=2)
    number = r"\d+(\.\d+)?(e\+\d+)?"
    assert re.fullmatch(
        rf"Inference timings in us: Init: {number}, First inference: {number}, "
        rf"Warmup \(avg\): {number}, Inference \(avg\): {number}",
        str(result),
    )
    assert len(result.runs_us) == 20 and min(result.runs_us) > 0
    assert result.file_bytes == files["int4"].stat().st_size
    data = json.loads(result.to_json())
    assert data["num_runs"] == 20 and data["median_us"] == result.median_us


def test_percentiles_are_those_of_the_runs():
    runs = tuple(float(n) for n in range(1, 102))
    result = BenchmarkResult("m", 1, "xnnpack", 1, 1, 0.0, 0.0, 0.0, runs)
    assert result.median_us == result.percentiles_us["p50"] == 51
    assert result.percentiles_us["p95"] == np.percentile(runs, 95)


@pytest.mark.parametrize("argument", ["num_runs", "warmup_runs", "batch"])
def test_counts_must_be_positive(files, argument):
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, not 0"):
        benchmark(files["int8"], **{argument: 0})
