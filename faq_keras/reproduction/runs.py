"""Runs the rows of an experiment one after the other, and reads what they left.

Every row and seed has a folder of its own, `WORKDIR/SCALE/ROW/seed1`, in which an ordinary training
runs. A finished one is never run again, an interrupted one goes on where it stopped, and one that
fails leaves its message to the table and the others their turn:

    runs = Runs(plan, Path("runs/paper") / "small", seeds=(1, 2), train=train)
    runs.run()
    runs.outcomes("standard")             # [Outcome(seed=1, status="finished", result={...}), ...]
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ml_collections.config_dict import ConfigDict

from faq_keras.reproduction.experiments import Row
from faq_keras.training.workdir import CONFIG, RESULT, config_differences, read_json

Train = Callable[[ConfigDict, Path], object]
"""Runs a configuration in a folder, or what is left of it."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is known of a row with one seed.

    Attributes:
        seed: The seed.
        folder: Its folder, which may not exist.
        status: "finished", "not finished", "failed" or "not run".
        result: What the training reported, as far as it came.
        reason: Why it failed or was not run.
    """

    seed: int
    folder: Path
    status: str
    result: dict[str, Any]
    reason: str = ""


class Runs:
    """The trainings of one experiment in one folder.

    Args:
        rows: The experiment.
        folder: Where the rows' folders lie.
        seeds: Seeds of each row. A row that others start from is trained with the first one only,
            as the paper has one pretrained network.
        train: What trains.
        only: Names of the rows to run; those that they start from are run too.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        folder: Path,
        seeds: Sequence[int],
        train: Train,
        only: Collection[str] | None = None,
    ) -> None:
        self.rows = list(rows)
        self.folder = folder
        self._seeds = tuple(seeds)
        self._train = train
        self._failures: dict[Path, str] = {}
        starts = {row.start for row in rows if only is None or row.name in only}
        self._chosen = {row.name for row in rows} if only is None else {*only, *starts}

    def run(self) -> None:
        """Runs whatever is chosen and not finished; the first seed of every row comes first.

        Raises:
            Interrupted: A signal asked to stop; everything can go on.
        """
        for index in range(len(self._seeds)):
            for row in self.rows:
                if row.name in self._chosen and index < len(self._seeds_of(row)):
                    self._run(row, self._seeds[index])

    def outcomes(self, name: str) -> list[Outcome]:
        """What is known of a row, seed by seed."""
        row = self._row(name)
        return [self._outcome(row, seed) for seed in self._seeds_of(row)]

    @property
    def shown(self) -> list[Row]:
        """The rows of the table."""
        return [row for row in self.rows if row.shown]

    @property
    def failed(self) -> bool:
        """Whether a run of this call failed."""
        return bool(self._failures)

    def _row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def _seeds_of(self, row: Row) -> tuple[int, ...]:
        shared = any(other.start == row.name for other in self.rows)
        return self._seeds[:1] if shared else self._seeds

    def _folder_of(self, row: Row, seed: int) -> Path:
        return self.folder / row.name / f"seed{seed}"

    def _run(self, row: Row, seed: int) -> None:
        folder = self._folder_of(row, seed)
        log = logging.getLogger(__name__)
        try:
            config = self._config(row, seed)
            if _result(folder).get("status") == "finished":
                _check_same(config, folder)
                log.info("%s, seed %d: finished already, in %s.", row.name, seed, folder)
            else:
                log.info("%s, seed %d: %s, in %s.", row.name, seed, row.title, folder)
                self._train(config, folder)
        except ValueError as error:  # no data, no weights, diverged: the others have their turn
            self._failures[folder] = str(error)
            log.error("%s, seed %d failed: %s", row.name, seed, error)

    def _config(self, row: Row, seed: int) -> ConfigDict:
        config = copy.deepcopy(row.config)
        config.seed = seed
        if row.start is not None:
            start = self._row(row.start)
            model = self._folder_of(start, self._seeds[0]) / "model.keras"
            if not model.is_file():
                raise ValueError(f"It starts from '{start.name}', which is not finished.")
            config.weights = model.as_posix()
            config.expected_float_accuracy = None
        return config

    def _outcome(self, row: Row, seed: int) -> Outcome:
        folder = self._folder_of(row, seed)
        result = _result(folder)
        reason = self._failures.get(folder, "")
        if reason:
            status = "failed"
        elif result.get("status") == "finished":
            status = "finished"
        elif result:
            status, reason = "not finished", _progress(folder, result)
        else:
            status = "not run"
        return Outcome(seed, folder, status, result, reason)


def _check_same(config: ConfigDict, folder: Path) -> None:
    """Refuses the results of another training; where weights and data lay does not matter."""
    old, new = read_json(folder / CONFIG), json.loads(config.to_json_best_effort())
    old["weights"] = new["weights"] = None
    if differences := config_differences(old, new):
        raise ValueError(
            f"The finished run in {folder} is another one: {'; '.join(differences)}. Choose "
            "another --workdir, or delete that folder to run it again."
        )


def _result(folder: Path) -> dict[str, Any]:
    path = folder / RESULT
    return read_json(path) if path.exists() else {}


def _progress(folder: Path, result: dict[str, Any]) -> str:
    """How many epochs of a run are done."""
    path = folder / "metrics.jsonl"
    lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
    done = json.loads(lines[-1])["epoch"] + 1 if lines else 0
    return f"{done} of {result['epochs']} epochs"
