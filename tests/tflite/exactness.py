"""What every exactness test does: write, run, and demand 0 mismatches in every tensor."""

import numpy as np

from faq_keras.integer import reference
from faq_keras.tflite import parity, writer


def assert_exact(builder, output, tmp_path, images=16, weights=("int8",), least_values=2):
    """The reference equals XNNPACK on every tensor; prints N. Returns the reports.

    `least_values`: the output must take as many different values, or the test shows nothing.
    """
    program = builder.build(output)
    feed = builder.images(program, images)
    reports = []
    for kind in weights:
        path = tmp_path / f"{kind}.tflite"
        writer.write(program, path, kind)
        report = parity.compare(feed, program, path)
        print(f"\n{report}")
        assert report.mismatches == 0, str(report)
        assert report.values > 0
        reports.append(report)
    assert distinct(program, feed, output) >= least_values
    return program, feed, reports


def distinct(program, feed, name):
    return len(np.unique(reference.run(program, feed)[name]))
