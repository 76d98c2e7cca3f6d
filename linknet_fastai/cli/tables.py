"""The results of commands as tables in the terminal."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from linknet_fastai.cli.interval_tables import interval, show_differences, show_groups
from linknet_fastai.cli.terminal import console, percent, show_error, show_lines, show_note, show_table, styled
from linknet_fastai.engines.formats import FORMATS
from linknet_fastai.scoring.confidence import MOST_CERTAIN
from linknet_fastai.scoring.intervals import MIN_UNITS
from linknet_fastai.scoring.scores import (
    CLASS_SCORES,
    MORE_CLASS_SCORES,
    MORE_OVERALL_SCORES,
    OVERALL_SCORES,
    mean_score,
)

if TYPE_CHECKING:  # these import torch, which exported models do not need
    from linknet_fastai.data.dataset import Dataset
    from linknet_fastai.export.benchmark import Speed
    from linknet_fastai.labeling.proposal import Proposal
    from linknet_fastai.runs.compare import RunSummary
    from linknet_fastai.scoring.cityscapes_scores import CityscapesScores
    from linknet_fastai.scoring.evaluate import Evaluation
    from linknet_fastai.training.data_check import Inspection
    from linknet_fastai.training.folds import Folds


MOST_FOLDERS = 30  # that `data` lists


def show_evaluation(result: "Evaluation", title: str, all_scores: bool = False, by_group: bool = False) -> None:
    """Print the scores of each class with their means and intervals, the other overall scores, and speed.

    Args:
        result: the scores.
        title: what is printed above them.
        all_scores: whether to print `MORE_CLASS_SCORES` too.
        by_group: whether to print the scores of each group too.
    """
    scores = result.scores
    console.print(styled(title, "bold"))
    shown = CLASS_SCORES + MORE_CLASS_SCORES * all_scores
    columns = {score.label: values for score, values in zip(shown, scores.of_classes(shown).values(), strict=True)}
    if result.boundary:
        columns["boundary IoU"] = result.boundary.iou.tolist()
    iou, *others = columns.values()
    ends = result.intervals.of_classes["iou"].tolist() if result.intervals else [(math.nan, math.nan)] * len(iou)
    rows = [
        (name, percent(value), interval(*pair), *map(percent, values), f"{pixels:,}")
        for name, pixels, value, pair, *values in zip(
            result.class_names, scores.pixels.tolist(), iou, ends, *others, strict=True
        )
    ]
    overall = result.intervals.overall if result.intervals else {"miou": (math.nan, math.nan)}
    of_mean = interval(*overall["miou"])
    means = ("mean", percent(mean_score(iou)), of_mean, *(percent(mean_score(values)) for values in others), "")
    headings = [*columns]
    show_table(("class", headings[0], "95% interval", *headings[1:], "pixels"), rows, bold=[means])
    if not result.intervals:
        console.print(f"no intervals: fewer than {MIN_UNITS} groups or blocks of frames")
    else:
        console.print(f"intervals: {result.intervals.words}")
        console.print(f"mean accuracy {percent(scores.mean_accuracy)}, {interval(*overall['mean_accuracy'])}")
    if by_group:
        show_groups(result)
    if result.official:
        _show_cityscapes(result.official)
    if result.course_dice is not None:
        console.print(f"per-image Dice with void scored, as in the course project: {percent(result.course_dice)}")
    single = [score for score in OVERALL_SCORES + MORE_OVERALL_SCORES if not score.mean_of]
    console.print(", ".join(f"{score.label} {percent(scores.overall(single)[score.name])}" for score in single))
    if certain := result.confidence:
        console.print(f"expected calibration error {percent(certain.ece)}, temperature {certain.temperature:g}")
        miou = percent(certain.most_certain(MOST_CERTAIN)[1])
        console.print(f"mIoU of the most certain {MOST_CERTAIN:.0%} of the pixels {miou}")
    console.print(
        f"{result.frames} frames in {result.seconds:.1f} s, "
        f"{result.frames / result.seconds:.1f} images a second with reading, by {result.engine}"
    )


def _show_cityscapes(scores: "CityscapesScores") -> None:
    """Print the scores that the official script prints."""
    console.print(styled("\nscores of the official Cityscapes script", "bold"))
    for what, iou, iiou in (
        ("class", scores.class_iou, scores.class_iiou),
        ("category", scores.category_iou, scores.category_iiou),
    ):
        rows = [(name, percent(value), percent(iiou[name]) if name in iiou else "") for name, value in iou.items()]
        show_table((what, "IoU", "iIoU"), rows, bold=[("mean", percent(iou.mean), percent(iiou.mean))])
        console.print()


def show_inspection(result: "Inspection", dataset: "Dataset") -> None:
    """Print what `data` found on disk for a recipe."""
    recipe = dataset.recipe
    for name, place in dataset.places.items():
        console.print(styled(f"{recipe.title if name == recipe.name else name}: {place}", "bold"))
    rows: list[tuple] = []
    for name, found in result.surveys.items():
        sizes = ", ".join(
            f"{size} ({count})" if len(found.sizes) > 1 else size for size, count in found.sizes.items()
        )
        void = found.void_pixels / max(found.void_pixels + sum(found.class_pixels), 1)
        rows.append((name, found.frames, sizes or "-", f"{void:.2%}", len(found.problems)))
    rows += [(name, "-", "missing", "-", "-") for name in result.absent]
    show_table(("split", "frames", "sizes", "void", "damaged"), rows)
    for name, folders in result.folders.items():
        counts = [f"{folder} {count}" for folder, count in folders.items()]
        more = f" and {len(counts) - MOST_FOLDERS} more" * (len(counts) > MOST_FOLDERS)
        console.print(f"{name}: {', '.join(counts[:MOST_FOLDERS])}{more}")
    console.print()
    if result.leaks:
        rows = [
            (leak.kind, f"{leak.second} with {leak.first}", leak.example, f"{leak.frames} of {leak.of}")
            for leak in result.leaks
        ]
        show_table(("what splits share", "frames of", "closest example", "frames"), rows, words=3)
        for leak in result.leaks:
            if leak.detail:
                console.print(f"{leak.kind}, {leak.second} with {leak.first}: {leak.detail}")
        console.print()
    totals = [(found.class_pixels, max(sum(found.class_pixels), 1)) for found in result.surveys.values()]
    rows = [
        (
            entry.name,
            entry.id,
            *(f"{pixels[channel] / total:.4f}" for pixels, total in totals),
            f"{result.weights[channel]:.2f}" if result.weights else "-",
        )
        for channel, entry in enumerate(recipe.classes)
    ]
    show_table(("class", "id", *(f"{name} share" for name in result.surveys), "log weight"), rows)
    if result.picture:
        console.print(f"\na batch as the network receives it: {result.picture}")
    show_lines(list(result.absent.values()) + result.notes, show_note)
    show_lines(result.problems, show_error)


def show_proposal(proposal: "Proposal") -> None:
    """Print what `recipes --from` found in an export and decided about it."""
    show_table(("what", "found"), proposal.decisions, words=2)
    splits = list(dict.fromkeys(split for row in proposal.classes for split in row.of_split if split))
    totals = {split: max(sum(row.of_split.get(split, 0) for row in proposal.classes), 1) for split in splits}
    rows = [
        (
            row.name,
            row.id,
            f"{row.pixels:,}",
            f"{row.share:.4f}",
            row.frames,
            *(f"{row.of_split.get(split, 0) / totals[split]:.4f}" for split in splits),
        )
        for row in proposal.classes
    ]
    console.print()
    show_table(("class", "id", "pixels", "share", "frames", *(f"{split} share" for split in splits)), rows)
    show_lines(proposal.notes, show_note)


def show_folds(folds: "Folds") -> None:
    """Print the scores of each fold with their mean, spread and the worst."""

    def score(value: float | None) -> str:
        return "-" if value is None else percent(value)

    rows = [
        (fold.name, fold.train_frames, fold.frames, score(fold.last_miou), score(fold.best_miou))
        for fold in folds.folds
    ]
    means = [("mean", "", "", score(folds.mean), ""), ("spread", "", "", score(folds.spread), "")]
    show_table(("left out", "train frames", "frames", "last mIoU", "best mIoU"), rows, bold=means)
    console.print(
        f"worst: {folds.worst}. The best epoch was chosen on the frames that it is scored on, the last was not."
    )


def show_speeds(speeds: Sequence["Speed"]) -> None:
    """Print a table for each network, with a row for each engine and size."""
    for decoder in dict.fromkeys(speed.decoder for speed in speeds):
        of_decoder = [speed for speed in speeds if speed.decoder == decoder]
        rows = [
            (
                f"{speed.engine} {speed.precision}",
                speed.size,
                f"{speed.latency_ms:.1f}",
                f"{1e3 / speed.latency_ms:.1f}",
                f"{speed.frames_per_second:.1f}",
                f"{speed.multiply_adds / 1e9:.2f}",
                "-" if speed.peak_memory_mib is None else speed.peak_memory_mib,
            )
            for speed in of_decoder
        ]
        parameters = of_decoder[0].parameters / 1e6
        console.print(styled(f"{decoder} decoder, {parameters:.2f} M parameters", "bold"))
        show_table(("engine", "size", "ms", "fps", "fps, batch", "G mult-adds", "MiB"), rows)


def show_formats() -> None:
    """Print a line for each format of `export`, and how to install what is missing for it."""
    rows = [(str(entry.name), entry.suffix, entry.purpose) for entry in FORMATS.values()]
    rows.append(("web", "folder", "a page that predicts in the browser"))
    show_table(("format", "suffix", "what it is"), rows, words=3)
    console.print("\nexport with: linknet-fastai export RUN --format NAME")
    missing = {str(entry.name): extra for entry in FORMATS.values() if (extra := entry.missing_extra)}
    if not find_spec("nncf"):
        missing["openvino --int8"] = "int8"
    for name, extra in missing.items():
        show_note(f"{name} needs: pip install 'linknet-fastai[{extra}]'")


def show_comparison(runs: Sequence["RunSummary"]) -> None:
    """Print runs side by side: results, different settings, classes, seeds, and published figures."""
    from linknet_fastai.runs.compare import comparable_evaluation, differing_settings, published_figures, spreads

    numbers = [str(number) for number in range(1, len(runs) + 1)]
    rows: list[tuple] = [
        (
            number,
            run.name,
            percent(run.last["miou"]),
            percent(run.last["mean_accuracy"]),
            f"{percent(run.best['miou'])} at {run.best['epoch']}",
            f"{run.last['epoch']}"
            + (f" of {epochs}" if (epochs := run.settings.get("epochs", 0)) > run.last["epoch"] else ""),
            f"{run.seconds / len(run.rows):.1f}",
            f"{run.seconds / 60:.1f}",
            f"{run.run['parameters'] / 1e6:.2f}" if "parameters" in run.run else "-",
        )
        for number, run in zip(numbers, runs, strict=True)
    ]
    show_table(("", "run", "last mIoU", "mean acc", "best mIoU", "epochs", "s an epoch", "min", "M param"), rows)
    if differing := differing_settings(runs):
        console.print()
        rows = [(name, *("-" if value is None else value for value in values)) for name, values in differing.items()]
        show_table(("setting", *numbers), rows)
    console.print()
    names = dict.fromkeys(name for run in runs for name in run.ious)
    rows = [(name, *(percent(run.ious[name]) if name in run.ious else "-" for run in runs)) for name in names]
    show_table(("class IoU, last epoch", *numbers), rows)
    if groups := spreads(runs):
        console.print()
        rows = [
            (
                ", ".join(group.names),
                ", ".join(map(str, group.seeds)),
                *map(percent, (group.mean, min(group.mious), max(group.mious))),
            )
            for group in groups
        ]
        show_table(("same but for the seed", "seeds", "mean of last mIoU", "smallest", "largest"), rows)
    show_differences(runs)
    for recipe in dict.fromkeys(run.recipe for run in runs):
        figures = published_figures(recipe)
        for split in dict.fromkeys(figure.split for figure in figures):
            console.print(styled(f"\n{recipe} {split}: published, and measured here", "bold"))
            published: list[tuple] = [
                (
                    *(f.network, f.source, f.size or "-", f.pretrained, f.trained_on or "-"),
                    *map(_three_digits, (f.mean_accuracy, f.miou)),
                )
                for f in figures
                if f.split == split
            ]
            evaluations = [(run, comparable_evaluation(run, split)) for run in runs if run.recipe == recipe]
            ours = []
            for run, scores in evaluations:
                if scores:
                    pretrained = {True: "ImageNet", False: "none", None: "-"}[run.settings.get("pretrained")]
                    figures_here = map(_three_digits, (scores["mean_accuracy"], scores["miou"]))
                    trained_on = run.settings.get("train_on", "-")
                    ours.append(("LinkNet", run.name, scores["size"], pretrained, trained_on, *figures_here))
            headings = ("network", "source", "size", "pretrained", "trained on", "mean acc", "mIoU")
            show_table(headings, published, words=2, bold=ours)
            if not all(scores for _, scores in evaluations):
                show_note(
                    f"to show a run's scores on {split} here: linknet-fastai evaluate RUN {recipe} "
                    f"--split {split} --json RUN/evaluation-{split}.json"
                )


def _three_digits(score: float | None) -> str:
    """A score with three digits, as papers print it."""
    return "-" if score is None else f"{score:.3f}"
