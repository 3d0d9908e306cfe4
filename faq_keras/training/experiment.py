"""An experiment from the float network to the report, in one folder: what `faq train` does.

    experiment = Experiment(network=build, data=pipeline, recipe=recipe("w4a4"), bits=4)
    report = run(experiment, "runs/first", config={"bits": 4})

The float network is pretrained (if asked to) and evaluated, quantized with calibration, trained by
the recipe and evaluated again. The folder gets `config.json`, `start.keras` (the network before its
first step), `plan.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `model.keras` and
`result.json`. Each of these appears whole, so a run that was killed goes on wherever it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from faq_keras.data.pipeline import Pipeline
from faq_keras.files import atomic_write
from faq_keras.graph_reader import read_graph
from faq_keras.plan import PlanSettings
from faq_keras.policy import Policy, layer_bits
from faq_keras.quantization import apply
from faq_keras.rewrite.keras3 import plan_of, record
from faq_keras.saved_models import load_keras
from faq_keras.training import distribution
from faq_keras.training.callbacks import LearningRate, MetricsLog, NaNAlarm
from faq_keras.training.loop import Loop
from faq_keras.training.losses import classification_loss
from faq_keras.training.progress import Progress
from faq_keras.training.recipes import Recipe
from faq_keras.training.trainer import jit_compile, save_result
from faq_keras.training.uncalibrated import uncalibrated_plan
from faq_keras.training.watch import LayerWatch, first_not_finite_output
from faq_keras.training.workdir import (
    CONFIG,
    RESULT,
    WorkdirError,
    claim,
    locked,
    read_json,
    read_metrics,
    write_json,
)
from faq_keras.workers import team

START, MODEL, METRICS, EVENTS = "start.keras", "model.keras", "metrics.jsonl", "tensorboard"
PRETRAINING = "pretraining"
_PACKAGES = ("faq_keras", "tensorflow", "keras", "numpy")
_WATCHED = 64  # images of the batch on which layers are looked at
_FAR_BELOW = 0.05  # of accuracy: further below what is expected than chance explains


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is trained, on what, and how.

    Attributes:
        network: Builds the float network, which takes pixels 0..255.
        data: The batches.
        recipe: Course of the training.
        bits: Bits, or `(weight_bits, activation_bits)`; None trains the float network.
        policy: Deviations from the paper's bits.
        percentile: As for `faq_keras.apply`.
        calibration_batches: As for `faq_keras.apply`; 0 sets the ranges by the paper's rule for
            networks that are not pretrained.
        logits_bits: 16 or 8.
        pretraining: Course of a training of the float network that comes first, or None.
        label_smoothing: Share of the probability that is spread over all classes.
        rate_per: "epoch" or "step": how often the learning rate is set.
        checkpoint_steps: Batches between two checkpoints.
        expected_float_accuracy: Accuracy (0..1) the float network is known to have, or None.
        callbacks: Gives more callbacks for the training in a folder (not for the pretraining).
    """

    network: Callable[[], keras.Model]
    data: Pipeline
    recipe: Recipe
    bits: int | tuple[int, int] | None
    policy: Policy = dataclasses.field(default_factory=Policy)
    percentile: float | None = None
    calibration_batches: int = 5
    logits_bits: int = 16
    pretraining: Recipe | None = None
    label_smoothing: float = 0.0
    rate_per: str = "epoch"
    checkpoint_steps: int = 1000
    expected_float_accuracy: float | None = None
    callbacks: Callable[[Path], Sequence[keras.callbacks.Callback]] = lambda folder: ()


def run(
    experiment: Experiment, workdir: str, config: Mapping[str, Any], resume: bool = False
) -> dict[str, Any]:
    """Runs an experiment, or what is left of it.

    In the scope of a `tf.distribute` strategy it runs on its devices. Several workers have to see
    one and the same folder; the chief writes it.

    Args:
        experiment: What to do.
        workdir: The folder; it is locked meanwhile.
        config: What the experiment was made from, of plain JSON types; decides at a resume whether
            the run in the folder is this one.
        resume: Go on with a run that is there; without one, begin.

    Returns:
        The report: accuracies before, after quantization and after training.

    Raises:
        ValueError: A folder, network or data that cannot be used; the training diverged.
        Interrupted: A signal asked to stop; the run can be resumed.
    """
    folder = Path(workdir)
    crew = team()
    distribution.check_batch_size(experiment.data.batch_size, crew.replicas)
    with crew.watched(), contextlib.ExitStack() as held:

        def begin() -> bool:
            held.enter_context(locked(folder))
            return claim(folder, config, resume)

        fresh = crew.first(begin)
        _check_shared(folder)
        report = {} if fresh else _report_of(folder)
        if report.get("status") == "finished":
            _log().info("The run in %s is finished; there is nothing to go on with.", folder)
            return report
        if fresh and resume:
            _log().info("There is no run in %s yet; this begins one.", folder)
        if not report:
            with _given_back_if_it_fails(folder):
                _prepare(experiment, folder)
        more = experiment.callbacks(folder) if crew.chief else ()
        model = _trained(experiment, experiment.recipe, folder, more)
        record(model, recipe=experiment.recipe.name)
        crew.first(lambda: _finish(model, folder))
        return _report_of(folder)


