"""What fitted scales and `reconstruct` cost, in seconds and memory.

    python benchmarks/post_training/time_and_memory.py --data_dir=../shared/data --cache=CACHE
    python benchmarks/post_training/time_and_memory.py --jobs=apply --networks=resnet20

`apply` with fitted scales takes turns, on ResNet-20 (32x32) and ResNet-18 (224x224) with random
weights, with the paper's scales and with what `apply` did before there were others: the paper's
plan, and no comparison with the float network. The ratio is the median over the rounds.
`reconstruct` runs once, in
a fresh process: on ResNet-18 at 224 with 128 random images, and on EfficientNet-Lite0 with its own
weights and 50 photographs. Its memory is the peak of that process, TensorFlow included, and how far
that lies above what was there before. Aims: 2.0 times the time before; 3 minutes and 4 GB; 2
minutes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import measure
import networks as timed_networks
import numpy as np
from absl import app, flags
from post_training import methods, networks

_AIM_APPLY, _AIM_MEMORY_GB = 2.0, 4.0
_AIM_SECONDS = {"resnet18": 180.0, "efficientnet_lite0": 120.0}

_JOBS = flags.DEFINE_list("jobs", ["apply", "reconstruct"], "what is measured")
_NETWORKS = flags.DEFINE_list("networks", ["resnet20", "resnet18"], "networks to apply")
_BITS = flags.DEFINE_list("bits", ["8", "4"], "widths to apply with")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds that count", lower_bound=1)
_IMAGES = flags.DEFINE_integer("images", 128, "images for ResNet-18's reconstruction")
_RECONSTRUCT_BITS = flags.DEFINE_string("reconstruct_bits", "4x8", "width to reconstruct with")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of data and networks", required=True)
_CACHE = flags.DEFINE_string("cache", None, "folder for converted networks")


def apply_times(name: str, bits: int) -> str:
    """Two lines: fitted scales over the paper's, and over `apply` as it was before."""
    import keras

    import faq_keras
    from faq_keras.graph_reader import read_graph
    from faq_keras.planning import PlanRequest

    case = timed_networks.CASES[name]
    model = case.build(keras)
    count, size = case.calibration
    batches = np.split(timed_networks.images(model, count * size), count)

    def applied(scales: str) -> Any:
        policy = faq_keras.Policy(scales=scales)
        return lambda: faq_keras.apply(model, bits, batches, count, policy=policy)

    def before() -> None:
        request = PlanRequest(bits, batches, count, policy=faq_keras.Policy(scales="paper"))
        faq_keras.apply(model, plan=request.plan_for(read_graph(model)))

    candidates = {scales: applied(scales) for scales in ("fitted", "paper")}
    times = measure.take_turns(candidates | {"before": before}, _ROUNDS.value)
    for title, seconds in times.items():
        print(f"  {title}: {seconds}")
    title = f"{name} W{bits}A{bits}, {count} batches of {size}: apply, fitted /"
    lines = [
        measure.ratio_line(f"{title} {other}", times["fitted"], times[other], _AIM_APPLY)
        for other in ("paper", "before")
    ]
    return "\n".join(lines)


def reconstruction(
    name: str, bits: tuple[int, int], images: int, files: networks.Files
) -> dict[str, float]:
    """Seconds and memory of `reconstruct` in this process."""
    import faq_keras
    from faq_keras.converters.parity import peak_memory_mb

    if name == "resnet18":
        import keras

        model = timed_networks.resnet18(keras)
        x = timed_networks.images(model, images)
    else:
        material = networks.load(name, files, seed=0)
        model, x = material.model, methods.top_of(material.split.calibration, images)
    q = faq_keras.apply(model, bits, x)
    start, cpu = time.perf_counter(), time.process_time()
    above = measure.peak_memory_above_now(lambda: faq_keras.reconstruct(q, x))
    return {
        "images": len(x),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "above_mb": above,
        "peak_gb": peak_memory_mb() / 1024,
    }


def main(_: list[str]) -> None:
    """One measurement after the other."""
    print(measure.environment(), flush=True)
    if "apply" in _JOBS.value:
        for name in _NETWORKS.value:
            for bits in map(int, _BITS.value):
                print(apply_times(name, bits), flush=True)
    if "reconstruct" not in _JOBS.value:
        return
    bits = methods.parse_bits(_RECONSTRUCT_BITS.value)
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(_CACHE.value or temporary)
        cache.mkdir(parents=True, exist_ok=True)
        files = networks.Files(Path(_DATA_DIR.value), cache)
        for name, aim in _AIM_SECONDS.items():
            found = measure.alone(reconstruction, name, bits, _IMAGES.value, files)
            seconds = measure.verdict(found["seconds"], aim)
            peak = measure.verdict(found["peak_gb"], _AIM_MEMORY_GB)
            print(
                f"reconstruct, {name} {methods.title(bits)}, {found['images']} images: seconds "
                f"{seconds} (processor time {found['cpu_seconds']:.0f}); peak GB of the process "
                f"{peak} ({found['above_mb']:.0f} MB above what was there before)",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
