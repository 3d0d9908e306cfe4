"""Which part of quantization without training brings how much: each alone, and together.

    python benchmarks/post_training/ablation.py --data_dir=../shared/data --cache=/tmp/faq-cache \
        --cases=resnet20:4,fashion:4,efficientnet_lite0:8,efficientnet_lite0:4x8

The plan with the paper's rules is edited (`dataclasses.replace`) and the rest is switched off:

    B    the exponent of each kernel by least squared error
    A    a real scale for each output channel of a convolution (A*); B for the other kernels
    C    the exponents of activations by least squared error
    M    the mean of each channel before the ReLU is made the float network's, on unlabelled images
    M+   M, and then the mean after the ReLU
    G    second-order rounding of kernels below 8 bits, on the same images

A combination is written with dots: `A.C.G.M+` is what `apply` and `reconstruct` do by default,
`none` what the paper does. Rows with G are left out where all kernels have 8 bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import measure
import numpy as np
from absl import app, flags
from post_training import figures, methods, networks

PARTS = ("B", "A", "C", "G", "M", "M+")
COMBINATIONS = (
    *("none", "B", "A", "C", "M", "M+", "G"),
    *("B.C", "A.C", "A.C.M", "A.C.M+", "A.C.G", "A.C.G.M", "A.C.G.M+"),
)


@dataclasses.dataclass(frozen=True)
class Order:
    """The combinations to measure on one network.

    Attributes:
        network: Its name in `networks.NETWORKS`.
        bits: Of weights and activations.
        combinations: Which.
        seed: Of the split.
        images: Calibration images, at most.
        tests: Test images, at most; 0: all.
        files: Where the material is.
    """

    network: str
    bits: tuple[int, int]
    combinations: tuple[str, ...]
    seed: int
    images: int
    tests: int
    files: networks.Files


def parts_of(combination: str) -> frozenset[str]:
    """The parts of a combination.

    Raises:
        ValueError: If one is unknown, or two exclude one another.
    """
    parts = frozenset(combination.split(".")) - {"none"}
    unknown = sorted(parts - set(PARTS))
    if unknown:
        raise ValueError(f"There is no part {unknown[0]!r}; there are {', '.join(PARTS)}.")
    for pair in ({"A", "B"}, {"M", "M+"}):
        if pair <= parts:
            raise ValueError(f"{combination!r} has both of {' and '.join(sorted(pair))}.")
    return parts


def edited(paper: Any, fitted: Any, kernels: dict[str, Any], parts: frozenset[str]) -> Any:
    """The paper's plan with some parts of the fitted one.

    Args:
        paper: Plan with `Policy(scales="paper")`.
        fitted: Plan of the same network with `Policy(scales="fitted")`.
        kernels: `one_step` of the network.
        parts: Of these, A, B and C count.
    """
    layers = []
    for entry in paper.layers:
        other = fitted[entry.name]
        if "A" in parts:
            entry = dataclasses.replace(entry, kernel=other.kernel, multiplier=other.multiplier)
        elif "B" in parts and entry.kernel is not None:
            entry = dataclasses.replace(entry, kernel=kernels[entry.name])
        if "C" in parts:
            entry = dataclasses.replace(entry, output=other.output)
        layers.append(entry)
    return dataclasses.replace(paper, layers=tuple(layers))


def one_step(graph: Any, paper: Any) -> dict[str, Any]:
    """The kernels' part of the plan with the exponent of least squared error, one per tensor."""
    from faq_keras.fitting import fit_kernel
    from faq_keras.plan_parts import KernelSpec

    specs = {}
    for node in graph.quantized_nodes:
        if not node.has_kernel:
            continue
        bits, weights = paper[node.name].kernel.bits, np.asarray(node.layers[0].kernel, np.float64)
        exponent = fit_kernel(weights, bits).chosen
        # The paper's rule, with the constant that makes it give this exponent.
        specs[node.name] = KernelSpec(bits, float(2.0 ** (bits + exponent - 0.5) / weights.std()))
    return specs


@contextlib.contextmanager
def means_before_the_relu_only(parts: frozenset[str]) -> Iterator[None]:
    """Within this block `reconstruct` corrects means without the shift after the ReLU, if M."""
    from faq_keras.post_training import correction

    if "M" not in parts:
        yield
        return
    no_shift = mock.patch.object(
        correction, "relu_shift", lambda rows, target, limit: np.zeros(np.shape(rows)[-1])
    )
    with no_shift:
        yield


