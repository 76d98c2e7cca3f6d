"""What the terminal shows: rich tables and bars where a person looks, plain lines in a pipe."""

import json
from collections.abc import Callable, Iterator, Sequence
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

if TYPE_CHECKING:  # these import torch, which --help must not wait for
    from linknet_fastai.core.parallel import Progress as ProgressReport

WIDEST = 10_000  # columns of a table in a pipe
LONGEST_LINE = 4000  # of an error: an option's whole megabyte is not said again


class PlainConsole(Console):
    """A console for text from anywhere: no name of a file or class is taken for markup, or reaches the terminal as an
    escape of its own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **kwargs)

    def render_str(self, text: str, **kwargs: Any) -> Text:
        """See `Console.render_str`, which all that is no `Text` goes through."""
        return super().render_str(printable(text, keep="\n"), **kwargs)


console = PlainConsole(quiet=not is_first())  # of several processes the others report errors alone
errors = PlainConsole(stderr=True)


def styled(text: str, style: str) -> Text:
    """A text in one style, with nothing in it that a terminal would obey."""
    return Text(printable(text, keep="\n"), style=style)


def percent(value: float) -> str:
    """A fraction with four digits, or a dash for nan."""
    return f"{value:.4f}" if value == value else "-"


def show_error(message: str) -> None:
    """Print one line on stderr."""
    said = printable(" ".join(message.split()))
    if len(said) > LONGEST_LINE:
        said = f"{said[:LONGEST_LINE]}..."
    errors.print(styled("error: ", "bold red") + Text(said, style="default"))


def show_note(message: str) -> None:
    """Print a line that is no error on stderr."""
    if not console.quiet:
        errors.print(styled("note: ", "bold yellow") + styled(message, "default"))


def table(*columns: str, words: int = 1) -> Table:
    """A table in the house's look: the first `words` columns are text, the others numbers."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        justify = "left" if place < words else "right"
        made.add_column(column, justify=justify, header_style="bold", overflow="fold")
    return made


def show_table(shown: Table) -> None:
    """Print a table; in a pipe it is as wide as it needs to be."""
    if console.is_terminal:
        console.print(shown, soft_wrap=False)
        return
    usual, console.width = console.width, WIDEST
    console.print(shown, soft_wrap=False)
    console.width = usual


@contextmanager
def progress_bar() -> Iterator["ProgressReport"]:
    """Give a function that shows how far something is, on stderr; in a pipe it says nothing."""
    if not errors.is_terminal or console.quiet:
        yield lambda what, done, total: None
        return
    with progress_columns(errors, SpeedColumn()) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on stderr that something is going on whose length nobody knows; in a pipe it says nothing."""
    if not errors.is_terminal or console.quiet:
        yield
        return
    with errors.status(what):
        yield


class SpeedColumn(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """The speed over the last half minute."""
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def be_quiet() -> None:
    """Print results for programs and errors alone from here on."""
    console.quiet = True


def progress_columns(on: Console, *more: ProgressColumn) -> Progress:
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
    """Show figures to people and write them for programs, where a file is named; for "-" programs alone get them."""
    said = json.dumps(content, indent=2)
    if file == Path("-"):
        print(said)
        return
    show()  # first: where the file cannot be written they are not lost
    if file:
        write_text(file, f"{said}\n")


def show_lines(lines: Sequence[str], show: Any, most: int = 20) -> None:
    """Show up to `most` lines, and count the others."""
    for line in lines[:most]:
        show(line)
    if len(lines) > most:
        show(f"and {len(lines) - most} more")
