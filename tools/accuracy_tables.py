"""Prints the tables of accuracy of README.md, docs/results.md and results/README.md from the runs in results/runs.

    python tools/accuracy_tables.py

A page's name comes first, then its tables. A test checks that each page contains its tables.
"""

import csv
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from linknet_fastai.config.presets import load_preset
from linknet_fastai.config.settings import RENAMED, WITHOUT_OPTION, Settings
from linknet_fastai.runs.compare import RunSummary, summarize

RESULTS = Path(__file__).parents[1] / "results"
NETWORKS = ("width", "teacher")  # settings by which the runs that start from drawn streets differ
DRIVES = ("0001TP", "0006R0", "0016E5")
PRESETS = ("best", "course-modified", "course", "paper")
FOLDERS = {"--data", "--cache-dir", "--out"}  # they belong to the machine that a run was made on
RUN_OPTIONS = {"--init-from"}  # they name another run of results/runs
# What `best` sets, with the experiments that differ in this setting alone: with it, without it.
ABLATIONS = (
    ("Muon instead of AdamW", "S05", "S02"),
    ("rate of 5e-3 instead of 2e-3", "S06", "S05"),
    ("Muon for the stem and the last layer too", "S11", "S06"),
    ("residual branches open at the start, with AdamW", "S02", "S01"),
    ("residual branches open at the start, with Muon", "D04", "A03"),
    ("square-root class weights instead of none", "F02", "F01"),
    ("relight 0.7 instead of none", "D04", "A01"),
    ("color 0.3 instead of none", "D06", "A04"),
    ("flips instead of none", "A05", "A07"),
    ("scales 0.75-1.75 instead of none", "A05", "A08"),
    ("scales 0.75-1.75 instead of 0.5-2", "A02", "D04"),
    ("scales 0.75-1.75 instead of 0.5-2", "A06", "D05"),
    ("scales 0.75-1.75 instead of 0.5-2", "A05", "D06"),
    ("relight 0.7 and scales 0.5-2 instead of none and 0.75-1.75", "L02", "L01"),
)
NOT_IN_VARIANT = {"preset", "pretrained", "epochs", "size", "seed", "train_on", "validate_on", "cache_dir"}


def kept_runs() -> list[RunSummary]:
    """The runs in results/runs, by name."""
    return [summarize(file.parent) for file in sorted((RESULTS / "runs").glob("*/run.toml"))]


def from_nothing(runs: Iterable[RunSummary]) -> list[RunSummary]:
    """Those of CamVid that started from no weights."""
    return [run for run in runs if run.run["recipe"] == "camvid" and not run.settings.get("init_from")]


def left_out(run: RunSummary) -> str | None:
    """The drive that a run was trained without and validated on; None for one on the published split."""
    name = Path(run.settings["train_on"]).stem
    return name.removeprefix("without-") if name.startswith("without-") else None


def from_streets(runs: Iterable[RunSummary]) -> list[RunSummary]:
    """Those of CamVid that started from drawn streets."""
    return [run for run in runs if run.run["recipe"] == "camvid" and run.settings.get("init_from")]


def readme_table(runs: Sequence[RunSummary]) -> str:
    """The table of README.md: from drawn streets, on val and on drives that the training did not see."""
    runs = [run for run in from_streets(runs) if not _network(run)]
    (full,) = [run for run in runs if not left_out(run)]
    drives = [run for run in runs if left_out(run)]
    return _table(
        ("CamVid, 11 classes, from scratch", "class IoU", "class accuracy"),
        [
            (
                f"val, 480x360, last of {full.last['epoch']} epochs",
                _score(full.last["miou"]),
                _score(full.last["mean_accuracy"]),
            ),
            (
                f"val, 480x360, best epoch ({full.best['epoch']})",
                _score(full.best["miou"]),
                _score(full.best["mean_accuracy"]),
            ),
            (
                f"a drive never seen, 240x180, {drives[0].last['epoch']} epochs, mean of three",
                _mean(drives, lambda run: run.last["miou"]),
                _mean(drives, lambda run: run.last["mean_accuracy"]),
            ),
        ],
    )


def _full_size(runs: Iterable[RunSummary]) -> list[RunSummary]:
    """The runs of `best` on the published split at 480x360."""
    return [
        run for run in runs if not left_out(run) and run.settings["size"] == "480x360" and _variant(run) == "best"
    ]


