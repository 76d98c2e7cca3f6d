"""Output on the terminal: tables and progress bars of rich on a terminal, plain lines in a pipe."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from linknet_fastai.core.files import write_text
from linknet_fastai.core.parallel import is_first
from linknet_fastai.core.text import printable

if TYPE_CHECKING:  # --help does not import torch
    from linknet_fastai.core.parallel import Progress as ProgressReport

PIPE_WIDTH = 10_000  # columns of a table in a pipe
LONGEST_ERROR = 4000  # characters; the value of an option can be a megabyte


class PlainConsole(Console):
    """A console for untrusted text: names of files and classes are not read as markup or terminal escapes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **kwargs)

    def render_str(self, text: str, **kwargs: Any) -> Text:
        """Make a text printable; see `Console.render_str`, which is called for everything that is not a `Text`."""
        return super().render_str(printable(text, keep="\n"), **kwargs)


console = PlainConsole(quiet=not is_first())  # of several processes the others print only errors
errors = PlainConsole(stderr=True)


def styled(text: str, style: str) -> Text:
    """A text in one style, without terminal escapes."""
    return Text(printable(text, keep="\n"), style=style)


def percent(value: float) -> str:
    """A fraction with four digits, or a dash for nan.

    Example:
        >>> percent(0.5), percent(float("nan"))
        ('0.5000', '-')
    """
    return f"{value:.4f}" if value == value else "-"


def show_error(message: str) -> None:
    """Print an error as one line on stderr."""
    line = printable(" ".join(message.split()))
    if len(line) > LONGEST_ERROR:
        line = f"{line[:LONGEST_ERROR]}..."
    errors.print(styled("error: ", "bold red") + Text(line, style="default"))


def show_note(message: str) -> None:
    """Print a note as one line on stderr."""
    if not console.quiet:
        errors.print(styled("note: ", "bold yellow") + styled(message, "default"))


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], words: int = 1, bold: Iterable[Sequence[Any]] = ()
) -> None:
    """Print a table without lines; in a pipe its rows are not folded.

    Args:
        columns: the headings.
        rows: the cells of each row, as text or anything that has one.
        words: how many columns, from the left, are text and aligned left; the others are numbers.
        bold: further rows, in bold.
    """
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        shown.add_column(column, justify="left" if number < words else "right", header_style="bold", overflow="fold")
    for style, styled_rows in (("", rows), ("bold", bold)):
        for row in styled_rows:
            shown.add_row(*map(str, row), style=style)
    width = console.width
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(shown, soft_wrap=False)
    console.width = width


@contextmanager
def progress_bar() -> Iterator["ProgressReport"]:
    """Yield a function that shows progress on stderr; in a pipe it does nothing."""
    if not errors.is_terminal or console.quiet:
        yield lambda what, done, total: None
        return
    with progress_columns(errors, SpeedColumn()) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=None)
            bar.update(tasks[what], completed=done, total=total or None)

        yield report


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a spinner on stderr for work of unknown length; in a pipe it does nothing."""
    if not errors.is_terminal or console.quiet:
        yield
        return
    with errors.status(what):
        yield


class SpeedColumn(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        """Render the speed over the last half minute."""
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def be_quiet() -> None:
    """From here on print only errors, and results for programs."""
    console.quiet = True


def progress_columns(on: Console, *more: ProgressColumn) -> Progress:
    """A progress bar on a console, with more columns between the count and the remaining time."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        *more,
        TimeRemainingColumn(compact=True),
        console=on,
        transient=True,
        expand=True,
    )


def show_or_print_json(show: Callable[[], None], content: Any, file: Path | None) -> None:
    """Show figures and write them as JSON if a file is given; for "-" only print the JSON.

    Args:
        show: prints the figures for people.
        content: the figures.
        file: the file to write, "-" for stdout, or None.
    """
    text = json.dumps(content, indent=2)
    if file == Path("-"):
        print(text)
        return
    show()  # first, so that nothing is lost if the file cannot be written
    if file:
        write_text(file, f"{text}\n")


def show_lines(lines: Sequence[str], show: Callable[[str], None], limit: int = 20) -> None:
    """Show up to `limit` lines, and the number of the others."""
    for line in lines[:limit]:
        show(line)
    if len(lines) > limit:
        show(f"and {len(lines) - limit} more")
