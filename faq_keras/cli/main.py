"""The `faq` command line: `faq COMMAND [arguments] [--flags]`, one module here per command.

A command module has a docstring (its help; the last lines are an example), `FLAGS` (absl flags of
its own: commands may share names, and run one after the other in one process), and
`main(arguments) -> exit status`. Only the module of the command that was asked for is imported.
Errors that a user can mend are `ValueError` or `OSError` and print as one sentence; `--debug` shows
the traceback.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from types import ModuleType

from absl import flags

from faq_keras.texts import one_line, printable

COMMANDS = {
    "quickstart": "run the whole job on real data: pretrain, quantize, fine-tune, export, verify, "
    "benchmark",
    "convert": "bring an ONNX or PyTorch network in as an editable Keras model",
    "train": "train by a configuration file: pretrain, quantize, fine-tune; resumable",
    "eval": "measure top-1 and top-5 of a .keras or .tflite file on the validation images",
    "reconstruct": "recover the accuracy that quantization lost from a few unlabelled images",
    "export": "write a quantized .keras model as a fully integer .tflite file",
    "verify": "compare a .tflite file with its model, every tensor; exit 1 on any mismatch",
    "unpack": "write a packed int4 .tflite file as an int8 one",
    "reproduce": "run the tables and figures of the paper again: measured beside published",
    "report": "write a page about a training run: curves, noise, ranges, layers, parity",
    "benchmark": "measure .tflite files on this machine, a phone, a microcontroller, an NPU",
    "setup": "install what a runtime needs: faq setup aarch64 (ARM, emulated)",
    "inspect": "show a .tflite file, a .keras model or a plan as a table",
}


def run(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script; exits with the command's status."""
    sys.exit(dispatch(list(sys.argv[1:] if argv is None else argv)))


def dispatch(arguments: list[str]) -> int:
    """Runs one command and returns its exit status."""
    if not arguments or arguments[0] in ("help", "--help", "-h"):
        print(_overview())
        return 0 if arguments else 1
    if arguments[0] in ("--version", "-V", "version"):
        print(f"faq_keras {metadata.version('faq_keras')}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        text = f"faq: there is no command '{one_line(command, 100)}'.{hint}"
        print(f"{text} `faq --help` lists them.", file=sys.stderr)
        return 1
    module = importlib.import_module(f"faq_keras.cli.{command}")
    values: flags.FlagValues = module.FLAGS
    if any(word in ("--help", "-h", "--helpfull", "--helpshort") for word in rest):
        print(f"{(module.__doc__ or '').strip()}\n\nFlags:\n{_flag_help(module)}")
        return 0
    debug = "--debug" in rest
    try:
        values.unparse_flags()  # forgets what an earlier call in this process set
        positional = values([command, *(word for word in rest if word != "--debug")])[1:]
        return int(module.main(positional))
    except (flags.Error, ValueError, OSError) as error:
        if debug:
            raise
        hint = f"(`faq {command} --help` lists the flags)" if isinstance(error, flags.Error) else ""
        return _fail(command, str(error), hint)
    except MemoryError as error:
        if debug:
            raise
        reason = str(error).rstrip(".") or "out of memory"
        return _fail(command, f"This needs more memory than there is here ({reason}).")
    except KeyboardInterrupt:
        return _fail(command, "interrupted") + 129
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _fail(command: str, message: str, hint: str = "") -> int:
    print(printable(f"faq {command}: error: {message} {hint}").rstrip(), file=sys.stderr)
    return 1


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "Pretrained CNNs become 8- or 4-bit integer TFLite files that compute what was "
            "trained.",
            "",
            "Usage: faq COMMAND [arguments] [--flags]      faq COMMAND --help      faq --version",
            "",
            *rows,
            "",
            "Example: faq quickstart --bits=4 --workdir=runs/quickstart",
        ]
    )


def own_flags(module: ModuleType) -> list[flags.Flag]:
    """The flags that a command's module defines, by name; `--debug` is every command's."""
    defined = module.FLAGS.flags_by_module_dict().get(module.__name__, [])
    return sorted(defined, key=lambda flag: flag.name)


def _flag_help(module: ModuleType) -> str:
    lines = [
        f"  --{flag.name}: {flag.help} (default: {flag.default_as_str})"
        for flag in own_flags(module)
    ]
    return "\n".join([*lines, "  --debug: show the traceback of an error (default: 'false')"])
