"""What users of other trainers type, and what it is called here. No command or option is defined in this file."""

from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup

from linknet_fastai.config.settings import WITHOUT_OPTION, option_of
from linknet_fastai.core.errors import UsageError

COMMANDS = {
    **dict.fromkeys(("train", "finetune"), "fit"),
    **dict.fromkeys(("val", "valid", "validate", "test", "eval"), "evaluate"),
    **dict.fromkeys(("inference", "infer", "detect", "segment"), "predict"),
    **dict.fromkeys(("convert",), "export"),
    **dict.fromkeys(("find-lr", "lr"), "lr-find"),
    **dict.fromkeys(("datasets", "presets"), "recipes"),
    **dict.fromkeys(("demo",), "serve"),
}
OPTIONS = {
    **dict.fromkeys(("batch-size", "batch", "batchsize"), "--bs"),
    **dict.fromkeys(("lr0", "learning-rate"), "--lr"),
    **dict.fromkeys(("imgsz", "img-size", "img", "image-size"), "--size"),
    **dict.fromkeys(("model", "backbone", "arch"), "--encoder"),
    **dict.fromkeys(("weights", "checkpoint"), "--init-from"),
    **dict.fromkeys(("num-workers",), "--workers"),
    **dict.fromkeys(("gpu", "gpus"), "--device"),
    **dict.fromkeys(("amp", "half"), "--precision"),
    **dict.fromkeys(("project", "name", "output", "work-dir", "save-dir"), "--out"),
    **dict.fromkeys(("wd",), "--set weight_decay"),
}
ARGUMENTS = {
    **dict.fromkeys(("cfg", "config", "dataset"), "RECIPE"),
    **dict.fromkeys(("model", "weights"), "MODEL"),
    **dict.fromkeys(("source", "input", "inputs"), "INPUT..."),
}


class CommandGroup(TyperGroup):
    """The commands, with a hint for the name that another program gives one."""

    def resolve_command(self, context: Any, arguments: list[str]) -> Any:
        """Find a command, see `TyperGroup.resolve_command`; raises UsageError for a synonym."""
        given = arguments[0]
        name = given.replace("_", "-").lower()
        if given not in self.commands and (ours := COMMANDS.get(name, name)) in self.commands:
            raise UsageError(f"no command {given!r}: use {ours}")
        return super().resolve_command(context, arguments)


def explain_usage_error(error: typer.TyperException) -> str:
    """Typer's message for a wrong argument; an unknown option is explained by the option that was meant.

    Args:
        error: what Typer raised. Its class for unknown options is not public: they are those with `possibilities`.
    """
    if not hasattr(error, "possibilities"):
        return error.format_message().replace("Value error, ", "")
    unknown: Any = error
    given, context = unknown.option_name, unknown.ctx
    name = given.lstrip("-").replace("_", "-").lower()
    parameters = context.command.params
    options = [option for parameter in parameters for option in parameter.opts if option.startswith("--")]
    message = f"no such option {given}"
    wanted = OPTIONS.get(name)
    if wanted and wanted.split()[0] in options:
        value = " 640x480" if wanted == "--size" else "=VALUE" if " " in wanted else ""
        return f"{message}: use {wanted}{value}"
    if (setting := name.replace("-", "_")) in WITHOUT_OPTION and "--set" in options:
        return f"{message}: use {option_of(setting)}=VALUE"
    if (argument := ARGUMENTS.get(name)) and argument in [parameter.metavar for parameter in parameters]:
        return f"{message}: {argument} is an argument, without an option's name"
    near = [option for option in options if option.startswith(f"--{name}")]
    near = near or get_close_matches(f"--{name}", options, n=1, cutoff=0.7)
    return message + (f": did you mean {' or '.join(near[:3])}?" if near else f"; see {context.command_path} --help")
