"""`report` and `compare`: the commands that show runs."""

from pathlib import Path
from typing import Annotated

from linknet_fastai.cli.options import DataOption, typer_command
from linknet_fastai.core.errors import UsageError


@typer_command
def compare(
    folders: Annotated[list[Path], "Run folders.", "RUN..."],
    csv: Annotated[Path | None, "Write a row per run as CSV.", "FILE"] = None,
    picture: Annotated[Path | None, "Draw curves and class IoU as a PNG.", "FILE"] = None,
) -> None:
    """Show runs side by side, with the published figures that compare with them."""
    from linknet_fastai.cli.tables import show_comparison
    from linknet_fastai.runs.compare import summarize, write_table

    runs = [summarize(folder) for folder in folders]
    show_comparison(runs)
    if csv:
        write_table(runs, csv)
    if picture:
        from linknet_fastai.runs.charts import run_comparison, save_figure

        save_figure(run_comparison(runs), picture)


@typer_command
def report(
    run: Annotated[Path, "Run folder, or the folder of the folds of `fit --folds`.", "RUN"],
    data: DataOption = None,
) -> None:
    """Write the report of a run, or of folds, one HTML file, which `fit` writes too."""
    from linknet_fastai.cli.terminal import console, progress_bar, show_note
    from linknet_fastai.runs import report as reports
    from linknet_fastai.runs.folds import FOLDS_FILE
    from linknet_fastai.runs.folds_report import report_folds

    if (run / FOLDS_FILE).is_file():
        if data is not None:
            raise UsageError("--data: the report of folds shows no frames; leave it out, or name a fold's folder")
        console.print(str(report_folds(run)))
        return
    with progress_bar() as progress:
        file, why_no_frames = reports.report(run, data, progress)
    if why_no_frames:
        show_note(f"no frames are shown: {why_no_frames}")
    console.print(str(file))
