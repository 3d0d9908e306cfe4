"""What a network loses when it is quantized without labels and without training.

    python benchmarks/post_training/accuracy.py --data_dir=../shared/data --cache=/tmp/faq-cache \
        --networks=resnet20,fashion --bits=8,4x8,4 --methods=paper,fitted,reconstruct --seeds=0,1

Every network, width and seed runs in a process of its own, from the files of the network's owner to
the accuracy on test images that no step has seen (`networks.py`): top-1 of the float and of the
quantized network, the difference with its paired standard error, agreement with the float network,
signal to noise ratio of the logits, seconds and memory of each step, bytes of the exported file,
and with `--verify=xnnpack,builtin,reference,tflm` in how many values of all tensors the file
differs from Keras. Rows of several seeds are summed up image by image.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import measure
from absl import app, flags
from post_training import methods, networks
from post_training.rows import Order, rows_of, summed

TITLES = (
    *("network", "bits", "method", "seeds", "n", "float", "top-1", "difference", "agreement"),
    *("SQNR dB", "images", "seconds", "peak MB", "bytes", "mismatches"),
)


def line(found: dict[str, Any]) -> str:
    """A row of a Markdown table."""

    def number(key: str, form: str = ".2f") -> str:
        return "" if found[key] is None else format(found[key], form)

    difference = ""
    if found["difference"] is not None:
        difference = f"{found['difference']:+.2f} ± {found['error']:.2f}"
    cells = [found["title"], found["bits"], found["method"], str(found["seed"])]
    cells += [f"{found['test_images']:,}", number("float_top1"), number("top1"), difference]
    cells += [number("agreement", ".1f"), number("sqnr_db", ".1f")]
    cells += [" + ".join(f"{count:,}" for count in found["calibration_images"].values())]
    cells += [" + ".join(f"{seconds:.1f}" for seconds in found["seconds"].values())]
    cells += [" + ".join(f"{peak:.0f}" for peak in found["peak_mb"].values())]
    cells += [f"{found['bytes']:,}", _parity(found)]
    return f"| {' | '.join(cells)} |"


def _parity(found: dict[str, Any]) -> str:
    if "mismatches" not in found:
        return ""
    values = found["values"]
    return ", ".join(f"{name} {n} of {values[name]:,}" for name, n in found["mismatches"].items())


_NETWORKS = flags.DEFINE_list("networks", list(networks.NETWORKS), "names")
_BITS = flags.DEFINE_list("bits", ["8", "4x8", "4"], "8 is W8A8, 4x8 is W4A8")
_METHODS = flags.DEFINE_list("methods", list(methods.METHODS), "how the networks are quantized")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "seeds of the splits")
_IMAGES = flags.DEFINE_integer("images", 256, "calibration images, at most", lower_bound=1)
_DISTILL = flags.DEFINE_integer("distill_images", 1024, "images to distill on", lower_bound=1)
_TESTS = flags.DEFINE_integer("tests", 0, "test images, at most; 0: all", lower_bound=0)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of data and networks", required=True)
_CACHE = flags.DEFINE_string("cache", None, "folder for converted networks and float logits")
_VERIFY = flags.DEFINE_list("verify", [], "runtimes to compare the files on, such as xnnpack,tflm")
_VERIFY_IMAGES = flags.DEFINE_integer("verify_images", 16, "images to compare on", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "a file for the figures")


def orders(files: networks.Files) -> list[list[Order]]:
    """What the flags ask for: for every network and width, one order per seed."""
    sizes = (files, _IMAGES.value, _DISTILL.value, _TESTS.value)
    proof = (tuple(_VERIFY.value), _VERIFY_IMAGES.value)
    how, seeds = tuple(_METHODS.value), [int(seed) for seed in _SEEDS.value]
    return [
        [Order(network, methods.parse_bits(bits), how, seed, *sizes, *proof) for seed in seeds]
        for network in _NETWORKS.value
        for bits in _BITS.value
    ]


def measured(orders: Sequence[Order], keep: Callable[[list[dict[str, Any]]], None]) -> None:
    """Runs the orders of one network and width, prints their rows and the seeds' sums."""
    rows: list[dict[str, Any]] = []
    for order in orders:
        try:
            found = measure.alone(rows_of, order)
        except ValueError as error:
            width = methods.title(order.bits)
            print(f"| {order.network} | {width} | failed, seed {order.seed}: {error} |", flush=True)
            continue
        keep(found)
        rows += found
        print("\n".join(map(line, found)), flush=True)
    if len(orders) > 1 and rows:
        for method in orders[0].methods:
            print(line(summed([found for found in rows if found["method"] == method])), flush=True)


def main(_: list[str]) -> None:
    """One process after the other."""
    methods.check(_METHODS.value)
    rows: list[dict[str, Any]] = []

    def keep(found: list[dict[str, Any]]) -> None:
        rows.extend(found)
        if _JSON.value:
            Path(_JSON.value).write_text(json.dumps(rows))

    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(_CACHE.value or temporary)
        cache.mkdir(parents=True, exist_ok=True)
        groups = orders(networks.Files(Path(_DATA_DIR.value), cache))
        print(measure.environment())
        print(f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}", flush=True)
        for group in groups:
            measured(group, keep)


if __name__ == "__main__":
    app.run(main)