def results_tables(runs: Sequence[RunSummary]) -> list[str]:
    """The tables of docs/results.md as Markdown."""
    started = from_streets(runs)
    runs = from_nothing(runs)
    on_split = [run for run in runs if left_out(run) is None]
    small = [run for run in on_split if run.settings["size"] == "240x180"]
    return [
        _table(
            ("480x360", "class IoU, last epoch", "best epoch", "class accuracy, last"),
            [
                (
                    f"`--epochs {run.last['epoch']}`"
                    + (f" `--seed {seed}`" if (seed := run.settings["seed"]) else ""),
                    _score(run.last["miou"]),
                    f"{_score(run.best['miou'])} ({run.best['epoch']})",
                    _score(run.last["mean_accuracy"]),
                )
                for run in sorted(_full_size(runs), key=lambda run: run.last["epoch"])
            ],
        ),
        _table(
            ("480x360, from `streets`", "class IoU, last epoch", "best epoch", "class accuracy, last"),
            [
                (
                    f"`--epochs {run.last['epoch']}`{_network(run)}",
                    _score(run.last["miou"]),
                    f"{_score(run.best['miou'])} ({run.best['epoch']})",
                    _score(run.last["mean_accuracy"]),
                )
                for run in started
                if not left_out(run)
            ],
        ),
        _table(
            ("240x180, 100 epochs", "seeds", "class IoU, last epoch", "mean", "best epochs", "class accuracy"),
            [
                (
                    f"`{variant}`",
                    ", ".join(str(run.settings["seed"]) for run in group),
                    ", ".join(_score(run.last["miou"]) for run in group),
                    _mean(group, lambda run: run.last["miou"]),
                    _mean(group, lambda run: run.best["miou"]),
                    _mean(group, lambda run: run.last["mean_accuracy"]),
                )
                for variant, group in _by_variant(small)
            ],
        ),
        _table(
            ("240x180, 60 epochs, scored on", *DRIVES, "mean"),
            [
                (name, *map(_score, ious), _score(fmean(ious)))
                for name, group in [
                    ("`best`, from `streets`", [*filter(left_out, started)]),
                    *(
                        (f"`{variant}`", group)
                        for variant, group in _by_variant(run for run in runs if left_out(run))
                    ),
                ]
                if len(ious := [run.last["miou"] for run in sorted(group, key=left_out)]) == len(DRIVES)
            ],
        ),
    ]


def _network(run: RunSummary) -> str:
    """The options that make a run's network another than the default one."""
    return "".join(
        f" `--{name} {Path(str(value)).stem if name == 'teacher' else value}`"
        for name in NETWORKS
        if (value := run.settings.get(name)) not in (None, 1.0)
    )


def _by_variant(runs: Iterable[RunSummary]) -> list[tuple[str, list[RunSummary]]]:
    """Runs with equal settings: presets in the order of `PRESETS`, each followed by its variations."""
    groups: dict[str, list[RunSummary]] = {}
    for run in runs:
        groups.setdefault(_variant(run), []).append(run)
    return sorted(groups.items(), key=lambda group: (PRESETS.index(group[1][0].settings["preset"]), group[0]))


def _variant(run: RunSummary) -> str:
    """A run's preset, and the options that it takes today to get the run's other settings."""
    given = {name for name, origin in run.origins.items() if origin == "command line"} - NOT_IN_VARIANT
    return shlex.join([run.settings["preset"], *_options(run, given | _of_preset(run))])


def _options(run: RunSummary, names: Iterable[str]) -> list[str]:
    """The options for those of a run's settings whose value differs from today's preset, and had an effect."""
    names = set(names) - (set() if run.settings.get("init_from") else {"encoder_lr"})
    names -= set() if run.settings.get("teacher") else {"teacher_share", "teacher_temperature"}
    now = Settings(**load_preset(run.settings["preset"]).settings).model_dump(mode="json")
    changed = {name: run.settings[name] for name in sorted(names) if run.settings.get(name) != now[name]}
    return [word for name, value in changed.items() for word in _option(name, value)]


def _option(name: str, value: Any) -> tuple[str, str]:
    return ("--set", f"{name}={value}") if name in WITHOUT_OPTION else (f"--{name.replace('_', '-')}", str(value))


def _of_preset(run: RunSummary) -> set[str]:
    return {name for name, origin in run.origins.items() if origin.startswith(("preset", "default"))}


def runs_table(runs: Sequence[RunSummary]) -> str:
    """The table of results/README.md: every run, the command that makes it, its scores."""
    return _table(
        ("run", "`linknet-fastai` ...", "class IoU, last epoch", "best epoch"),
        [
            (
                f"`{run.name}`",
                f"`{_command(run)}`",
                _score(run.last["miou"]),
                f"{_score(run.best['miou'])} ({run.best['epoch']})",
            )
            for run in runs
        ],
    )


def ablation_table() -> str:
    """The table of results/README.md about the effect of each setting of `best`, from experiments.csv."""
    with (RESULTS / "experiments.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["experiment"]: row for row in csv.DictReader(file)}
    columns = ("setting", "rows", "size", "epochs", "left out", "on it: with", "without", "val: with", "without")
    made = []
    for setting, *names in ABLATIONS:
        pair = [rows[name] for name in names]
        scores = [_score(row[name]) for name in ("left_out_miou_last", "val_miou") for row in pair]
        what = [pair[0][column] for column in ("size", "epochs", "trained_without")]
        made.append((setting, " / ".join(names), *what, *scores))
    return _table(columns, made)


def _command(run: RunSummary) -> str:
    """The command line that gives a run today, without the folders of one machine; run it in `results`."""
    words = iter(shlex.split(run.run["command"])[1:])
    kept = []
    for word in words:
        if word in FOLDERS:
            next(words)
        elif word in RUN_OPTIONS:
            kept += [word, f"runs/{Path(next(words)).name}"]
        else:
            name, equals, value = word.partition("=")
            kept.append(f"{RENAMED.get(name, name)}{equals}{value}")
    return shlex.join([*kept, *_options(run, _of_preset(run))])


def _score(value: float | str) -> str:
    return f"{float(value):.3f}" if value != "" else ""


def _mean(runs: Sequence[RunSummary], score: Callable[[RunSummary], float]) -> str:
    return _score(fmean(map(score, runs)))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (columns, ("---", *["---:"] * (len(columns) - 1)), *rows)
    )


if __name__ == "__main__":
    found = kept_runs()
    for page, tables in {
        "README.md": [readme_table(found)],
        "docs/results.md": results_tables(found),
        "results/README.md": [runs_table(found), ablation_table()],
    }.items():
        print(page, *tables, sep="\n\n", end="\n\n")
