"""What an installation puts where, and the direction of the imports between the rooms."""

import configparser
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
BESIDE = (
    "converters",
    "tflite",
    "configs",
)  # folders beside the package that are installed inside it


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """A wheel built from a copy of the sources, so that no build folder appears in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    no_caches = shutil.ignore_patterns("__pycache__")
    for name in ("faq_keras", *BESIDE):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=no_caches)
    pip("wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    return next(folder.glob("*.whl"))


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_every_module_of_the_rooms(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    inside = {path.relative_to(ROOT) for path in (ROOT / "faq_keras").rglob("*.py")}
    beside = {
        pathlib.Path("faq_keras") / path.relative_to(ROOT)
        for name in BESIDE
        for path in (ROOT / name).rglob("*.py")
    }
    assert packed == {path.as_posix() for path in inside | beside}
    others = {"faq_keras/py.typed"}
    others |= {f"faq_keras/report/templates/page.{suffix}" for suffix in ("html", "css", "md")}
    assert others <= set(zipfile.ZipFile(wheel).namelist())


def test_an_installation_owns_one_top_level_name_and_leaves_pypis_tflite_alone(wheel, tmp_path):
    (tmp_path / "tflite").mkdir()
    (tmp_path / "tflite" / "__init__.py").write_text("OWNER = 'PyPI'\n")
    pip("install", "--no-deps", "--target", str(tmp_path), str(wheel))
    installed = {
        entry.name for entry in tmp_path.iterdir() if not entry.name.endswith(".dist-info")
    }
    assert installed - {"bin"} == {"faq_keras", "tflite"}
    assert (tmp_path / "tflite" / "__init__.py").read_text() == "OWNER = 'PyPI'\n"
    assert [entry.name for entry in (tmp_path / "tflite").iterdir()] == ["__init__.py"]
    for name in BESIDE:
        assert (tmp_path / "faq_keras" / name / "__init__.py").is_file()


def test_the_constraints_fix_every_direct_requirement():
    """`make test` must give everyone the versions that were tested."""
    fixed = {
        line.split("==")[0].strip().lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    names = requirement_names()
    assert names - fixed - {"setuptools", "wheel"} == set()


def requirement_names() -> set[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line for block in listed for line in block.splitlines() if line.strip()]
    return {re.split(r"[<>=~! ]", line)[0].lower().replace("_", "-") for line in lines}


def test_the_rooms_keep_the_direction_of_the_arrows():
    executable = pathlib.Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(executable), "--no-logo", "--no-cache"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
