"""Tables of what a bootstrap over frames says, and of scores by group."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from linknet_fastai.cli.terminal import console, percent, show_lines, show_note, show_table
from linknet_fastai.scoring.scores import OVERALL_SCORES

if TYPE_CHECKING:
    from linknet_fastai.runs.compare import RunSummary
    from linknet_fastai.scoring.evaluate import Evaluation


def show_groups(result: "Evaluation") -> None:
    """Print the scores of each group, with the class that it has the lowest IoU of."""
    rows = []
    for name, (frames, scores) in result.frame_counts.by_group().items():
        worst = min(
            zip(scores.iou.tolist(), result.class_names, strict=True), key=lambda pair: (pair[0] != pair[0], pair)
        )
        mean = [percent(scores.overall()[score.name]) for score in OVERALL_SCORES]
        rows.append((name or "(none)", worst[1], percent(worst[0]), frames, *mean))
    console.print()
    headings = ("group", "lowest class", "its IoU", "frames", *(score.label for score in OVERALL_SCORES))
    show_table(headings, rows, words=2)
    console.print()


def interval(low: float, high: float) -> str:
    """The two ends of an interval with three digits, or a dash for nan."""
    return f"{low:.3f} to {high:.3f}" if low == low else "-"


def show_differences(runs: Sequence["RunSummary"]) -> None:
    """Print for each two runs whether their networks can be told apart on the frames that both were evaluated on."""
    from linknet_fastai.runs.frame_counts import differences

    found, notes = differences(runs)
    if found:
        console.print()
        rows = [
            (
                f"{pair.first + 1} less {pair.second + 1}",
                pair.split,
                "yes" if pair.found.told_apart else "no",
                f"{pair.found.miou:+.4f}",
                "{:+.4f} to {:+.4f}".format(*pair.found.interval),
            )
            for pair in found
        ]
        show_table(("best weights", "split", "can be told apart", "mIoU", "95% interval"), rows, words=3)
        for split, words in dict.fromkeys((pair.split, pair.found.words) for pair in found):
            console.print(f"{split}: paired {words}")
        console.print("It is about these networks on these frames: compare settings by several seeds.")
    show_lines(notes, show_note)
