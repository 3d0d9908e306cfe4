"""Import, conversion and export need nothing that only POSIX has, nor links in the clone."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

ROOT = Path(__file__).resolve().parents[1]
_HIDDEN = ("resource", "fcntl", "pwd", "grp", "termios", "pty", "syslog")
_WHOLE = """
import sys
for name in {hidden!r}:
    sys.modules[name] = None          # an import of it fails, as on other systems
sys.path.insert(0, sys.argv[1])
import numpy as np
import faq_keras
from faq_keras.converters import parity
from faq_keras.training.workdir import locked
model = faq_keras.converters.from_onnx(sys.argv[2] + "/m.onnx")
x = np.random.default_rng(0).normal(size=(8, 6, 6, 3)).astype(np.float32)
original = parity.onnx_runner(sys.argv[2] + "/m.onnx")
report = parity.compare(model, {{"onnxruntime": original}}, x, 0.1)
report.require()
print(report)
q = faq_keras.apply(model, 8, calibration_data=x)
assert faq_keras.export_tflite(q, sys.argv[2] + "/m.tflite", verify=x).mismatches == 0
assert faq_keras.export_onnx(q, sys.argv[2] + "/q.onnx", verify=x).mismatches == 0
with locked(sys.argv[2] + "/run"):
    pass
print("file of", faq_keras.tflite.__file__)
"""


@pytest.fixture
def network(tmp_path):
    random = np.random.default_rng(0)
    arrays = {"w": random.normal(size=(4, 3, 3, 3)), "d": random.normal(size=(4, 2))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "/c"),
        helper.make_node("Relu", ["c"], ["r"], "/r"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "/p"),
        helper.make_node("Flatten", ["p"], ["f"], "/f"),
        helper.make_node("Gemm", ["f", "d"], ["y"], "/y"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x", 1, ("batch", 3, 6, 6))], [info("y", 1, (None, 2))],
        [onnx.numpy_helper.from_array(a.astype(np.float32), key) for key, a in arrays.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    return tmp_path


def python(code, *arguments):
    child = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=arguments[-1],
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    return child.stdout


def test_without_the_modules_of_posix(network):
    out = python(_WHOLE.format(hidden=_HIDDEN), ROOT, network)
    assert "peak memory unknown" in out


def test_a_clone_without_links(network):
    """Git writes links as small text files where the system has none."""
    clone = network / "clone"
    for name in ("faq_keras", "converters", "tflite", "configs"):
        shutil.copytree(
            ROOT / name, clone / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("converters", "tflite", "configs"):
        link = clone / "faq_keras" / name
        if link.is_symlink():
            link.unlink()
            link.write_text(f"../{name}")
    out = python(_WHOLE.format(hidden=()), clone, network)
    assert f"file of {clone}" in out


def test_the_readme_names_the_systems():
    text = (ROOT / "README.md").read_text()
    assert all(word in text for word in ("Linux", "macOS", "Windows"))