def _finish(model: keras.Model, folder: Path) -> None:
    save_result(model, folder)
    write_json(folder / RESULT, _report_of(folder) | {"status": "finished"} | _result(folder))


def _check_shared(folder: Path) -> None:
    """Checks that this worker sees what the chief wrote."""
    if not (folder / CONFIG).exists():
        raise WorkdirError(
            f"The chief's run is in {folder}, but this worker does not see it there. All workers "
            "need one and the same folder: name one on a file system that they share."
        )


@contextlib.contextmanager
def _given_back_if_it_fails(folder: Path) -> Iterator[None]:
    """Gives back a folder in which nothing was trained, so that the corrected command can begin."""
    try:
        yield
    except BaseException:
        trained = (folder / START).exists() or (folder / PRETRAINING).exists()
        if team().chief and not trained:
            (folder / CONFIG).unlink(missing_ok=True)
        raise


def _result(folder: Path) -> dict[str, Any]:
    """What the epochs' log says about the trained network."""
    lines = read_metrics(folder / METRICS)
    last = {k.removeprefix("val_"): v for k, v in lines[-1].items() if k.startswith("val_")}
    best = max(lines, key=lambda line: line["val_accuracy"])
    return {
        "trained": last,
        "best": {"epoch": best["epoch"], "accuracy": best["val_accuracy"]},
        "seconds": round(sum(line["seconds"] for line in lines), 1),
    }


def _report_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / RESULT) if (folder / RESULT).exists() else {}


def _prepare(experiment: Experiment, folder: Path) -> None:
    """Writes the network before its first step, its plan, and the report so far."""
    network = _float_network(experiment, folder)
    compile_for(network, experiment, experiment.recipe)
    report: dict[str, Any] = {
        "status": "running",
        "model": network.name,
        "recipe": experiment.recipe.name,
        "epochs": experiment.recipe.epochs,
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "float": evaluated(network, experiment.data),
    }
    warn_of_preprocessing(report["float"]["accuracy"], experiment)
    model = network
    if experiment.bits is not None:
        model = quantized(network, experiment)
        compile_for(model, experiment, experiment.recipe)
        report |= {"quantized": evaluated(model, experiment.data), "plan": plan_of(model).hash}

    def write() -> None:
        if experiment.bits is not None:
            plan_of(model).save(folder / "plan.json")
        _save_model(model, folder / START)
        write_json(folder / RESULT, report)  # last: says that the start is complete

    team().first(write)


def _float_network(experiment: Experiment, folder: Path) -> keras.Model:
    if experiment.pretraining is None:
        return _built(experiment)
    folder, crew = folder / PRETRAINING, team()
    if not crew.first((folder / MODEL).exists):
        if not crew.first((folder / START).exists):
            network = _built(experiment)
            crew.first(lambda: _save_model(network, folder / START))
        _log().info("Pretraining for %d epochs, in %s.", experiment.pretraining.epochs, folder)
        model = _trained(experiment, experiment.pretraining, folder)
        crew.first(lambda: save_result(model, folder))
    return load_keras(folder / MODEL)


def _built(experiment: Experiment) -> keras.Model:
    """The float network, after everything was checked that can be checked before hours of work."""
    network = experiment.network()
    check_network(network, experiment.data)
    if experiment.bits is not None:
        settings = PlanSettings(*bit_pair(experiment.bits), experiment.logits_bits)
        layer_bits(read_graph(network), settings, experiment.policy)
    return network


def bit_pair(bits: int | tuple[int, int]) -> tuple[int, int]:
    """`(weight_bits, activation_bits)`."""
    return bits if isinstance(bits, tuple) else (bits, bits)


def _save_model(model: keras.Model, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path, within=path.parent) as partial:
        model.save(partial)


def quantized(network: keras.Model, experiment: Experiment) -> keras.Model:
    """The quantized twin of the float network, calibrated or by the rule."""
    bits = experiment.bits
    assert bits is not None
    if experiment.calibration_batches:
        return apply(
            network,
            bits,
            calibration_data=experiment.data.calibration(experiment.calibration_batches),
            calibration_batches=experiment.calibration_batches,
            percentile=experiment.percentile,
            logits_bits=experiment.logits_bits,
            policy=experiment.policy,
        )
    images = experiment.data.calibration(1)
    plan = uncalibrated_plan(
        network, bit_pair(bits), images, experiment.logits_bits, experiment.policy
    )
    return apply(network, plan=plan)


