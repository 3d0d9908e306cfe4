"""Installs what `tflite.emulation` runs: an emulator, ARM's Python, and LiteRT's ARM wheel.

Everything comes from the package sources that this machine's own apt and pip are configured for,
and goes into one folder (177 MB). No root, nothing of the system is changed: apt works with lists
and caches in a temporary folder, and packages are unpacked, never installed.

    versions = setup(emulation.folder(), log=print)      # 23 s
    versions["ai-edge-litert"]                           # the version that runs here, for ARM

The folder appears when it is complete and has computed something, or not at all.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from faq_keras.files import PARTIAL_PREFIX
from faq_keras.tflite import emulation

Log = Callable[[str], None]

_EMULATOR_PACKAGE = "qemu-user-static"
# What LiteRT's wheel needs; apt adds what these need.
_ARM_PACKAGES = ("python3", "libstdc++6")
# The interpreter needs no other wheel.
_WHEELS = ("ai-edge-litert", "numpy")
_TOOLS = ("apt-get", "apt-config", "dpkg", "dpkg-deb")
_OLDEST_GLIBC = 17  # of manylinux wheels for aarch64: 2.17
_USELESS = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")
# Settings of apt that name the system's folders, run its hooks, or choose an architecture.
_SYSTEM_SETTINGS = re.compile(r"^(Dir|DPkg|APT::(Update|Architectures?|Sandbox))\b")
_CPU_COUNT = 2
_SELF_TEST = """
import ai_edge_litert.interpreter, numpy, platform
assert (numpy.arange(100, dtype=numpy.int32) @ numpy.arange(100, dtype=numpy.int32)) == 328350
print(platform.machine())
"""


def setup(where: Path, force: bool = False, log: Log = lambda line: None) -> dict[str, str]:
    """Installs the emulation, unless it is there already.

    Args:
        where: The folder to make, normally `emulation.folder()`.
        force: Also replaces an installation that is complete.
        log: Gets a line per step.

    Returns:
        Versions of what was installed.

    Raises:
        ValueError: If the machine lacks a tool, a package cannot be had, the folder has other
            contents, or the emulator does not work.
        OSError: If the folder cannot be written.
    """
    where = where.expanduser().absolute()
    present = emulation.installed(where)
    if present is not None and not force and _is_current(present):
        log(f"{where} is complete already.")
        return present
    if present is None and where.exists() and (not where.is_dir() or any(where.iterdir())):
        raise ValueError(
            f"'{where}' exists and is no installation of the emulation: name an empty or a new "
            "folder, or remove it."
        )
    _check_tools()
    where.parent.mkdir(parents=True, exist_ok=True)
    partial = where.with_name(f"{PARTIAL_PREFIX}{secrets.token_hex(8)}")
    try:
        versions = _fill(partial, log)
        facts = json.dumps({"versions": versions}, indent=1)
        (partial / emulation.FACTS).write_text(facts + "\n", encoding="utf-8")
        _move(partial, where)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already after a success
    return versions


def _is_current(present: dict[str, str]) -> bool:
    """Whether the emulated packages are those of this process, as comparisons want them."""
    return all(present.get(name) == metadata.version(name) for name in _WHEELS)


def _check_tools() -> None:
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    missing += [] if find_spec("pip") else ["pip"]
    if missing:
        raise ValueError(
            f"Setting up aarch64 needs {', '.join(missing)}, which this machine lacks: the "
            "emulator and ARM's Python are unpacked from Debian's or Ubuntu's packages. Run it on "
            f"such a machine or in its container, and set {emulation.FOLDER_VARIABLE} to a copy of "
            "the folder."
        )


def _fill(folder: Path, log: Log) -> dict[str, str]:
    """Puts everything into a new folder, tries it, and returns the versions."""
    for part in (emulation.ROOT, emulation.PACKAGES, str(Path(emulation.EMULATOR).parent)):
        (folder / part).mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="faq-aarch64-setup-") as temporary:
        work = Path(temporary)
        log("Reading the package lists of this machine's apt sources ...")
        archives = _download_debs(work, log)
        log(f"Unpacking {len(archives)} packages ...")
        versions = _unpack_debs(archives, folder)
        for wheel in _download_wheels(work, folder, log):
            shutil.unpack_archive(wheel, folder / emulation.PACKAGES, "zip")
    _add_processors(folder)
    log("Trying the emulated Python ...")
    for cpu in emulation.PROCESSORS:
        said = _run(
            emulation.command(folder, cpu, "-c", _SELF_TEST), "The emulated Python does not work"
        )
        if said.strip() != "aarch64":
            raise ValueError(f"The emulated Python says that it runs on {said.strip()!r}.")
    return versions | {name: metadata.version(name) for name in _WHEELS}


# ----------------------------------------------------------------------------------------- Debian


def _download_debs(work: Path, log: Log) -> list[Path]:
    """The emulator's package for this machine, and Python's with all it needs for ARM."""
    host = _run(["dpkg", "--print-architecture"], "dpkg does not work").strip()
    config = _private_apt(work, host)
    variables = os.environ | {"APT_CONFIG": str(config), "LC_ALL": "C"}
    # A source that cannot be reached is no error yet: another one may have the packages.
    update = subprocess.run(
        ["apt-get", "update", "-qq"], env=variables, capture_output=True, text=True, cwd=work
    )
    reason = "apt cannot download the packages of the emulation"
    said = update.stderr.strip().splitlines()
    if said:
        reason += f" (after updating its lists it said: {said[-1]})"
    log(f"Downloading {_EMULATOR_PACKAGE} and {' and '.join(_ARM_PACKAGES)} for arm64 ...")
    emulator = f"{_EMULATOR_PACKAGE}:{host}"
    _run(["apt-get", "download", "-qq", emulator], reason, variables, work)
    install = ["apt-get", "install", "--download-only", "--no-install-recommends", "-y", "-qq"]
    _run([*install, *_ARM_PACKAGES], reason, variables, work)
    return sorted(work.glob("*.deb")) + sorted((work / "cache" / "archives").glob("*.deb"))


def _private_apt(work: Path, host: str) -> Path:
    """A configuration of apt: this machine's sources and keys, but folders of its own for the rest.

    With an empty list of installed packages apt finds all that a package needs, and as for a
    machine whose native architecture is arm64.
    """
    for part in ("state/lists/partial", "cache/archives/partial"):
        (work / part).mkdir(parents=True)
    (work / "state" / "status").touch()
    dump = _run(["apt-config", "dump"], "apt-config does not work").splitlines()
    sources = ("sourcelist", "sourceparts", "trusted", "trustedparts", "netrc", "netrcparts")
    kept = [line for line in dump if not _SYSTEM_SETTINGS.match(line)]
    kept += [line for line in dump if line.startswith(tuple(f"Dir::Etc::{s} " for s in sources))]
    kept += [
        f'Dir::State "{work}/state";',
        f'Dir::State::status "{work}/state/status";',
        f'Dir::Cache "{work}/cache";',
        f'Dir::Log "{work}";',
        'Dir::Etc::main "/dev/null";',
        'Dir::Etc::parts "/dev/null";',
        'Dir::Etc::preferences "/dev/null";',
        'Dir::Etc::preferencesparts "/dev/null";',
        'APT::Architecture "arm64";',
        *(f'APT::Architectures:: "{name}";' for name in dict.fromkeys(("arm64", host))),
        # As root, apt would download as a user who may not enter the temporary folder.
        'APT::Sandbox::User "root";',
    ]
    config = work / "apt.conf"
    config.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return config


def _unpack_debs(archives: Sequence[Path], folder: Path) -> dict[str, str]:
    """Unpacks the emulator and the root folder; returns versions worth knowing."""
    versions = {}
    for archive in archives:
        name, version, _ = archive.name.split("_")
        if name == _EMULATOR_PACKAGE:
            _unpack_emulator(archive, folder)
        else:
            unpack = ["dpkg-deb", "-x", str(archive), str(folder / emulation.ROOT)]
            _run(unpack, f"{archive.name} cannot be unpacked")
        if name in (_EMULATOR_PACKAGE, "libc6"):
            versions[name] = version.replace("%3a", ":")
    root = folder / emulation.ROOT
    for part in _USELESS:
        shutil.rmtree(root / part, ignore_errors=True)
    if not (root / "lib").exists():  # where a package of another kind makes this link
        (root / "lib").symlink_to("usr/lib")
    return versions


def _unpack_emulator(archive: Path, folder: Path) -> None:
    """Unpacks one of the package's thirty emulators."""
    reason = f"{archive.name} has no {emulation.EMULATOR}"
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        _run(["dpkg-deb", "-x", str(archive), temporary], reason)
        source = Path(temporary, "usr", emulation.EMULATOR)
        if not source.exists():
            raise ValueError(f"{reason}: the package of this distribution is laid out otherwise.")
        shutil.copy(source, folder / emulation.EMULATOR)  # a copy: it may be a link


