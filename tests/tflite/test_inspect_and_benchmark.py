import json
import re
import shutil
import stat
import sys

import numpy as np
import pytest

from faq_keras.tflite import inspect, model_file, picture, writer
from faq_keras.tflite.benchmark import benchmark
from faq_keras.tflite.devices.measurement import TimedResult, statistics
from tests.integer.programs import Builder


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
    assert len(lines) == 1 + 1 + len(program.ops) + 1 + 1 + 2
    total = sum(row.weight_bytes for row in inspect.rows(files["int4"]))
    assert re.fullmatch(rf"total +{total:,}", lines[2 + len(program.ops)])
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
    result = TimedResult("m", 1, **statistics(runs))
    assert result.median_us == result.percentiles_us["p50"] == 51
    assert result.percentiles_us["p95"] == np.percentile(runs, 95)


@pytest.mark.parametrize("argument", ["num_runs", "warmup_runs", "batch"])
def test_counts_must_be_positive(files, argument):
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, not 0"):
        benchmark(files["int8"], **{argument: 0})


def test_the_picture_has_a_box_per_operator_and_an_arrow_per_tensor_that_is_read(files, program):
    source = picture.dot_source(model_file.read(files["int4"]))
    boxes = re.findall(r"^\t(op\d+) \[label=", source, re.MULTILINE)
    assert len(boxes) == len(program.ops)
    label = r"CONV_2D+relu\nconv_2d_5\nNx8x8x8, int8, 4 bits, step 2^-1\n"
    assert label + r"kernel 8x3x3x8, 4 bits, 320 bytes" in source
    made = {name for op in program.ops for name in op.outputs} | set(program.inputs)
    read = [name for op in program.ops for name in op.inputs if name in made]
    assert source.count(" -> ") == len(read) + len(program.outputs)
    add = next(n for n, op in enumerate(program.ops) if op.kind == "add")
    assert len(re.findall(rf"^\top\d+ -> op{add}$", source, re.MULTILINE)) == 2


def test_names_cannot_break_out_of_their_box(tmp_path):
    b = Builder(0)
    x = b.input((4, 4, 3), name='say "hi"\\n<b>')
    source = picture.dot_source(model_file.from_bytes(writer.to_bytes(b.build(b.conv(x, 2)))))
    assert r"say \"hi\"\\n<b>" in source
    assert source.count("\n\tinput0 [label=") == 1


def test_a_dot_file_needs_no_graphviz(files, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = model_file.read(files["int8"])
    picture.draw(file, tmp_path / "net.dot")
    assert (tmp_path / "net.dot").read_text() == picture.dot_source(file)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_without_graphviz_the_way_out_is_named_and_nothing_is_left(
    files, tmp_path, monkeypatch, suffix
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"'dot', which is not on PATH.* write a \.dot file"):
        picture.draw(model_file.read(files["int8"]), tmp_path / f"net.{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's program 'dot' is not on PATH")
@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_graphviz_draws_the_network(files, tmp_path, suffix, start):
    path = tmp_path / f"net.{suffix}"
    picture.draw(model_file.read(files["int4"]), path)
    assert path.read_bytes().startswith(start)
    assert suffix == "png" or path.read_text().count('class="node"') == 17


def fake_dot(folder, monkeypatch, body):
    path = folder / "bin" / "dot"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(path.parent))


def test_graphviz_gets_the_source_and_its_output_is_the_file(files, tmp_path, monkeypatch):
    fake_dot(tmp_path, monkeypatch, "print(sys.argv[1:], sys.stdin.read())")
    file = model_file.read(files["int8"])
    picture.draw(file, tmp_path / "net.svg")
    text = (tmp_path / "net.svg").read_text()
    assert "-Tsvg" in text and picture.dot_source(file) in text


def test_graphviz_that_fails_is_an_error_and_leaves_nothing(files, tmp_path, monkeypatch):
    fake_dot(tmp_path, monkeypatch, "sys.exit('out of colours')")
    with pytest.raises(ValueError, match=r"Graphviz cannot draw .*out of colours"):
        picture.draw(model_file.read(files["int8"]), tmp_path / "net.png")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_a_picture_of_another_kind_is_refused(files, tmp_path):
    with pytest.raises(ValueError, match=r"net\.gif is no picture: write \.svg, \.png, \.dot"):
        picture.draw(model_file.read(files["int8"]), tmp_path / "net.gif")


def test_foreign_files_can_be_drawn(data_dir):
    for path in sorted((data_dir / "mlperf-tiny").glob("*.tflite")):
        source = picture.dot_source(model_file.read(path))
        assert len(re.findall(r"^\top\d+ \[label=", source, re.MULTILINE)) == 16
