"""Takes damaged files through everything that reads .tflite files, in a process that may die.

python -m tests.tflite.fuzz.worker FOLDER FIRST COUNT [RUNTIME ...]

Prints `{"number": 7, "stage": "load xnnpack", "outcome": "refused"}` for each mutant and stage. The
work is done by forked children; what a child was at when it died is an outcome, too: `crash: signal
SIGFPE`, or `SIGALRM` for a mutant that took too long. The next child goes on with the next mutant.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import random
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

import faq_keras
from faq_keras.tflite import inspect, loader, model_file
from tests import networks
from tests.tflite.fuzz import files, mutations

SECONDS = 30  # for one mutant, all its stages
MEMORY = 6 * 2**30  # bytes of address space beyond what the imports take
RUN_BYTES = 2**24  # of inputs: larger ones are loaded and not run
RUNTIMES = ("xnnpack", "reference")
# These only see every third mutant.
MORE_RUNTIMES = ("builtin", "tflm")

Outcome = str


def mutant(folder: pathlib.Path, number: int) -> tuple[str, bytes]:
    """The name of the damaged file and the mutant's bytes."""
    names = sorted(path.stem for path in folder.glob("*.tflite"))
    name = names[number % len(names)]
    content = (folder / f"{name}.tflite").read_bytes()
    return name, mutations.mutate(content, random.Random(number))


def stages(
    folder: pathlib.Path, name: str, number: int, path: pathlib.Path
) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is done to one mutant, by name."""
    yield "inspect", lambda: inspect.table(path)
    yield "unpack", lambda: unpack(path)
    for runtime in RUNTIMES + (MORE_RUNTIMES if number % 3 == 0 else ()):
        yield f"load {runtime}", functools.partial(run, path, runtime)
    if name.endswith("int4") and number % 3 == 1:
        yield "load packed", functools.partial(run, path, "xnnpack", keep_packed=True)
    if name in files.WITH_MODEL:
        yield "verify", functools.partial(verify, folder, name, path)


def unpack(path: pathlib.Path) -> None:
    """What was unpacked must itself be a valid file, of the same operators."""
    target = path.with_name("unpacked.tflite")
    loader.unpack(path, target)
    assert model_file.read(target).operators == model_file.read(path).operators


def run(path: pathlib.Path, runtime: str, keep_packed: bool = False) -> None:
    """Loads the file, feeds it codes and floats, and looks at every tensor."""
    runner = loader.load(path, runtime, keep_packed=keep_packed)
    sizes = [
        np.prod([abs(int(n)) for n in d["shape_signature"]], dtype=object)
        for d in runner._session.input_details
    ]
    if sum(sizes) > RUN_BYTES:
        return
    feed = runner.random_inputs(2)
    runner.run_int8(feed)
    if runtime != "tflm":  # which cannot hand out the tensors of in-place operators
        runner.tensors(feed)
    runner({key: np.zeros(codes.shape, np.float32) for key, codes in feed.items()})


def verify(folder: pathlib.Path, name: str, path: pathlib.Path) -> None:
    """A file without mismatches computes what the undamaged one does, loaded here or elsewhere."""
    model, x = the_model(folder), networks.images(4, (6, 6, 3), seed=1)
    if faq_keras.verify(model, path, x).mismatches:
        return
    original, damaged = loader.load(folder / f"{name}.tflite"), loader.load(path)
    codes = original.random_inputs(1, seed=5)
    np.testing.assert_array_equal(original.run_int8(codes), damaged.run_int8(codes))
    raw = raw_output(path.read_bytes(), codes)
    if raw is not None:  # packed files round in another way there, so this compares like with like
        whole = raw_output((folder / f"{name}.tflite").read_bytes(), codes)
        np.testing.assert_array_equal(raw, whole)


def raw_output(content: bytes, codes: dict[str, np.ndarray]) -> np.ndarray | None:
    """What an interpreter makes of a file's own bytes, as on a phone; None if it refuses them.

    It knows rules of how trees are laid out in bytes that Python's reader does not need.
    """
    try:
        interpreter = Interpreter(model_content=content, num_threads=1)
    except ValueError as error:
        assert "not a valid Flatbuffer" in str(error), error
        return None
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], codes[details["name"]])
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@functools.cache
def the_model(folder: pathlib.Path) -> keras.Model:
    """The Keras model that some of the files were written from."""
    return keras.saving.load_model(folder / "keras.keras")


def attempt(stage: Callable[[], object], path: pathlib.Path) -> Outcome:
    """`ran`, `refused` in one sentence that names the file, or what is wrong."""
    try:
        stage()
    except ValueError as error:
        text = str(error)
        if str(path) not in text or "\n" in text:
            return f"not a sentence that names the file: {text[:300]!r}"
        # A tree with holes is found out by an accident; each kind of hole should have its check.
        return f"unforeseen: {text[-200:]}" if "structure is broken" in text else "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return "ran"


def work(folder: pathlib.Path, numbers: range, out: int) -> None:
    """Runs in a child: reports a stage's name before it, and its outcome after it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    path = folder / "work" / "mutant.tflite"
    for number in numbers:
        signal.alarm(SECONDS)  # kills the process, whatever C code it is in
        name, content = mutant(folder, number)
        path.write_bytes(content)
        for stage, function in stages(folder, name, number, path):
            os.write(out, f"{number}\t{stage}\n".encode())
            os.write(out, (attempt(function, path).replace("\n", " ") + "\n").encode())


def lives(folder: pathlib.Path, numbers: range) -> Iterator[dict[str, object]]:
    """The outcomes of all mutants, from as many children as it takes."""
    while numbers:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                work(folder, numbers, write)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(write)
        number, stage, lines = str(numbers.start), "before the first", _lines(read, child)
        for line in lines:
            number, stage = line.split("\t")
            outcome = next(lines, "")
            if outcome:
                yield {"number": int(number), "stage": stage, "outcome": outcome}
        os.close(read)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        yield {"number": int(number), "stage": stage, "outcome": f"crash: {end}"}
        numbers = range(int(number) + 1, numbers.stop)


def _lines(read: int, child: int) -> Iterator[str]:
    """What a child says; one that says nothing although its alarm has rung is killed."""
    rest = b""
    while True:
        if not select.select([read], [], [], 2 * SECONDS)[0]:
            os.kill(child, signal.SIGKILL)
        data = os.read(read, 2**16)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from (line.decode() for line in whole)


if __name__ == "__main__":
    where, first, count = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    (where / "work").mkdir(exist_ok=True)
    for result in lives(where, range(first, first + count)):
        print(json.dumps(result), flush=True)