def _add_processors(folder: Path) -> None:
    """A root folder per processor: links to the common one, and what Linux says of it."""
    for cpu, (part, features) in emulation.PROCESSORS.items():
        root = folder / emulation.PROCESSOR_ROOTS / cpu
        (root / "proc").mkdir(parents=True)
        (root / "sys/devices/system/cpu").mkdir(parents=True)
        for entry in (folder / emulation.ROOT).iterdir():
            if entry.name not in ("proc", "sys"):
                (root / entry.name).symlink_to(Path("../..") / emulation.ROOT / entry.name)
        lines = [
            f"processor\t: {core}\nBogoMIPS\t: 100.00\nFeatures\t: {features}\n"
            f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
            f"CPU part\t: {part}\nCPU revision\t: 4\n"
            for core in range(_CPU_COUNT)
        ]
        (root / "proc/cpuinfo").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name in ("possible", "present"):
            file = root / "sys/devices/system/cpu" / name
            file.write_text(f"0-{_CPU_COUNT - 1}\n", encoding="utf-8")


# ----------------------------------------------------------------------------------------- wheels


def _download_wheels(work: Path, folder: Path, log: Log) -> list[Path]:
    """The wheels for ARM, in the versions that are installed here."""
    wanted = [f"{name}=={metadata.version(name)}" for name in _WHEELS]
    log(f"Downloading {' and '.join(wanted)} for aarch64 ...")
    version = emulation.python(folder).name.removeprefix("python")
    glibc = _glibc_minor(folder)
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(_OLDEST_GLIBC, glibc + 1)]
    platforms.append("manylinux2014_aarch64")
    target = work / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary=:all:"]
    pip += ["--python-version", version, "--implementation", "cp", "--dest", str(target)]
    pip += [word for platform in platforms for word in ("--platform", platform)]
    _run([*pip, *wanted], f"pip cannot download {' and '.join(wanted)} for Python {version}")
    return sorted(target.glob("*.whl"))


