"""The parts of a run's report that look into the network: noise, distance, ranges, layers, parity.

Each function takes the runs and their measurements and gives a section; what cannot be measured
becomes a notice that says why.

    section = similarity(pairs)                # pairs of Run and Measurements
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from faq_keras.diagnostics import ActivationStatistics, TensorStatistics, plots
from faq_keras.plan import FIT_COLUMNS, QuantPlan
from faq_keras.report import drawings
from faq_keras.report.document import Picture, Section, Table
from faq_keras.report.measurements import Measurements, NotMeasuredError
from faq_keras.report.pictures import PAGE
from faq_keras.report.runs import NOISE, Run
from faq_keras.report.schema import number
from faq_keras.report.sections import digits, percent
from faq_keras.texts import reason_of

Pairs = Sequence[tuple[Run, Measurements]]
_SHOWN_TENSORS = 24  # histograms in one picture; the table has all tensors


def noise(runs: Sequence[Run]) -> Section:
    """Gradient noise over the layers, a line per run (the paper's Figure 1), and over time."""
    title = "Gradient noise"
    known = {run.name: run.noise for run in runs if run.noise}
    notices = tuple(
        f"{run.name} has no {NOISE}: train with --config.gradient_noise_steps=100 to measure it."
        for run in runs
        if not run.noise
    )
    if not known:
        return Section("noise", title, notices=notices)
    last = {name: dict(lines[-1].get("layers") or {}) for name, lines in known.items()}
    pictures = []
    if len({tuple(layers) for layers in last.values()}) == 1 and next(iter(last.values())):
        pictures.append(noise_picture(last))
    else:
        notices = (*notices, "The runs have other layers each; they share no picture.")
    over_time = {
        name: [(int(line["step"]), _mean(line.get("layers"))) for line in lines]
        for name, lines in known.items()
    }
    rows = tuple(
        (name, str(update), digits(cosine))
        for name, points in over_time.items()
        for update, cosine in points
    )
    pictures.append(
        Picture(
            "noise-over-updates",
            "Similarity during the training",
            "Mean over the layers of the cosine between intended and quantized steps.",
            plots.similarity_over_updates(over_time, PAGE),
            Table("Mean over the layers", ("run", "update", "cosine"), rows),
        )
    )
    return Section("noise", title, notices=notices, pictures=tuple(pictures), data=last)


def noise_picture(layers: Mapping[str, Mapping[str, float | None]]) -> Picture:
    """Figure 1: a line per precision over the layers, at the last record.

    Args:
        layers: Cosine of each layer, by name of the run.
    """
    means = {name: _mean(values) for name, values in layers.items()}
    names = list(next(iter(layers.values())))
    rows = tuple((layer, *(digits(values[layer]) for values in layers.values())) for layer in names)
    said = ", ".join(f"{name} {digits(value, '.3f')}" for name, value in means.items())
    return Picture(
        "noise-over-layers",
        "Similarity of intended and quantized steps over the layers",
        f"Cosine between the optimizer's step and the moving average of the quantized steps; 1 "
        f"would be no noise. Means over the layers: {said}.",
        plots.similarity_over_layers(layers, PAGE),
        Table("Cosine of each layer", ("layer", *layers), rows),
    )


def similarity(pairs: Pairs) -> Section:
    """Distance of the weights from where they started (the paper's Figure 2)."""
    found, notices = _measured(pairs, "similarity")
    if not found:
        return Section("similarity", "Distance from the start", notices=notices)
    layers = {name: data["layers"] for name, data in found.items()}
    names = list(dict.fromkeys(layer for values in layers.values() for layer in values))
    rows = tuple((n, *(digits(values.get(n)) for values in layers.values())) for n in names)
    total = ("all neurons", *(digits(data["network"]) for data in found.values()))
    said = ", ".join(f"{name} {digits(data['network'], '.3f')}" for name, data in found.items())
    picture = Picture(
        "similarity-of-layers",
        "Cosine between the weights before and after training",
        f"1: the direction did not change. Means over all neurons: {said}. The paper has 0.994 "
        "from a pretrained network and 0.023 from random weights.",
        drawings.layer_similarity(layers),
        Table("Mean over the neurons of each layer", ("layer", *found), (*rows, total)),
    )
    return Section(
        "similarity",
        "Distance from the start",
        notices=notices,
        pictures=(picture,),
        data={n: {"network": d["network"], "layers": d["layers"]} for n, d in found.items()},
    )


def activations(pair: tuple[Run, Measurements]) -> Section:
    """Ranges of the activations against their exponents."""
    title = "Activations and their ranges"
    found, notices = _measured((pair,), "activations")
    if not found:
        return Section("activations", title, notices=notices)
    data = next(iter(found.values()))
    tensors = ActivationStatistics.from_json(json.dumps(data)).tensors
    shown = tensors[:_SHOWN_TENSORS]
    if len(shown) < len(tensors):
        more = f"Only the first {len(shown)} of {len(tensors)} tensors have a histogram."
        notices = (*notices, more)
    numbers = _tensor_table(tensors)
    worst = max(tensors, key=lambda tensor: tensor.saturation)
    pictures = (
        Picture(
            "activation-histograms",
            "Values of each activation and where its codes end",
            "Histograms of the float values (logarithmic); dashed: the largest value with a code. "
            f"Most saturated: {worst.name}, {percent(worst.saturation)} of its codes.",
            plots.activation_histograms(shown, style=PAGE),
            numbers,
        ),
        Picture(
            "signal-to-noise",
            "Signal to noise of each activation",
            "Where the tensor's own ratio is low, it has the wrong range or too few bits; where "
            "only the other one is low, the noise comes from layers before it.",
            plots.signal_to_noise(tensors, PAGE),
            _ratio_table(tensors),
        ),
    )
    text = (f"Measured on {data['images']:,} validation images.",)
    return Section("activations", title, text, notices, pictures=pictures, data=data)


def layers(pair: tuple[Run, Measurements]) -> Section:
    """Bits, bytes and time of each layer of the exported file."""
    title = "Layers: bits, bytes, time"
    run, _ = pair
    found, notices = _measured((pair,), "deployment")
    if not found:
        tables = (_plan_table(run.plan), *_fit_tables(run.plan)) if run.plan else ()
        return Section("layers", title, notices=notices, tables=tables)
    data = next(iter(found.values()))
    times = {op["name"]: op["us"] for op in data["benchmark"]["ops"] or ()}
    rows = [row for row in data["rows"] if row["op"] != "INPUT"]
    table = Table(
        "Every operator of the file",
        ("operator", "kind", "weight bits", "output bits", "output step", "bytes", "us"),
        tuple(
            (
                row["name"],
                row["op"],
                str(row["weight_bits"] or ""),
                str(row["bits"] or ""),
                row["scale"],
                f"{row['weight_bytes']:,}",
                digits(times.get(row["name"]), ".1f"),
            )
            for row in rows
        ),
    )
    names = [row["name"] for row in rows]
    sizes = [row["weight_bytes"] for row in rows]
    costs = [number(times.get(name)) or 0.0 for name in names]
    total = data["benchmark"]["median_us"]
    picture = Picture(
        "layer-costs",
        "What each operator costs",
        f"The file has {data['bytes']:,} bytes and takes {total:,.0f} us per image (median of "
        f"{data['benchmark']['num_runs']} runs, one thread of the machine that wrote this "
        "report). Operators measured alone miss what the runtime fuses.",
        drawings.layer_costs(names, sizes, costs),
        table,
    )
    return Section(
        "layers",
        title,
        notices=notices,
        tables=_fit_tables(run.plan),
        pictures=(picture,),
        data=data["benchmark"],
    )


def parity(pair: tuple[Run, Measurements]) -> Section:
    """Whether the exported file computes what the model computes, per runtime."""
    title = "Parity of the exported file"
    found, notices = _measured((pair,), "deployment")
    if not found:
        return Section("parity", title, notices=notices)
    data = next(iter(found.values()))["parity"]
    rows = tuple(
        (
            run["runtime"],
            f"{run['mismatches']:,}",
            f"{run['values']:,}",
            str(run["tensors"]),
            str(run["images"]),
            percent(run["top1"]),
            percent(run["expected_top1"]),
            ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        )
        for run in data["runs"]
    )
    columns = (
        "runtime",
        "mismatches",
        "values",
        "tensors",
        "images",
        "top-1",
        "top-1 of Keras",
        "versions",
    )
    text = (
        "Each runtime is compared, integer by integer, with what it has to compute under its own "
        "rounding; xnnpack rounds as the model was trained.",
    )
    table = Table("Comparison of every tensor", columns, rows)
    return Section("parity", title, text, notices, tables=(table,), data=data)


def _measured(pairs: Pairs, what: str) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """One measurement of every run that has it, and why the others have not."""
    found, notices = {}, []
    for run, measurements in pairs:
        try:
            found[run.name] = getattr(measurements, what)()
        except NotMeasuredError as error:
            notices.append(f"{run.name}: {error}")
        except Exception as error:  # whatever a damaged network makes Keras or a runtime raise
            logging.getLogger(__name__).debug("%s: %s", run.folder, what, exc_info=True)
            notices.append(f"{run.name} cannot be measured: {reason_of(error)}")
    return found, tuple(notices)


def _mean(layers: Any) -> float | None:
    known = [value for v in dict(layers or {}).values() if (value := number(v)) is not None]
    return sum(known) / len(known) if known else None


def _tensor_table(tensors: Sequence[TensorStatistics]) -> Table:
    columns = ("tensor", "bits", "step", "largest code", "largest value", "saturated", "bits used")
    rows = tuple(
        (
            tensor.name,
            str(tensor.bits),
            f"2^{tensor.exponent}",
            f"{tensor.clip:.4g}",
            f"{tensor.maximum:.4g}",
            percent(tensor.saturation),
            f"{tensor.bits_used:.1f}",
        )
        for tensor in tensors
    )
    return Table("Every activation", columns, rows)


def _ratio_table(tensors: Sequence[TensorStatistics]) -> Table:
    rows = tuple((t.name, digits(t.sqnr, ".1f"), digits(t.own_sqnr, ".1f")) for t in tensors)
    return Table("Signal to noise in dB", ("tensor", "with all noise before it", "its own"), rows)


def _plan_table(plan: QuantPlan) -> Table:
    rows = tuple(row for layer in plan.layers for row in layer.rows())
    return Table("The plan", ("tensor", "role", "bits, step, range"), rows)


def _fit_tables(plan: QuantPlan | None) -> tuple[Table, ...]:
    """How each exponent was chosen, if they were fitted."""
    rows = tuple(plan.fit_rows()) if plan else ()
    return (Table("Scales: the candidates of each tensor", FIT_COLUMNS, rows),) if rows else ()
