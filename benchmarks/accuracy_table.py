"""The tables of accuracy in README.md and results/README.md, from the runs kept in results/runs.

    python benchmarks/accuracy_table.py

A test holds both pages to what this prints.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from linknet_fastai.comparison import RunSummary, summarise

RUNS = Path(__file__).parents[1] / "results" / "runs"
DRIVES = ("0001TP", "0006R0", "0016E5")
PRESETS = ("paper", "course", "course-modified", "best")


def left_out(run: RunSummary) -> str | None:
    """The drive that a run was trained without and is scored on; None for one on the published split."""
    name = Path(run.settings["train_on"]).stem
    return name.removeprefix("without-") if name.startswith("without-") else None


def tables() -> list[str]:
    """All tables as Markdown."""
    runs = [summarise(file.parent) for file in sorted(RUNS.glob("*/run.toml"))]
    on_split = [run for run in runs if left_out(run) is None]
    made = [
        _table(
            "best at 480x360, 100 epochs, from scratch, CamVid val",
            ("seed", "class IoU, last epoch", "class accuracy, last", "best class IoU", "minutes"),
            [
                (
                    str(run.settings["seed"]),
                    f"{run.last['miou']:.4f}",
                    f"{run.last['mean_accuracy']:.4f}",
                    f"{run.best['miou']:.4f} at {run.best['epoch']}",
                    f"{run.seconds / 60:.0f}",
                )
                for run in on_split
                if run.settings["size"] == "480x360"
            ],
        ),
        _table(
            "presets at 240x180, 100 epochs, from scratch, CamVid val",
            ("preset", "class IoU, last epoch: each seed", "mean", "class accuracy, mean", "best epoch's, mean"),
            [
                (
                    preset,
                    ", ".join(f"{run.last['miou']:.4f} (seed {run.settings['seed']})" for run in group),
                    _mean(group, lambda run: run.last["miou"]),
                    _mean(group, lambda run: run.last["mean_accuracy"]),
                    _mean(group, lambda run: run.best["miou"]),
                )
                for preset in PRESETS
                if (group := _of(on_split, preset))
            ],
        ),
        _table(
            "trained on two drives, scored on the third, at 240x180, last epoch",
            ("preset", *DRIVES, "mean"),
            [
                (preset, *(f"{by_drive[drive]:.4f}" for drive in DRIVES), f"{fmean(by_drive.values()):.4f}")
                for preset in PRESETS
                if len(
                    by_drive := {
                        drive: run.last["miou"] for run in _of(runs, preset) if (drive := left_out(run)) is not None
                    }
                )
                == len(DRIVES)
            ],
        ),
    ]
    return [table for table in made if table]


def _of(runs: list[RunSummary], preset: str) -> list[RunSummary]:
    return [run for run in runs if run.settings["preset"] == preset and run.settings["size"] == "240x180"]


def _mean(runs: list[RunSummary], score: Callable[[RunSummary], float]) -> str:
    return f"{fmean(map(score, runs)):.4f}"


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str | None:
    if not rows:
        return None
    lines = [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    return "\n".join([f"{title}:", "", *lines, *(f"| {' | '.join(row)} |" for row in rows)])


if __name__ == "__main__":
    print("\n\n".join(tables()))