def _glibc_minor(folder: Path) -> int:
    """36, if the unpacked C library is 2.36."""
    root = folder / emulation.ROOT
    content = next(root.glob("lib/aarch64-linux-gnu/libc.so.6")).read_bytes()
    found = re.search(rb"GNU C Library [^\n]* release version 2\.(\d+)", content)
    if found is None:
        raise ValueError("The unpacked C library does not tell its version.")
    return int(found[1])


# ------------------------------------------------------------------------------------------ steps


def _run(
    command: Sequence[str],
    reason: str,
    variables: dict[str, str] | None = None,
    work: Path | None = None,
) -> str:
    """Runs a command and returns what it printed.

    Raises:
        ValueError: If it fails: `reason`, and the last line of its errors.
    """
    if command[0].endswith(emulation.EMULATOR):
        variables = emulation.environment()
    done = subprocess.run(command, env=variables, cwd=work, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).strip().splitlines() if line]
        raise ValueError(f"{reason}: {lines[-1] if lines else f'status {done.returncode}'}")
    return done.stdout


def _move(partial: Path, where: Path) -> None:
    """Gives a folder its name; one that has it already goes."""
    old = where.with_name(f"{PARTIAL_PREFIX}{secrets.token_hex(8)}")
    if where.exists():
        os.replace(where, old)
    os.replace(partial, where)
    shutil.rmtree(old, ignore_errors=True)
