"""Arm's compiler for Ethos-U, the real one."""

import subprocess
import sys

import pytest

from faq_keras.tflite import devices, writer
from faq_keras.tflite.devices import Options, vela
from tests.integer.programs import Builder, signed, small_resnet, unsigned


def eight_bit_logits(path):
    b = Builder(0)
    x = b.conv(b.input((8, 8, 3)), 4, out=unsigned(4, -1))
    x = b.global_pool(x, unsigned(8, -7))
    writer.write(b.build(b.dense(x, 3, out=signed(-3))), path)
    return path


@pytest.mark.parametrize("config", ["ethos-u55-128", "ethos-u65-256"])
def test_an_exported_network_compiles_fully_to_the_npu(files, config):
    result = devices.measure(files["int8"], "vela", Options(vela_config=config))
    assert result.cpu_ops == () and result.accelerator_ops > 10
    assert result.cycles > 0 and result.inferences_per_second > 0
    assert result.sram_bytes > 0 and result.compiled_bytes > 0
    assert result.flash_bytes + result.dram_bytes > 0
    assert result.mean_us is None and result.runs_us == ()
    assert config in result.runtime and any("nothing was run" in note for note in result.notes)


def test_ethos_u85_takes_eight_bit_logits_and_crashes_on_sixteen(files, tmp_path):
    options = Options(vela_config="ethos-u85-256")
    result = devices.measure(eight_bit_logits(tmp_path / "m.tflite"), "vela", options)
    assert result.cpu_ops == () and result.cycles > 0
    with pytest.raises(ValueError, match=r"was killed by SIG.*logits_bits=8"):
        devices.measure(files["int8"], "vela", options)


def test_packed_files_are_unpacked_first_and_that_is_said(files):
    packed, plain = (devices.measure(files[w], "vela") for w in ("int4", "int8"))
    assert packed.file_bytes < plain.file_bytes
    assert (packed.cycles, packed.flash_bytes) == (plain.cycles, plain.flash_bytes)
    assert any("was unpacked to int8 first" in note for note in packed.notes)
    assert not any("unpacked" in note for note in plain.notes)


def test_four_bit_codes_compress_better_than_eight_bit_ones(tmp_path):
    """Vela finds the narrow codes inside of int8."""
    flash = {}
    for bits in (4, 8):
        path = tmp_path / f"{bits}.tflite"
        writer.write(small_resnet(bits=bits, channels=64)[1], path)
        flash[bits] = devices.measure(path, "vela").flash_bytes
    assert flash[4] < 0.75 * flash[8]


def test_a_profile_adds_up_the_cycles_of_the_operators(files):
    result = devices.measure(files["int8"], "vela", Options(profile=True))
    assert {"conv_2d_3", "add_7", "fully_connected_17"} <= {op.name for op in result.ops}
    assert all(op.us is None and op.cycles > 0 for op in result.ops)
    assert sum(op.cycles for op in result.ops) == pytest.approx(result.cycles, rel=0.1)


def test_a_float_network_stays_on_the_cpu_and_gets_no_estimate(data_dir):
    path = data_dir / "mlperf-tiny" / "pretrainedResnet.tflite"
    result = devices.measure(path, "vela")
    assert len(result.cpu_ops) == 16 and result.accelerator_ops == 0
    assert result.cycles is None and result.inferences_per_second is None
    assert any("No operator of this file runs on the NPU" in note for note in result.notes)


def test_an_unknown_configuration_lists_the_known_ones(files):
    with pytest.raises(ValueError, match=r"'ethos-u99'; expected one of ethos-u55-32, .*u85-2048"):
        devices.measure(files["int8"], "vela", Options(vela_config="ethos-u99"))


def test_the_configurations_are_those_of_the_installed_vela():
    command = [sys.executable, "-m", "ethosu.vela", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    listed = text.split("--accelerator-config {", 1)[1].split("}", 1)[0]
    assert sorted(name.strip() for name in listed.split(",")) == sorted(vela.CONFIGS)


def test_a_missing_package_says_how_to_get_it(files, monkeypatch):
    find = devices.vela.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "ethosu" else find(name)
    )
    with pytest.raises(ValueError, match=r"pip install 'faq_keras\[edge\]'"):
        devices.measure(files["int8"], "vela")