def rows_of(order: Order) -> list[dict[str, Any]]:
    """Measures all combinations on one network in this process."""
    import faq_keras
    from faq_keras.graph_reader import read_graph

    material = networks.load(order.network, order.files, order.seed)
    split, model = networks.shortened(material.split, order.tests), material.model
    floats = figures.float_answers(model, split.images, order.network, order.files.cache)
    some = methods.top_of(material.split.calibration, order.images)
    paper, fitted = (
        faq_keras.plan_of(
            faq_keras.apply(model, order.bits, some, policy=faq_keras.Policy(scales=scales))
        )
        for scales in ("paper", "fitted")
    )
    kernels = one_step(read_graph(model), paper)
    rows = []
    for combination in order.combinations:
        parts, start = parts_of(combination), time.perf_counter()
        if "G" in parts and all(spec.bits >= 8 for spec in kernels.values()):
            continue
        q = faq_keras.apply(model, plan=edited(paper, fitted, kernels, parts))
        if parts & {"G", "M", "M+"}:
            with means_before_the_relu_only(parts):
                means = bool(parts & {"M", "M+"})
                faq_keras.reconstruct(q, some, rounding="G" in parts, means=means)
        seconds = time.perf_counter() - start
        answers = figures.answers(q, split.images)
        score = figures.score(floats, answers, split.labels, material.entry.embeds)
        found = {"network": order.network, "title": material.entry.title, "seed": order.seed}
        found |= {"bits": methods.title(order.bits), "parts": combination, "seconds": seconds}
        rows.append(found | score.figures() | {"images": len(some)})
    return rows


def line(found: dict[str, Any]) -> str:
    """A row of a Markdown table."""
    cells = [found["title"], found["bits"], found["parts"], str(found["seed"])]
    cells += [f"{found['test_images']:,}"]
    if found["top1"] is None:
        cells += ["", ""]
    else:
        cells += [f"{found['top1']:.2f}", f"{found['difference']:+.2f} ± {found['error']:.2f}"]
    cells += [f"{found['agreement']:.1f}", f"{found['sqnr_db']:.1f}", f"{found['seconds']:.1f}"]
    return f"| {' | '.join(cells)} |"


_CASES = flags.DEFINE_list(
    "cases",
    ["resnet20:4", "fashion:4", "efficientnet_lite0:8", "efficientnet_lite0:4x8"],
    "networks with their bits",
)
_COMBINATIONS = flags.DEFINE_list("combinations", list(COMBINATIONS), "what is switched on")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "seeds of the splits")
_IMAGES = flags.DEFINE_integer("images", 256, "calibration images, at most", lower_bound=1)
_TESTS = flags.DEFINE_integer("tests", 0, "test images, at most; 0: all", lower_bound=0)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of data and networks", required=True)
_CACHE = flags.DEFINE_string("cache", None, "folder for converted networks and float logits")
_JSON = flags.DEFINE_string("json", None, "a file for the figures")


def orders(files: networks.Files) -> Iterator[Order]:
    """What the flags ask for, checked."""
    combinations = tuple(_COMBINATIONS.value)
    for combination in combinations:
        parts_of(combination)
    for case in _CASES.value:
        name, _, bits = case.partition(":")
        for seed in map(int, _SEEDS.value):
            sizes = (seed, _IMAGES.value, _TESTS.value, files)
            yield Order(name, methods.parse_bits(bits), combinations, *sizes)


def main(_: list[str]) -> None:
    """One network after the other."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(_CACHE.value or temporary)
        cache.mkdir(parents=True, exist_ok=True)
        print(measure.environment())
        titles = ("network", "bits", "parts", "seed", "n", "top-1", "difference", "agreement")
        titles += ("SQNR dB", "seconds")
        print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", flush=True)
        for order in orders(networks.Files(Path(_DATA_DIR.value), cache)):
            found = measure.alone(rows_of, order)
            rows += found
            print("\n".join(map(line, found)), flush=True)
            if _JSON.value:
                Path(_JSON.value).write_text(json.dumps(rows))


if __name__ == "__main__":
    app.run(main)
