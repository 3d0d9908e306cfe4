"""This machine: times, memory of a fresh process, each operator alone."""

import numpy as np
import pytest

from faq_keras.tflite import devices, loader, model_file, writer
from faq_keras.tflite.devices import Options, single_ops
from tests.integer.programs import small_resnet


@pytest.mark.parametrize("num_threads", [1, 2])
def test_times_are_those_of_the_runs(files, num_threads):
    options = Options(num_threads=num_threads, num_runs=20, warmup_runs=3)
    result = devices.measure(files["int4"], options=options)
    assert (result.device, result.num_threads) == ("local", num_threads)
    assert len(result.runs_us) == result.num_runs == 20
    assert result.mean_us == pytest.approx(sum(result.runs_us) / 20)
    assert result.min_us <= result.median_us <= result.max_us
    assert result.peak_memory_bytes is None and result.ops is None and result.arena_bytes is None


def test_memory_is_that_of_a_process_that_holds_the_file(tmp_path_factory):
    """A network with 40 times the weights takes at least that much more."""
    folder = tmp_path_factory.mktemp("memory")
    peaks, sizes = [], []
    for channels in (8, 256):
        path = folder / f"{channels}.tflite"
        writer.write(small_resnet(channels=channels)[1], path)
        result = devices.measure(path, options=Options(num_runs=1, memory=True))
        peaks.append(result.peak_memory_bytes)
        sizes.append(path.stat().st_size)
    assert sizes[1] - sizes[0] > 2_000_000
    assert peaks[1] - peaks[0] > sizes[1] - sizes[0]
    assert peaks[1] < 100 * 2**20  # TensorFlow, which this package imports, is not in it


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_profile_times_every_operator_of_the_file(files, program, weights):
    result = devices.measure(files[weights], options=Options(num_runs=3, profile=True))
    file = loader.unpacked(model_file.read(files[weights]))
    assert tuple(op.op for op in result.ops) == file.operators
    assert [op.name for op in result.ops] == list(program.activations())
    assert min(op.us for op in result.ops) > 0
    lines = result.details()
    assert any(line.startswith("Per operator (") for line in lines)
    assert any("timed alone" in line for line in lines)


def test_each_operator_alone_computes_what_it_does_in_the_network(files, feed):
    """The models that are timed are the network's operators, constants and all."""
    file = model_file.read(files["int8"])
    values = dict(feed) | loader.Runner(file, "xnnpack", 1).tensors(feed)
    singles = list(single_ops.cut(file))
    assert len(singles) == len(file.graph.operators)
    for single, op in zip(singles, file.graph.operators, strict=True):
        names = [file.graph.tensors[int(i)].name.decode() for i in op.inputs]
        arrays = [values[name] for name in names if name in values]
        inputs = {f"input_{number}": array for number, array in enumerate(arrays)}
        got = loader.Runner(single.file, "xnnpack", 1).run_int8(inputs)
        np.testing.assert_array_equal(got, values[single.name], err_msg=single.name)


def test_a_runtime_without_memory_accounts_says_so(files, monkeypatch):
    monkeypatch.setattr(devices.local, "peak_memory", lambda *_: None)
    result = devices.measure(files["int8"], options=Options(num_runs=1, memory=True))
    assert result.peak_memory_bytes is None
    assert any("Peak memory is unknown" in note for note in result.notes)


def test_a_memory_process_that_dies_is_an_error(files, monkeypatch, tmp_path):
    script = tmp_path / "dies.py"
    script.write_text("raise SystemExit('out of memory')")
    monkeypatch.setattr(devices.local.memory, "__file__", str(script))
    with pytest.raises(ValueError, match="ended with status 1: out of memory"):
        devices.measure(files["int8"], options=Options(num_runs=1, memory=True))


@pytest.mark.parametrize("num_runs", [3, 10, 27])
def test_files_that_are_compared_take_turns(files, monkeypatch, num_runs):
    """Blocks of runs alternate, and every file gets exactly the runs that were asked for."""
    order = []
    take = devices.local.repeated

    def recorded(run, count):
        order.append((run.__self__, count))
        return take(run, count)

    monkeypatch.setattr(devices.local, "repeated", recorded)
    paths = [files["int8"], files["int4"], files["int8"]]
    options = Options(num_runs=num_runs, warmup_runs=1)
    results = list(devices.measure_all(paths, options=options))
    assert [result.path for result in results] == [str(path) for path in paths]
    assert [result.num_runs for result in results] == [num_runs] * 3
    turns = order[3:]  # behind the warm-up of each
    assert len(turns) == 3 * min(10, num_runs)
    sessions = [session for session, _ in turns]
    assert len(set(sessions[:3])) == 3 and sessions == sessions[:3] * (len(turns) // 3)
