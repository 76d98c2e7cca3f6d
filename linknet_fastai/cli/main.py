"""The command line: its commands, what stands before them, and how an error looks. No logic lives here."""

import logging
import sys
import warnings
from typing import Annotated, Any

import typer

from linknet_fastai import __version__
from linknet_fastai.cli import data, model, runs, train
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.parallel import is_first, process_count
from linknet_fastai.learner.process_group import one_error_for_all

app = typer.Typer(
    name="linknet-fastai",
    help="Train, measure and ship LinkNet, the real-time street-scene segmentation network, with fastai.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="linknet-fastai recipes lists the data sets; a recipe of your own is the path of a TOML file.",
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors alone, and what --json - asks for.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error, and warnings.")] = False,
) -> None:
    """Options before the command, or anywhere after it."""
    if version:
        print(f"linknet-fastai {__version__}")
        raise typer.Exit
    if process_count() > 1 and context.invoked_subcommand != "fit":
        if not is_first():
            raise typer.Exit
        raise UsageError(f"{context.invoked_subcommand} runs in one process; fit alone is for torchrun")


COMMANDS = {
    "fit": train.fit,
    "lr-find": train.lr_find,
    "evaluate": model.evaluate,
    "predict": model.predict,
    "serve": model.serve,
    "export": model.export,
    "data": data.data,
    "recipes": data.recipes,
    "report": runs.report,
    "compare": runs.compare,
    "benchmark": model.benchmark,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Run the command line: an error is one line on stderr; 2 for a wrong argument or recipe, 1 for the rest."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--debug", "--quiet")]
    if "--quiet" in sys.argv:
        from linknet_fastai.cli.terminal import be_quiet

        be_quiet()
    if not debug:
        warnings.simplefilter("ignore")  # the libraries' advice to their developers
        warnings.filterwarnings("default", category=FutureWarning, module="linknet_fastai")
        warnings.showwarning = _show_warning
        logging.disable()  # what timm logs of a failed load, our own line says
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
    """Show an error as one line; its exit status."""
    if isinstance(error, UserError):
        _show(str(error))
        return error.exit_code
    if isinstance(error, typer.TyperException):
        if message := error.format_message():  # without one it was the help that was shown
            _show(message)
        return error.exit_code
    if isinstance(error, typer.Abort):
        _show("stopped")
        return 130
    _show(f"{type(error).__name__}: {error} (this is no message of ours; --debug shows where it comes from)")
    return 1


def _show_warning(message: Warning | str, *details: Any) -> None:
    from linknet_fastai.cli.terminal import show_note

    show_note(str(message))


def _show(message: str) -> None:
    from linknet_fastai.cli.terminal import show_error

    show_error(message)
