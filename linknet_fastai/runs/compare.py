"""Runs side by side: differing settings, scores, cost, and the figures that others published."""

import json
import math
import os
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from linknet_fastai.config.toml_files import recipe_folder
from linknet_fastai.core.errors import Note
from linknet_fastai.runs.folder import RUN_FILE, read_evaluations, read_run
from linknet_fastai.runs.metrics import best_row, read_metrics, write_csv
from linknet_fastai.scoring.scores import OVERALL_SCORES

# Runs that differ only in these settings are repetitions of one experiment.
NOT_COMPARED = {"seed", "device", "workers", "cache", "cache_dir", "deterministic", "checkpoint_minutes"}


@dataclass(frozen=True)
class RunSummary:
    """The content of a run folder.

    Attributes:
        name: the name of the folder.
        run: the table `run` of run.toml.
        settings: the settings by name, as in run.toml; one that an older version did not have is missing.
        left_out: the settings that this version does not know, and what is wrong with each.
        origins: the source of each setting: an option, a preset, the recipe or the default.
        versions: the versions of Python and packages.
        rows: the rows of metrics.csv.
        result: the table `result` of run.toml, empty if the run was not finished.
        evaluations: the content of each evaluation-SPLIT.json, as `evaluate --json` writes it.
    """

    name: str
    run: dict[str, Any]
    settings: dict[str, Any]
    left_out: dict[str, str]
    origins: dict[str, str]
    versions: dict[str, str]
    rows: list[dict[str, float]]
    result: dict[str, Any]
    evaluations: list[dict[str, Any]]

    @property
    def best(self) -> Mapping[str, float]:
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
    def effective(self) -> dict[str, Any]:
        """The settings with the precision that the device had, and with the number of processes that trained."""
        resolved = {"precision": self.run["precision"]} if "precision" in self.run else {}
        return {**self.settings, **resolved, "processes": self.run.get("processes", 1)}

    @property
    def seconds(self) -> float:
        """The time of training and validation."""
        return sum(row["seconds"] for row in self.rows)

    @property
    def validated_on(self) -> str:
        """The split, or list of frames, that the epochs were scored on."""
        return self.settings.get("validate_on", "val")

    @property
    def ious(self) -> dict[str, float]:
        """Class IoU by class at the last epoch."""
        return {name.removeprefix("iou_"): value for name, value in self.last.items() if name.startswith("iou_")}


@dataclass(frozen=True)
class Published:
    """A result that others published, as in `published.toml` of a recipe; None if it was not reported."""

    network: str
    split: str
    source: str
    pretrained: str
    size: str | None = None
    trained_on: str | None = None
    mean_accuracy: float | None = None
    miou: float | None = None


@dataclass(frozen=True)
class Spread:
    """Runs that differ only in their seeds: names, seeds, and the mIoU of the last epoch."""

    names: list[str]
    seeds: list[int]
    mious: list[float]

    @property
    def mean(self) -> float:
        """The mean mIoU."""
        return fmean(self.mious)


def summarize(folder: Path) -> RunSummary:
    """Read a run folder. Settings that only another version knows are left out, after a `Note`.

    Raises:
        UserError: there is no run, none of its epochs is complete, or a file in it is damaged.

    Example:
        ::

            run = summarize(Path("runs/camvid"))
            print(run.name, run.best["miou"], run.settings["lr"])
    """
    name, file = folder.resolve().name, read_run(folder)
    if file.left_out:
        named = ", ".join([*file.left_out][:10])[:200]
        warnings.warn(f"{folder / RUN_FILE}: settings of another version are left out: {named}", Note, stacklevel=2)
    rows, evaluations = read_metrics(folder), read_evaluations(folder)
    return RunSummary(
        name, file.run, file.settings, file.left_out, file.origins, file.versions, rows, file.result, evaluations
    )


def differing_settings(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """The settings that differ between runs, recipe and data folder included: one value per run.

    Example:
        ::

            differing_settings([summarize(Path("runs/a")), summarize(Path("runs/b"))])
            # {"decoder": ["deconv", "pixelshuffle"], "lr": [0.001, 0.002]}
    """
    tables = [{"recipe": run.recipe, "data": run.run["data"], **run.effective} for run in runs]
    names = dict.fromkeys(name for settings in tables for name in settings)
    values = {name: [settings.get(name) for settings in tables] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def spreads(runs: Sequence[RunSummary]) -> list[Spread]:
    """Groups of two or more finished runs that differ only in their seeds.

    Example:
        ::

            for group in spreads(runs):
                print(group.names, group.mean, min(group.mious), max(group.mious))
    """
    groups: dict[str, list[RunSummary]] = {}
    for run in runs:
        if run.left_out or "seed" not in run.settings or run.last["epoch"] < run.settings.get("epochs", math.inf):
            continue  # not comparable, or not finished
        compared = {name: value for name, value in run.effective.items() if name not in NOT_COMPARED}
        groups.setdefault(json.dumps([run.recipe, run.run["data"], compared], sort_keys=True), []).append(run)
    return [
        Spread([run.name for run in group], [run.settings["seed"] for run in group], [r.last["miou"] for r in group])
        for group in groups.values()
        if len({run.settings["seed"] for run in group}) > 1
    ]


def published_figures(recipe: str) -> list[Published]:
    """The results that others published on a shipped recipe; empty if it has no published.toml.

    Example:
        >>> {figure.network: figure.miou for figure in published_figures("camvid")}["LinkNet"]
        0.558
    """
    file = recipe_folder() / recipe / "published.toml"
    if not os.path.isfile(file):
        return []
    return [Published(**figure) for figure in tomllib.loads(file.read_text(encoding="utf-8"))["figures"]]


def comparable_evaluation(run: RunSummary, split: str) -> dict[str, Any] | None:
    """The scores of a run that can be compared with those of other runs and with published ones.

    Args:
        run: the run.
        split: the split that was evaluated.

    Returns:
        An evaluation on the run's own recipe, at the training size, without test-time augmentation; one by torch
        rather than by another engine, which may have computed in int8. None if there is none.

    Example:
        ::

            scores = comparable_evaluation(summarize(Path("runs/camvid")), "test")
            print(scores["miou"] if scores else "not evaluated")
    """
    required = {"split": (split,), "tta": (False,), "size": ("-", run.settings.get("size"))}
    if name := run.run.get("recipe_name"):  # which the runs of earlier versions do not have
        required["recipe"] = ("-", name)
    found = [e for e in run.evaluations if all(e[name] in values for name, values in required.items())]
    return min(found, key=lambda e: not e["engine"].startswith("torch"), default=None)


def write_table(runs: Sequence[RunSummary], file: Path) -> None:
    """Write a CSV with one row per run: name, scores, cost, class IoU at the last epoch, and every setting.

    Raises:
        UserError: the file cannot be written.

    Example:
        ::

            write_table([summarize(folder) for folder in Path("runs").iterdir()], Path("runs.csv"))
    """
    rows = [
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
        for run in runs
    ]
    write_csv(file, rows)
