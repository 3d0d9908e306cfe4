"""`reconstruct`: rounding and means of a quantized network from a few unlabelled images.

One walk, layer by layer, with the inputs that the corrected layers before give. Kernels below 8
bits get the codes that change the layer's output least (`rounding`); then the means of its channels
are made those of the float network (`means`). Nothing but kernels, moving means and biases changes:
the plan, the format and the exactness of exported files stay what they are.

    q = faq_keras.apply(model, bits=4, calibration_data=x)
    print(faq_keras.reconstruct(q, x[:256]))
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from faq_keras.data.batches import input_batches
from faq_keras.plan import PlanSettings
from faq_keras.plan_parts import Agreement
from faq_keras.post_training.correction import Options
from faq_keras.post_training.journal import Journal, hash_of
from faq_keras.post_training.network import Network, trace
from faq_keras.post_training.result import OutputResult, Reconstruction
from faq_keras.post_training.store import ActivationStore
from faq_keras.post_training.teacher import Comparison, measure
from faq_keras.post_training.teachers import remember_own
from faq_keras.post_training.walk import Walk
from faq_keras.rewrite.keras3 import plan_of, record

LEAST_IMAGES, ENOUGH_IMAGES, MOST_IMAGES = 32, 64, 512


def reconstruct(
    q: Any,
    images: Any,
    rounding: bool = True,
    means: bool = True,
    batch_size: int = 32,
    workdir: str | Path | None = None,
) -> Reconstruction:
    """Recovers accuracy that quantization lost, without labels or training.

    The model is changed in place: kernels below 8 bits, and batch normalizations' moving means (or
    biases). After an error, or Ctrl-C, it is what it was before. The same model and images give the
    same weights.

    Args:
        q: A model that `faq_keras.apply` made, of either Keras; it may have been fine-tuned since.
        images: 64 to 512 unlabelled images as the model takes them: an array, a dictionary or list
            of arrays for several inputs, a `tf.data.Dataset` or an iterable of `x` or `(x, y)`
            batches. Of more, the first 512 are used.
        rounding: Whether kernels below 8 bits get better codes.
        means: Whether the means of channels are corrected. Those of logits are with 20 images or
            more per class only: fewer would write their own classes into the network.
        batch_size: Images that are computed at a time.
        workdir: A folder for the activations and a journal of finished layers: after a kill, the
            same call on the same model (loaded or made again) goes on where it ended. One process
            at a time may work in it.

    Returns:
        Noise of each layer and agreement with the float network, before and after.

    Raises:
        ValueError: The model carries no plan; fewer than 32 images, ones with NaN or infinite
            values or of another shape; a disk that is full; a journal that belongs to something
            else or is damaged.
    """
    begun = time.monotonic()
    settings = plan_of(q).settings
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, received {batch_size!r}.")
    if not (rounding or means):
        raise ValueError("There is nothing to do: rounding and means are both False.")
    network = trace(q)
    _make(workdir)
    with (
        ActivationStore(workdir, network.peak_bytes(MOST_IMAGES)) as store,
        restored_after_errors(q),
    ):
        count, more, digest = _store_images(network, store, images)
        _check_count(count)
        store.planned = network.peak_bytes(count)
        options = Options(rounding, means)
        journal = None
        if workdir is not None:
            journal = Journal(workdir, _key(q, digest, f"{options}, batch_size={batch_size}"))
        steps = -(-count // batch_size) + sum(not step.is_input for step in network.steps)
        remember_own(q)
        with progress(steps) as advance:
            measured = measure(network, store, count, batch_size, advance)
            walk = Walk(network, store, measured, count, batch_size, journal, advance)
            layers, after = walk.run(options)
    outputs = tuple(map(_output, network.output_names, measured.outputs, after))
    _record(q, outputs, count)
    return Reconstruction(
        layers=tuple(layers),
        outputs=outputs,
        images=count,
        more_images=more,
        seconds=time.monotonic() - begun,
        teacher=_teacher(settings),
    )


def _teacher(settings: PlanSettings) -> str:
    """Which float network q is compared with: the one it holds, whatever has changed it since."""
    name = "the float network of q"
    if settings.recipe:
        name += f", fine-tuned by recipe {settings.recipe}"
    return name + (f", changed by {settings.post_training}" if settings.post_training else "")


def _make(workdir: str | Path | None) -> None:
    if workdir is not None:
        try:
            Path(workdir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"The folder {workdir} cannot be made: {error.strerror}. Name another workdir."
            ) from error


def _store_images(network: Network, store: ActivationStore, images: Any) -> tuple[int, bool, str]:
    """Stores the images; gives how many, whether there are more, and their hash."""
    count, digest = 0, hashlib.sha256()
    for batch in input_batches(images, None, network.input_shapes, "reconstruction"):
        sizes = {len(values) for values in batch.values()}
        if len(sizes) > 1:
            raise ValueError("The inputs of a reconstruction batch differ in their number.")
        room = MOST_IMAGES - count
        for name, values in batch.items():
            store.append(name, values[:room])
            digest.update(np.ascontiguousarray(values[:room]).data)
        count += min(room, *sizes)
        if max(sizes) > room:
            return count, True, digest.hexdigest()
    return count, False, digest.hexdigest()


def _check_count(count: int) -> None:
    if count < LEAST_IMAGES:
        raise ValueError(
            f"Reconstruction has {count} images; it needs at least {LEAST_IMAGES}, better "
            f"{ENOUGH_IMAGES} to {MOST_IMAGES}. They need no labels: take more of the training "
            "images."
        )
    if count < ENOUGH_IMAGES:
        warnings.warn(
            f"Reconstruction has {count} images only: give {ENOUGH_IMAGES} to {MOST_IMAGES} for "
            "means that hold for other images, too.",
            stacklevel=3,
        )


def _key(q: Any, images: str, options: str) -> dict[str, str]:
    """What the result depends on."""
    weights = hash_of([variable.numpy() for variable in q.weights])
    plan = plan_of(q)
    settings = PlanSettings(plan.settings.weight_bits, plan.settings.activation_bits)
    layers = dataclasses.replace(plan, settings=settings)  # how they came about does not matter
    return {"plan": layers.hash, "weights": weights, "images": images, "options": options}


@contextlib.contextmanager
def restored_after_errors(model: Any) -> Iterator[None]:
    """After an exception in the block, whatever it is, the model has the weights it had before."""
    before = [variable.numpy() for variable in model.weights]
    try:
        yield
    except BaseException:
        for variable, value in zip(model.weights, before, strict=True):
            variable.assign(value)
        raise


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, nothing elsewhere; gives a function that moves it by one."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reconstruct", total=steps)
        yield lambda name: bar.update(task, advance=1, description=f"reconstruct: {name}")


def _output(name: str, before: Comparison, after: Comparison) -> OutputResult:
    return OutputResult(name, before.agreement, after.agreement, before.sqnr, after.sqnr)


def _record(q: Any, outputs: tuple[OutputResult, ...], images: int) -> None:
    """Notes in the plan what was done, and how the outputs agree now."""
    agreement = []
    for output in outputs:
        ratio = 100.0 if output.sqnr_after is None else output.sqnr_after
        ratio = round(min(max(ratio, -100.0), 100.0), 2)
        agreement.append(Agreement(output.name, images, output.agreement_after, ratio))
    record(q, post_training="reconstruct", agreement=tuple(agreement))
