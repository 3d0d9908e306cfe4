"""The table of devices, and what all results have in common."""

import json

import pytest

from faq_keras.tflite import devices
from faq_keras.tflite.devices import DEVICES, BenchmarkResult, OpTime, Options, chart, measurement
from faq_keras.tflite.devices.measurement import TimedResult, statistics


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("local", "local", ""),
        ("adb", "adb", ""),
        ("adb:emulator-5554", "adb", "emulator-5554"),
        ("adb:192.168.1.7:5555", "adb", "192.168.1.7:5555"),
        ("ssh:pi@raspberry", "ssh", "pi@raspberry"),
    ],
)
def test_a_name_is_a_device_and_a_target(name, kind, target):
    device, found = devices.find(name)
    assert (device.name, found) == (kind, target)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("phone", r"Unknown device 'phone'; expected one of local, .*tflm, .*ssh:HOST"),
        ("", "Unknown device ''"),
        ("ssh", "'ssh' needs a target: ssh:HOST"),
        ("ssh:", "is written ssh:HOST"),
        ("local:x", "is written local"),
        ("adb:", r"is written adb\[:SERIAL\]"),
        ("ssh:-oProxyCommand=x", "looks like an option"),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        devices.find(name)


def test_every_device_takes_only_options_that_exist():
    names = set(Options.__dataclass_fields__) - {"target"}
    for device in DEVICES.values():
        assert device.takes <= names and device.summary and device.usage.startswith(device.name)


@pytest.mark.parametrize(
    ("name", "options", "culprit"),
    [
        ("tflm", Options(num_threads=2), "num_threads=2"),
        ("tflm", Options(profile=True), "profile=True"),
        ("vela", Options(num_runs=7), "num_runs=7"),
        ("coral", Options(profile=True), "profile=True"),
        ("ssh:pi", Options(profile=True), "profile=True"),
        ("local", Options(vela_config="ethos-u65-256"), "vela_config=ethos-u65-256"),
        ("local", Options(benchmark_model="x"), "benchmark_model=x"),
    ],
)
def test_an_option_that_a_device_cannot_honour_is_refused(files, name, options, culprit):
    with pytest.raises(ValueError, match=f"cannot honour {culprit}; leave it out"):
        devices.measure(files["int8"], name, options)


@pytest.mark.parametrize("name", ["local", "aarch64", "tflm", "vela", "adb", "ssh:pi", "coral"])
def test_a_missing_file_is_named_before_anything_else(name):
    with pytest.raises(ValueError, match=r"Cannot read the TFLite file 'none.tflite'"):
        devices.measure("none.tflite", name)


@pytest.mark.parametrize("name", ["num_threads", "num_runs", "warmup_runs", "batch"])
def test_counts_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        Options(**{name: 0})


def estimate(**facts):
    return BenchmarkResult("m.tflite", 1000, "vela", "ethos", **facts)


def test_unknown_figures_are_null_in_json_and_absent_for_people():
    result = estimate(cycles=2000, inferences_per_second=500.0, sram_bytes=77)
    facts = json.loads(result.to_json())
    assert facts["mean_us"] is None and facts["arena_bytes"] is None and facts["ops"] is None
    assert facts["cycles"] == 2000 and facts["sram_bytes"] == 77
    assert set(facts) == set(BenchmarkResult.__dataclass_fields__) - {"runs_us"}
    shown = "\n".join([str(result), *result.details()])
    assert "2,000 cycles" in shown and "SRAM: 77 bytes" in shown
    assert "None" not in shown and "arena" not in shown and "Inference timings" not in shown


def test_the_time_to_compare_by_is_the_median_else_the_mean_else_the_estimate():
    timed = TimedResult("m", 1, init_us=0.0, first_us=0.0, warmup_us=0.0, **statistics([1, 2, 9]))
    assert timed.representative_us == 2
    assert BenchmarkResult("m", 1, mean_us=4.0).representative_us == 4
    assert estimate(inferences_per_second=500.0).representative_us == 2000
    assert estimate().representative_us is None


def test_the_costliest_operators_come_first_and_the_rest_is_summed_up():
    ops = [OpTime("CONV_2D", f"conv{n}", us=float(n)) for n in range(1, 21)]
    lines = measurement.op_lines(ops)
    assert lines[0] == "Per operator (20, sum 210.0 us):"
    assert lines[1].split() == ["20.0", "us", "9.5%", "CONV_2D", "conv20"]
    assert lines[-1].split() == ["15.0", "us", "7.1%", "5", "others"]


def result(path, median, device="local"):
    return TimedResult(path, 5000, device, **statistics([median] * 3))


def test_a_comparison_has_ratios_to_the_first():
    rows = chart.rows([result("a/x.tflite", 100.0), result("a/y.tflite", 150.0), estimate()])
    assert [row[0] for row in rows] == ["x.tflite", "y.tflite", "m.tflite"]
    assert [row[2:4] for row in rows] == [("100.0", "1.000"), ("150.0", "1.500"), ("", "")]


def test_files_of_one_name_are_told_apart_by_their_folders():
    rows = chart.rows([result("a/m.tflite", 1.0), result("b/m.tflite", 2.0)])
    assert [row[0] for row in rows] == ["a/m.tflite", "b/m.tflite"]


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_a_chart_is_a_picture_of_the_kind_that_its_suffix_says(tmp_path, suffix, start):
    path = tmp_path / f"chart.{suffix}"
    chart.bar_chart([result("m.tflite", 100.0), result("n.tflite", 150.0), estimate()], path)
    assert path.read_bytes().startswith(start)


def test_a_chart_names_every_result_that_has_a_time(tmp_path):
    path = tmp_path / "chart.svg"
    results = [result("m.tflite", 1234.0), result("n.tflite", 5678.0, "ssh:pi"), estimate()]
    chart.bar_chart(results, path)
    text = path.read_text()
    for word in ("m.tflite", "n.tflite", "ssh:pi", "1.234", "5.678", "5,000"):
        assert word in text
    assert "vela" not in text


def test_charts_of_nothing_and_other_suffixes_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="None of the devices tells a time"):
        chart.bar_chart([estimate()], tmp_path / "c.svg")
    with pytest.raises(ValueError, match=r"c\.txt is no picture"):
        chart.bar_chart([result("m", 1.0)], tmp_path / "c.txt")
    assert not list(tmp_path.iterdir())