def check_network(network: keras.Model, data: Pipeline) -> None:
    """Compares the network with the data before anything is computed.

    Raises:
        ValueError: It takes other images or gives another number of scores.
    """
    takes, gives = network.input_shape, network.output_shape
    fits = (
        isinstance(takes, tuple)
        and len(takes) == 4
        and all(
            want in (None, have) for want, have in zip(takes[1:], data.input_shape, strict=True)
        )
    )
    if not fits:
        raise ValueError(
            f"The network '{network.name}' takes inputs of the shape {takes}, the data gives "
            f"images of {data.input_shape}. Set data.size and data.channels, or take another "
            "network."
        )
    if gives != (None, data.classes):
        raise ValueError(
            f"The network '{network.name}' gives {gives[1:]} scores, but {data.source.name} has "
            f"{data.classes} classes. Take a network with as many outputs as there are classes."
        )


def compile_for(network: keras.Model, experiment: Experiment, recipe: Recipe) -> None:
    """Compiles a network for an experiment: cross-entropy, top-1 and (from 6 classes on) top-5."""
    data = experiment.data
    labels = (None, data.classes) if data.one_hot else (None,)
    loss = classification_loss(network, labels)
    metrics: list[Any] = ["accuracy"]
    if data.one_hot:
        config = loss.get_config() | {"label_smoothing": experiment.label_smoothing}
        loss = type(loss).from_config(config)
    if data.classes > 5:
        kinds = keras.metrics.SparseTopKCategoricalAccuracy, keras.metrics.TopKCategoricalAccuracy
        metrics.append(kinds[data.one_hot](5, name="top5"))
    network.compile(
        optimizer=dataclasses.replace(recipe).optimizer,  # a copy has an optimizer of its own
        loss=loss,
        metrics=metrics,
        jit_compile=jit_compile(),
    )
    distribution.synchronize(network)


def evaluated(network: keras.Model, data: Pipeline) -> dict[str, float]:
    """Metrics of a compiled network on the validation images."""
    with data.corrupt.named():
        return distribution.evaluated(network, data.validation())


def warn_of_preprocessing(accuracy: float, experiment: Experiment) -> None:
    """Warns when the float network is far from what it is known to reach."""
    expected = experiment.expected_float_accuracy
    if expected is not None and accuracy < expected - _FAR_BELOW:
        _log().warning(
            "The float network reaches an accuracy of %.4f on the validation images, the "
            "configuration expects %.4f. Calibration and training would start from a broken "
            "network: check that data.mean, data.std, the transform, the colour order and the "
            "order of the classes are those the weights were trained with.",
            accuracy,
            expected,
        )


def _trained(
    experiment: Experiment,
    recipe: Recipe,
    folder: Path,
    more: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """The network of the folder's `start.keras` after the recipe, or what is left of it.

    It is always read from the file, with the seed set, so that a run that is resumed before its
    first checkpoint has the same random generators.
    """
    keras.utils.set_random_seed(experiment.data.seed)
    model = load_keras(folder / START)
    compile_for(model, experiment, recipe)
    data = experiment.data
    images = next(data.calibration(1))[:_WATCHED]
    steps = data.steps_per_epoch
    callbacks = [
        LearningRate(recipe.learning_rate, steps if experiment.rate_per == "step" else None),
        *recipe.other_callbacks,
        NaNAlarm(lambda network: first_not_finite_output(network, images)),
    ]
    if team().chief:
        watch = LayerWatch(images, folder / EVENTS / "layers", _last_layers(folder / METRICS))
        callbacks += [
            watch,
            MetricsLog(folder / METRICS, layers=watch),
            keras.callbacks.TensorBoard(str(folder / EVENTS), write_graph=False),
            Progress(recipe.epochs, steps, data.batch_size),
        ]
    callbacks += more
    loop = Loop(model, data, recipe, folder, experiment.checkpoint_steps, callbacks)
    with data.corrupt.named():
        loop.run(resume=True)
    if data.corrupt.names:
        _log().warning("%s: %s", data.source.name, data.corrupt)
    return model


def _last_layers(path: Path) -> Mapping[str, Any] | None:
    """The layers' states in the last line of `metrics.jsonl`, if there is one."""
    lines = read_metrics(path) if path.exists() else []
    return lines[-1].get("layers") if lines else None


def _log() -> logging.Logger:
    return logging.getLogger(__name__)
