"""The flag `--config=FILE.py` with its overrides `--config.key=value`, for every command with one.

A config is a Python file with `get_config()`; ml_collections reads it and the overrides. Names
without a file of this name (`smoke`, `configs/smoke.py`) mean the installed ones:

    FLAGS = ConfigFlags(__name__)
    FLAGS(["train", "--config=smoke", "--config.epochs=1"])
    FLAGS.chosen.epochs                    # 1
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_dict, config_flags

from faq_keras import configs
from faq_keras.configs import base
from faq_keras.texts import one_line

_FLAG = "--config"
_INSTALLED = Path(configs.__file__).parent


class ConfigFlags(flags.FlagValues):
    """Flags of a command that takes a config; it can be called again and again."""

    def __init__(self, module: str) -> None:
        """Defines `--config`.

        Args:
            module: Name of the command's module, in whose help the flag is listed.
        """
        super().__init__()
        # ml_collections looks for the overrides in a list of its own: normally sys.argv.
        argv: list[str] = []
        self.__dict__["_faq_argv"] = argv
        flag = config_flags.DEFINE_config_file(
            "config", None, "the configuration, a Python file", flag_values=self, sys_argv=argv
        )
        self.__dict__["_faq_flag"] = flag
        self.register_flag_by_module(module, self["config"])

    def __call__(self, argv: Sequence[str], known_only: bool = False) -> list[str]:
        """Parses a command line.

        Raises:
            ValueError: The file is missing or wrong, or has no such field.
        """
        for name in [name for name in self if name.startswith("config.")]:
            delattr(self, name)  # of an earlier call
        words = _joined(list(argv))
        paths = [word.partition("=")[2] for word in words if word.startswith(f"{_FLAG}=")]
        resolved = [
            f"{_FLAG}={_file(word.partition('=')[2])}" if word.startswith(f"{_FLAG}=") else word
            for word in words
        ]
        self.__dict__["_faq_argv"][:] = resolved
        try:
            return super().__call__(resolved, known_only)
        except (flags.Error, OSError):
            raise
        except (AttributeError, KeyError) as error:
            raise ValueError(_unknown_field(resolved, paths)) from error
        except Exception as error:  # the file is anybody's code
            raise ValueError(
                f"The configuration {', '.join(paths)} cannot be read: "
                f"{type(error).__name__}: {one_line(str(error), 400).rstrip('.')}."
            ) from error

    @property
    def chosen(self) -> config_dict.ConfigDict:
        """The configuration that was given.

        Raises:
            ValueError: None was given, or it is not a `ConfigDict`.
        """
        config = self.__dict__["_faq_flag"].value
        if config is None:
            raise ValueError(
                "--config is missing: name a Python file with get_config(), for example "
                f"--config=configs/smoke.py. Installed: {', '.join(installed())}."
            )
        if not isinstance(config, config_dict.ConfigDict):
            raise ValueError(
                f"get_config() of the configuration gives a {type(config).__name__}, not a "
                "ConfigDict. Begin it with faq_keras.configs.base.config()."
            )
        return config


def installed() -> list[str]:
    """Names of the configurations that come with the package."""
    parts = ("__init__", "base", "families")
    return sorted(path.stem for path in _INSTALLED.glob("*.py") if path.stem not in parts)


def _joined(words: list[str]) -> list[str]:
    """`--config FILE` as `--config=FILE`."""
    for index, word in enumerate(words[:-1]):
        if word in (_FLAG, "-config"):
            return [*words[:index], f"{_FLAG}={words[index + 1]}", *words[index + 2 :]]
    return [re.sub(r"^-{1,2}config=", f"{_FLAG}=", word) for word in words]


def _file(path: str) -> str:
    if Path(path).is_file():
        return path
    known = {form: name for name in installed() for form in (name, f"configs/{name}.py")}
    if path in known:
        return str(_INSTALLED / f"{known[path]}.py")
    close = difflib.get_close_matches(Path(path).stem, installed(), n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ValueError(
        f"The configuration {path} does not exist.{hint} Installed: {', '.join(installed())}."
    )


def _unknown_field(words: Sequence[str], paths: Sequence[str]) -> str:
    given = [re.match(r"-{1,2}(?:no)?config\.([^=]+)", word) for word in words]
    names = [match.group(1) for match in given if match]
    known = _fields(base.config())
    unknown = [name for name in names if name not in known] or names
    close = [m for name in unknown for m in difflib.get_close_matches(name, known, n=1)]
    hint = f" Did you mean {', '.join(close)}?" if close else ""
    return (
        f"The configuration {', '.join(paths)} has no field {', '.join(unknown)}.{hint} "
        "faq_keras/configs/base.py lists the fields."
    )


def _fields(config: config_dict.ConfigDict, prefix: str = "") -> list[str]:
    found = []
    for name, value in config.items():
        found.append(prefix + name)
        if isinstance(value, config_dict.ConfigDict):
            found += _fields(value, f"{prefix}{name}.")
    return found
