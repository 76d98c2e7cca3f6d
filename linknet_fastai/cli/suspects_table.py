"""The table of `data --suspects` in the terminal."""

from typing import TYPE_CHECKING

from linknet_fastai.cli.terminal import console, show_note, show_table, styled

if TYPE_CHECKING:
    from linknet_fastai.training.suspects import SuspectsResult

MOST_ROWS = 20


def show_suspects(result: "SuspectsResult") -> None:
    """Print the first suspects, and where the page is."""
    recipe = result.dataset.recipe.name
    console.print(styled(f"{recipe}: suspect labels in {result.frames} frames, judged by {result.model}", "bold"))
    rows = []
    for place, suspect in enumerate(result.suspects[:MOST_ROWS], 1):
        row = result.row(suspect)
        figures = f"{row['pixels']:,}", f"{row['share']:.0%}", f"{row['confidence']:.2f}", f"{row['score']:.0f}"
        rows.append((row["frame"], row["label"], row["predicted"], place, *figures))
    show_table(("frame", "label", "model says", "rank", "pixels", "share", "confidence", "score"), rows, words=3)
    if more := len(result.suspects) - len(rows):
        console.print(f"and {more} less suspect ones; --json FILE has all")
    console.print(f"\nwith pictures: {result.page}")
    for note in result.notes:
        show_note(note)
