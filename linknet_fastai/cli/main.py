"""The command line: its commands, the options before them, and how errors are shown. No logic."""

import logging
import sys
import warnings
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from linknet_fastai import __version__
from linknet_fastai.cli import data, export, model, models, predict, runs, train
from linknet_fastai.cli.hints import CommandGroup, explain_usage_error
from linknet_fastai.core.errors import Note, UsageError, UserError
from linknet_fastai.core.parallel import is_first, process_count
from linknet_fastai.learner.process_group import one_error_for_all

app = typer.Typer(
    name="linknet-fastai",
    cls=CommandGroup,
    help="Train, evaluate and deploy LinkNet, a network for real-time segmentation of street scenes, with fastai.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="linknet-fastai recipes lists the data sets; your own is the path of a TOML file.",
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only errors, and the output of --json -.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show warnings, and the traceback of an error.")] = False,
) -> None:
    """Handle the options that may be before the command or anywhere after it."""
    if version:
        print(f"linknet-fastai {__version__}")
        raise typer.Exit
    if process_count() > 1 and context.invoked_subcommand != "fit":
        if not is_first():
            raise typer.Exit
        raise UsageError(f"{context.invoked_subcommand} runs in one process; only fit can be started by torchrun")


COMMANDS: dict[str, Callable[..., None]] = {
    "fit": train.fit,
    "lr-find": train.lr_find,
    "evaluate": model.evaluate,
    "predict": predict.predict,
    "serve": model.serve,
    "export": export.export,
    "data": data.data,
    "recipes": data.recipes,
    "models": models.models,
    "report": runs.report,
    "compare": runs.compare,
    "benchmark": export.benchmark,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Run the command line and exit: status 2 for an invalid argument or recipe, 1 for any other error."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--debug", "--quiet")]
    if "--quiet" in sys.argv:
        from linknet_fastai.cli.terminal import be_quiet

        be_quiet()
    if not debug:
        warnings.simplefilter("ignore")  # those of the libraries are meant for developers
        warnings.filterwarnings("once", category=FutureWarning, module="linknet_fastai")
        warnings.simplefilter("once", Note)
        warnings.showwarning = _show_warning
        logging.disable()  # timm logs a failed load, which our own error reports too
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal without UTF-8 shows a name's letters as escapes
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with one_error_for_all():
            code = app(arguments, prog_name="linknet-fastai", standalone_mode=False)
    except Exception as error:
        if debug:
            raise
        code = _report(error)
    except KeyboardInterrupt:
        _show("stopped")
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    """Show an error as one line.

    Returns:
        The exit status.
    """
    if isinstance(error, UserError):
        _show(str(error))
        return error.exit_code
    if isinstance(error, typer.TyperException):
        if message := explain_usage_error(error):  # it is empty where the help was shown instead
            _show(message)
        return error.exit_code
    if isinstance(error, typer.Abort):
        _show("stopped")
        return 130
    if isinstance(error, OSError) and error.strerror:  # of the machine: a disk, a folder, permissions
        _show(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror} (--debug shows the traceback)")
        return 1
    _show(f"{type(error).__name__}: {error} (unexpected; --debug shows the traceback)")
    return 1


def _show_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    from linknet_fastai.cli.terminal import show_note

    show_note(str(message))


def _show(message: str) -> None:
    from linknet_fastai.cli.terminal import show_error

    show_error(message)
