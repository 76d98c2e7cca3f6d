"""The results of commands as tables in the terminal."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from linknet_fastai.cli.terminal import console, percent, show_error, show_lines, show_note, show_table, styled, table
from linknet_fastai.engines.formats import FORMATS
from linknet_fastai.scoring.scores import CLASS_SCORES, OVERALL_SCORES, mean_score

if TYPE_CHECKING:  # these import torch, which exported models do not need
    from linknet_fastai.data.dataset import Dataset
    from linknet_fastai.export.benchmark import Speed
    from linknet_fastai.runs.compare import RunSummary
    from linknet_fastai.scoring.cityscapes_scores import CityscapesScores
    from linknet_fastai.scoring.evaluate import Evaluation
    from linknet_fastai.training.data_check import Inspection


def show_evaluation(result: "Evaluation", title: str) -> None:
    """Print the scores of each class with their means, the other overall scores, and speed."""
    scores = result.scores
    console.print(styled(title, "bold"))
    shown = table("class", *(score.label for score in CLASS_SCORES), "pixels")
    columns = scores.of_classes().values()
    for name, pixels, *values in zip(result.class_names, scores.pixels.tolist(), *columns, strict=True):
        shown.add_row(name, *map(percent, values), f"{pixels:,}")
    shown.add_section()
    shown.add_row("mean", *(percent(mean_score(values)) for values in columns), "", style="bold")
    show_table(shown)
    if result.official:
        _show_cityscapes(result.official)
    if result.course_dice is not None:
        console.print(f"per-image Dice with void scored, as in the course project: {percent(result.course_dice)}")
    overall = [
        f"{score.label} {percent(scores.overall()[score.name])}" for score in OVERALL_SCORES if not score.mean_of
    ]
    console.print(
        f"{', '.join(overall)}; {result.frames} frames in {result.seconds:.1f} s, "
        f"{result.frames / result.seconds:.1f} images per second including reading, by {result.engine}"
    )


def _show_cityscapes(scores: "CityscapesScores") -> None:
    """Print the scores that the official script prints."""
    console.print(styled("\nscores of the official Cityscapes script", "bold"))
    for what, iou, iiou, means in (
        ("class", scores.class_iou, scores.class_iiou, (scores.mean_class_iou, scores.mean_class_iiou)),
        (
            "category",
            scores.category_iou,
            scores.category_iiou,
            (scores.mean_category_iou, scores.mean_category_iiou),
        ),
    ):
        shown = table(what, "IoU", "iIoU")
        for name, value in iou.items():
            shown.add_row(name, percent(value), percent(iiou[name]) if name in iiou else "")
        shown.add_section()
        shown.add_row("mean", *map(percent, means), style="bold")
        show_table(shown)
        console.print()


def show_inspection(result: "Inspection", dataset: "Dataset") -> None:
    """Print what `data` found on disk for a recipe."""
    recipe = dataset.recipe
    console.print(styled(f"{recipe.title}: layout {dataset.layout.name} in {dataset.folder}", "bold"))
    shown = table("split", "frames", "sizes", "void", "damaged")
    for name, found in result.surveys.items():
        sizes = ", ".join(
            f"{size} ({count})" if len(found.sizes) > 1 else size for size, count in found.sizes.items()
        )
        void = found.void_pixels / max(found.void_pixels + sum(found.class_pixels), 1)
        shown.add_row(name, str(found.frames), sizes or "-", f"{void:.2%}", str(len(found.problems)))
    for name in result.absent:
        shown.add_row(name, "-", "missing", "-", "-")
    show_table(shown)
    for name, folders in result.folders.items():
        console.print(f"{name}: " + ", ".join(f"{folder} {count}" for folder, count in folders.items()))
    console.print()
    shown = table("class", "id", *(f"{name} share" for name in result.surveys), "log weight")
    for channel, entry in enumerate(recipe.classes):
        shares = [
            f"{found.class_pixels[channel] / max(sum(found.class_pixels), 1):.4f}"
            for found in result.surveys.values()
        ]
        weight = f"{result.weights[channel]:.2f}" if result.weights else "-"
        shown.add_row(entry.name, str(entry.id), *shares, weight)
    show_table(shown)
    if result.picture:
        console.print(f"\na batch as the network receives it: {result.picture}")
    show_lines(list(result.absent.values()) + result.notes, show_note)
    show_lines(result.problems, show_error)


def show_speeds(speeds: Sequence["Speed"]) -> None:
    """Print a table for each network, with a row for each engine and size."""
    for decoder in dict.fromkeys(speed.decoder for speed in speeds):
        shown = table("engine", "size", "ms", "fps", "fps, batch", "G mult-adds", "MiB")
        of_decoder = [speed for speed in speeds if speed.decoder == decoder]
        for speed in of_decoder:
            memory = "-" if speed.peak_memory_mib is None else str(speed.peak_memory_mib)
            shown.add_row(
                f"{speed.engine} {speed.precision}",
                speed.size,
                f"{speed.latency_ms:.1f}",
                f"{1e3 / speed.latency_ms:.1f}",
                f"{speed.frames_per_second:.1f}",
                f"{speed.multiply_adds / 1e9:.2f}",
                memory,
            )
        parameters = of_decoder[0].parameters / 1e6
        console.print(styled(f"{decoder} decoder, {parameters:.2f} M parameters", "bold"))
        show_table(shown)


def show_formats() -> None:
    """Print a line for each format of `export`, and how to install what is missing for it."""
    shown = table("format", "suffix", "what it is", words=3)
    for entry in FORMATS.values():
        shown.add_row(entry.name, entry.suffix, entry.purpose)
    show_table(shown)
    console.print("\nexport with: linknet-fastai export RUN --format NAME")
    missing = {str(entry.name): extra for entry in FORMATS.values() if (extra := entry.missing_extra)}
    if not find_spec("nncf"):
        missing["--int8"] = "int8"
    for name, extra in missing.items():
        show_note(f"{name} needs: pip install 'linknet-fastai[{extra}]'")


def show_comparison(runs: Sequence["RunSummary"]) -> None:
    """Print runs side by side: results, different settings, classes, seeds, and published figures."""
    from linknet_fastai.runs.compare import comparable_evaluation, differing_settings, published_figures, spreads

    numbers = [str(number) for number in range(1, len(runs) + 1)]
    shown = table("", "run", "last mIoU", "mean acc", "best mIoU", "epochs", "s an epoch", "min", "M param")
    for number, run in zip(numbers, runs, strict=True):
        shown.add_row(
            number,
            run.name,
            percent(run.last["miou"]),
            percent(run.last["mean_accuracy"]),
            f"{percent(run.best['miou'])} at {run.best['epoch']}",
            f"{run.last['epoch']}"
            + (f" of {epochs}" if (epochs := run.settings["epochs"]) > run.last["epoch"] else ""),
            f"{run.seconds / len(run.rows):.1f}",
            f"{run.seconds / 60:.1f}",
            f"{run.run['parameters'] / 1e6:.2f}" if "parameters" in run.run else "-",
        )
    show_table(shown)
    if differing := differing_settings(runs):
        console.print()
        shown = table("setting", *numbers)
        for name, values in differing.items():
            shown.add_row(name, *("-" if value is None else str(value) for value in values))
        show_table(shown)
    console.print()
    shown = table("class IoU, last epoch", *numbers)
    for name in dict.fromkeys(name for run in runs for name in run.ious):
        shown.add_row(name, *(percent(run.ious[name]) if name in run.ious else "-" for run in runs))
    show_table(shown)
    if groups := spreads(runs):
        console.print()
        shown = table("same but for the seed", "seeds", "mean of last mIoU", "smallest", "largest")
        for group in groups:
            seeds = ", ".join(map(str, group.seeds))
            extremes = map(percent, (min(group.mious), max(group.mious)))
            shown.add_row(", ".join(group.names), seeds, percent(group.mean), *extremes)
        show_table(shown)
    for recipe in dict.fromkeys(run.recipe for run in runs):
        figures = published_figures(recipe)
        for split in dict.fromkeys(figure.split for figure in figures):
            console.print(styled(f"\n{recipe} {split}: published, and measured here", "bold"))
            shown = table("network", "source", "size", "pretrained", "mean acc", "mIoU", words=2)
            for figure in figures:
                if figure.split == split:
                    cells = [_published(value) for value in (figure.mean_accuracy, figure.miou)]
                    shown.add_row(figure.network, figure.source, figure.size or "-", figure.pretrained, *cells)
            evaluations = [(run, comparable_evaluation(run, split)) for run in runs if run.recipe == recipe]
            for run, scores in evaluations:
                if scores:
                    pretrained = "ImageNet" if run.settings["pretrained"] else "none"
                    cells = [_published(scores[name]) for name in ("mean_accuracy", "miou")]
                    shown.add_row("LinkNet", run.name, scores["size"], pretrained, *cells, style="bold")
            show_table(shown)
            if not all(scores for _, scores in evaluations):
                show_note(
                    f"to show a run's scores on {split} here: linknet-fastai evaluate RUN {recipe} "
                    f"--split {split} --json RUN/evaluation-{split}.json"
                )


def _published(score: float | None) -> str:
    """A score with three digits, as papers print it."""
    return "-" if score is None else f"{score:.3f}"
