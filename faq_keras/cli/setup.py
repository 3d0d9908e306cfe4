"""Installs what a runtime needs beyond Python packages: faq setup aarch64 [--folder=DIR].

aarch64: LiteRT for 64-bit ARM, run by the emulator QEMU, so that `faq verify --runtimes=aarch64`
computes here what a phone computes. Downloads about 130 MB through this machine's own apt and pip
and unpacks them into a folder of 177 MB; needs no root and changes nothing in the system. The
folder is FAQ_AARCH64, or faq_keras/aarch64 in the user's cache folder, or --folder.

Example: faq setup aarch64
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from faq_keras.cli import common
from faq_keras.tflite import emulation, emulation_setup

FLAGS = flags.FlagValues()
_FOLDER = flags.DEFINE_string("folder", None, "where to install it", flag_values=FLAGS)
_FORCE = flags.DEFINE_bool("force", False, "replace a complete installation", flag_values=FLAGS)


def main(arguments: list[str]) -> int:
    """Installs one thing."""
    (what,) = common.positional(arguments, "aarch64")
    if what != "aarch64":
        raise ValueError(f"there is nothing called '{what}' to set up; expected aarch64.")
    folder = Path(_FOLDER.value).expanduser().absolute() if _FOLDER.value else emulation.folder()
    versions = emulation_setup.setup(folder, _FORCE.value, common.say)
    common.say(f"{folder}: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    if folder != emulation.folder():
        common.say(f"To use it: export {emulation.FOLDER_VARIABLE}={folder}")
    return 0
