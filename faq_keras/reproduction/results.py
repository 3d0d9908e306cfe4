"""What `faq reproduce` writes: the table or figure, what it was run with, what was not run.

document = results("table2", "small", runs, seeds=(1, 2), command="faq reproduce table2 ...")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from faq_keras.report.document import Document, Section
from faq_keras.report.runs import read_run
from faq_keras.report.sections import provenance
from faq_keras.reproduction import figures, tables
from faq_keras.reproduction.experiments import FULL
from faq_keras.reproduction.runs import Runs
from faq_keras.reproduction.scales import SCALES

SECTIONS: Mapping[str, Callable[[Runs], Section]] = {
    "table1": tables.table1,
    "table2": tables.table2,
    "figure1": figures.figure1,
    "figure2": figures.figure2,
    "cifar10": tables.cifar10,
}
_FORMAT = "faq_keras.reproduction/1"


def results(name: str, scale: str, runs: Runs, seeds: Sequence[int], command: str) -> Document:
    """The document of a table or figure.

    Args:
        name: Which one.
        scale: On which scale it was run.
        runs: Its runs, finished or not.
        seeds: Seeds of each row.
        command: The command that makes it again.
    """
    outcomes = [outcome for row in runs.rows for outcome in runs.outcomes(row.name)]
    finished = [outcome for outcome in outcomes if outcome.status == "finished"]
    task = _task(name, scale)
    seconds = sum(outcome.result.get("seconds", 0.0) for outcome in finished)
    how = Section(
        "how",
        "How it was run",
        text=(
            f"Command: {command}",
            f"Task: {task}. Seeds: {', '.join(map(str, seeds))}. A ± is the standard deviation "
            "over the seeds, which start from one and the same network.",
            f"{len(finished)} of {len(outcomes)} trainings are finished; they took "
            f"{seconds / 60:.0f} min.",
        ),
    )
    done = [read_run(o.folder, o.folder.relative_to(runs.folder).as_posix()) for o in finished]
    summary = f"{task[0].upper()}{task[1:]}; published values beside measured ones."
    facts = {"format": _FORMAT, "name": name, "scale": scale, "seeds": list(seeds)}
    section = SECTIONS[name](runs)
    return Document(
        f"{section.title} (scale: {scale})", summary, (section, how, provenance(done)), facts
    )


def _task(name: str, scale: str) -> str:
    if scale == FULL:
        return "the paper's own experiment"
    own = SCALES[scale].cifar10_task if name in ("cifar10", "figure1") else ""
    return own or SCALES[scale].task
