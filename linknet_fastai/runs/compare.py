"""Runs side by side: what differs between them, what they score, what they cost; and what others published."""

import csv
import io
import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from linknet_fastai.config.toml_files import recipe_folder
from linknet_fastai.core.files import write_text
from linknet_fastai.runs.folder import best_row, read_evaluations, read_metrics, read_run
from linknet_fastai.scoring.scores import OVERALL_SCORES

NOT_TOLD_APART = {
    "seed",
    "device",
    "workers",
    "cache",
    "cache_dir",
    "deterministic",
    "checkpoint_minutes",
}  # two runs that differ in these alone are alike


@dataclass(frozen=True)
class RunSummary:
    """A run as its folder tells it.

    Attributes:
        name: the folder's.
        run: the table `run` of run.toml, as are `versions` and `result`.
        settings: the run's settings by name, as run.toml writes them; `origins` says where each came from.
        rows: those of metrics.csv.
        evaluations: what `evaluate --json RUN/evaluation-SPLIT.json` left in the folder.
    """

    name: str
    run: dict[str, Any]
    settings: dict[str, Any]
    origins: dict[str, str]
    versions: dict[str, str]
    rows: list[dict[str, float]]
    result: dict[str, Any]
    evaluations: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, float]:
        """The row of the epoch with the best mIoU."""
        return best_row(self.rows)

    @property
    def last(self) -> dict[str, float]:
        """The row of the last epoch."""
        return self.rows[-1]

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return Path(self.run["recipe"]).stem

    @property
    def seconds(self) -> float:
        """How long it trained and validated."""
        return sum(row["seconds"] for row in self.rows)

    @property
    def ious(self) -> dict[str, float]:
        """Class IoU by class at the last epoch."""
        return {name.removeprefix("iou_"): value for name, value in self.last.items() if name.startswith("iou_")}


@dataclass(frozen=True)
class Published:
    """A figure that others published, as `published.toml` beside a recipe's lists has it; None is not reported."""

    network: str
    split: str
    source: str
    pretrained: str
    size: str | None = None
    mean_accuracy: float | None = None
    miou: float | None = None


@dataclass(frozen=True)
class Spread:
    """Runs that differ in their seeds alone: their names, seeds and the mIoU of their last epochs."""

    names: list[str]
    seeds: list[int]
    mious: list[float]

    @property
    def mean(self) -> float:
        """The mean mIoU."""
        return fmean(self.mious)


def summarize(folder: Path) -> RunSummary:
    """Read a run.

    Raises:
        UserError: there is no run, or not one epoch of it has ended, or a file in it is damaged.
    """
    file = read_run(folder)
    said = file.settings.model_dump(mode="json", exclude_none=True)
    return RunSummary(
        folder.resolve().name,
        file.run,
        said,
        file.origins,
        file.versions,
        read_metrics(folder),
        file.result,
        read_evaluations(folder),
    )


def differing_settings(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs, and the recipe and data where they are not: a value a run."""
    told = [{"recipe": run.recipe, "data": run.run["data"], **run.settings} for run in runs]
    names = dict.fromkeys(name for settings in told for name in settings)
    values = {name: [settings.get(name) for settings in told] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def spreads(runs: Sequence[RunSummary]) -> list[Spread]:
    """Groups of two and more runs that differ in their seeds alone; those that have not ended are left out."""
    groups: dict[str, list[RunSummary]] = {}
    for run in runs:
        if run.last["epoch"] < run.settings["epochs"]:
            continue
        alike = {name: value for name, value in run.settings.items() if name not in NOT_TOLD_APART}
        groups.setdefault(json.dumps([run.recipe, run.run["data"], alike], sort_keys=True), []).append(run)
    return [
        Spread([run.name for run in group], [run.settings["seed"] for run in group], [r.last["miou"] for r in group])
        for group in groups.values()
        if len({run.settings["seed"] for run in group}) > 1
    ]


def published_figures(recipe: str) -> list[Published]:
    """What others published on a shipped recipe; nothing where no file says."""
    file = recipe_folder() / recipe / "published.toml"
    if not os.path.isfile(file):
        return []
    return [Published(**figure) for figure in tomllib.loads(file.read_text(encoding="utf-8"))["figures"]]


def comparable_evaluation(run: RunSummary, split: str) -> dict[str, Any] | None:
    """A run's scores on a split at its own size, without test-time augmentation; None where there are none.

    Those that torch computed go before those of other engines, which may have been int8's.
    """
    alike = {"split": (split,), "tta": (False,), "size": ("-", run.settings["size"])}
    found = [e for e in run.evaluations if all(e[name] in values for name, values in alike.items())]
    return min(found, key=lambda e: not e["engine"].startswith("torch"), default=None)


def write_table(runs: Sequence[RunSummary], file: Path) -> None:
    """Write a CSV, a row a run: its name, result, cost, class IoU at the last epoch, and every setting."""
    rows = []
    for run in runs:
        rows.append(
            {
                "run": run.name,
                "recipe": run.recipe,
                "best_miou": run.best["miou"],
                "best_epoch": run.best["epoch"],
                **{f"last_{score.name}": run.last[score.name] for score in OVERALL_SCORES},
                "epochs_done": run.last["epoch"],
                "seconds": run.seconds,
                "parameters": run.run.get("parameters"),
                "peak_memory_mib": run.result.get("peak_memory_mib"),
                **{f"iou_{name}": value for name, value in run.ious.items()},
                **run.settings,
            }
        )
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())
