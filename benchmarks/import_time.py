"""How much `import faq_keras` adds to `import tensorflow`.

    python benchmarks/import_time.py --rounds=10

Each round starts two new processes, one after the other; the difference of their medians counts,
elapsed and of processor time, which other processes on the machine disturb less.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

STATEMENTS = {
    "tensorflow": "import tensorflow as tf; tf.keras.layers",
    "tensorflow, faq_keras": "import tensorflow as tf; tf.keras.layers; import faq_keras",
}
AIM = 1.0  # seconds


def seconds(statement: str) -> tuple[float, float]:
    """Elapsed and processor seconds of a new Python process that runs a statement."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Prints both medians and their difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    times = {name: np.zeros((rounds, 2)) for name in STATEMENTS}
    for turn in range(-1, rounds):  # the first round fills the page cache
        for name, statement in STATEMENTS.items():
            found = seconds(statement)
            if turn >= 0:
                times[name][turn] = found
    medians = {name: np.median(values, axis=0) for name, values in times.items()}
    for name, (wall, cpu) in medians.items():
        print(f"import {name}: {wall:.2f} s ({cpu:.2f} s of processor time)")
    wall, cpu = np.subtract(*reversed(medians.values()))
    print(f"faq_keras adds {wall:.2f} s ({cpu:.2f} s of processor time); aim: {AIM:g} s")


if __name__ == "__main__":
    main()
