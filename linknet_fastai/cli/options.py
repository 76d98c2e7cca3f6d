"""The arguments and options that several commands share; those of settings are generated from `Settings`."""

import functools
import inspect
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from linknet_fastai.config.layers import current_names
from linknet_fastai.config.settings import (
    RENAMED,
    SHOWN_DEFAULTS,
    WITHOUT_OPTION,
    Precision,
    Settings,
    group_of,
    option_of,
    parse_device,
)
from linknet_fastai.config.size import parse_size
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.text import did_you_mean
from linknet_fastai.engines.formats import ENGINES, FORMATS, EngineName


def _recipe_names() -> list[str]:
    from linknet_fastai.config.recipe import recipe_names

    return recipe_names()


def _preset_names() -> list[str]:
    from linknet_fastai.config.presets import preset_names

    return preset_names()


def _check_data(context: typer.Context, data: Path | None) -> Path | None:
    """Raise UsageError for a recipe that is given as data, as in trainers whose --data is a file."""
    arguments = [str(each.metavar) for each in context.command.params if each.param_type_name == "argument"]
    if data is None or data.suffix not in (".toml", ".yaml", ".yml") or data.is_dir() or arguments[-1:] != ["RECIPE"]:
        return data
    usage = " ".join([str(context.info_name), *arguments[:-1], str(data)])
    raise UsageError(f"--data: {data} is not a data folder; a recipe is the argument RECIPE: {usage}")


METAVARS: dict[Any, str | None] = {  # by setting, or by type; else NAME
    bool: None,
    int: "N",
    float: "X",
    Path: "FILE",
    "size": "WxH",
    "crop": "WxH",
    "cache_dir": "DIR",
    "init_from": "MODEL",
    "teacher": "MODEL",
    "lr": "RATE",
    **dict.fromkeys(("train_on", "validate_on"), "SPLIT"),
}


def typer_command(command: Callable[..., None]) -> Callable[..., None]:
    """Make a Typer command of a function whose parameters are described as in the example.

    A parameter without a default is an argument, one with a default is the option of its name. Its annotation holds,
    after the type: help, metavar, default in words, and a dict of further arguments of `typer.Option`. An annotation
    of Typer's own stays as it is.

    Example:
        ::

            @typer_command
            def show(
                folder: Annotated[Path, "Run folder.", "RUN"],
                steps: Annotated[int, "Number of batches.", "N", None, {"min": 20}] = 100,
            ) -> None: ...
    """

    def with_info(parameter: inspect.Parameter) -> inspect.Parameter:
        kind, *about = get_args(parameter.annotation) or (parameter.annotation,)
        if get_origin(parameter.annotation) is not Annotated or not isinstance(about[0], str):
            return parameter
        about += [None, None, {}][len(about) - 1 :]
        description, metavar, shown, further = about
        texts = {"help": description, "metavar": metavar, "show_default": shown or True, **further}
        if parameter.default is parameter.empty or str(metavar).startswith("["):
            return parameter.replace(annotation=Annotated[kind, typer.Argument(**texts)])
        option = typer.Option(f"--{parameter.name.replace('_', '-')}", **texts)
        return parameter.replace(annotation=Annotated[kind, option])

    signature = inspect.signature(command)
    parameters = [with_info(parameter) for parameter in signature.parameters.values()]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # as `inspect` says
    return command


def _setting_info(name: str) -> Any:
    """What Typer shows of the option of a setting."""
    field = Settings.model_fields[name]
    kind = _option_type(field.annotation)
    default = ("off", "on")[field.default] if kind is bool else str(field.default)
    option = option_of(name)
    return typer.Option(
        f"{option}/--no-{option[2:]}" if kind is bool else option,
        help=field.description,
        metavar=METAVARS.get(name) or METAVARS.get(kind, "NAME"),
        show_default=SHOWN_DEFAULTS.get(name) or (field.default is not None and default),
        rich_help_panel=group_of(name),
        autocompletion=_preset_names if name == "preset" else None,
    )


def _option_type(annotation: Any) -> Any:
    """What Typer reads a setting as: text if it is none of the types below, which pydantic parses later."""
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    kind = kinds[0] if len(kinds) == 1 and NoneType in get_args(annotation) else annotation
    return kind if kind in (bool, int, float, Path) or get_origin(kind) is Literal else str


RECIPE = typer.Argument(
    metavar="RECIPE", help="Name of a shipped recipe, or path of a TOML file.", autocompletion=_recipe_names
)
RecipeArgument = Annotated[str, RECIPE]
SUFFIXES = ", ".join(entry.suffix for entry in FORMATS.values())
ModelArgument = Annotated[
    Path,
    f"Run folder, or file in one of the formats of `export`: {SUFFIXES} (.pkl with --trust-pickle); or a name of "
    "`models`, or hf://USER/NAME.",
    "MODEL",
]
DataOption = Annotated[
    Path | None,
    "Data folder.",
    "DIR",
    "downloaded or drawn, if the recipe can",
    {"rich_help_panel": "Data", "callback": _check_data},
]
CacheDirOption = Annotated[Path | None, _setting_info("cache_dir")]
DeviceOption = Annotated[str | None, _setting_info("device")]
EngineDeviceOption = Annotated[
    str | None,
    "Device: auto, cpu, mps, cuda, or cuda:N (N alone too); of onnxruntime also tensorrt, directml or coreml.",
    "NAME",
    "auto",
    {"rich_help_panel": "Machine"},
]
PrecisionOption = Annotated[Precision | None, _setting_info("precision")]
EngineOption = Annotated[
    Literal["auto", EngineName] | None,
    f"{', '.join(ENGINES)}, or auto: the fastest that is installed for this file.",
    "NAME",
    "auto",
    {"rich_help_panel": "Machine"},
]
TrustOption = Annotated[bool | None, "Load a .pkl file, which can run any code that it contains."]
InputSizeOption = Annotated[
    str | None, "Size that frames are resized to, or native for their own.", "WxH", "the training size"
]
JsonOption = Annotated[Path | None, "Write the figures as JSON; - is stdout.", "FILE"]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting, as in --set flip=false; also those without an option: "
        f"{', '.join(name for name in Settings.model_fields if name in WITHOUT_OPTION)}.",
        rich_help_panel="Training",
    ),
]


def setting_options(without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every setting that has one, and `--set` for all settings.

    Args:
        without: names of settings that the command has no option for.

    Returns:
        A decorator for a Typer command with a parameter `options`: a dict of settings by name, None if not given.

    Example:
        The command below has the options --size, --bs, --lr and all others::

            @setting_options(without={"epochs"})
            def lr_find(recipe: str, options: dict[str, Any]) -> None: ...
    """
    types = {name: _option_type(field.annotation) for name, field in Settings.model_fields.items()}
    names = [name for name in types if name not in WITHOUT_OPTION and name not in without]

    def options(assignments: list[str] | None, **given: Any) -> dict[str, Any]:
        assigned = parse_assignments(assignments or [])
        if repeated := {name for name in assigned if given.get(name) is not None}:
            name = min(repeated)
            raise UsageError(f"--set {name}=...: {option_of(name)} is given too; leave one of them out")
        return given | assigned

    generated = {name: Annotated[types[name] | None, _setting_info(name)] for name in names}
    return functools.partial(_with_options, options, {**generated, "assignments": SetOption})


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose what runs a model.

    Args:
        command: a function with a parameter `open_engine`: `linknet_fastai.engines.open_engine.open_engine` with the
            values of these options, for a model and the arguments that are left.
    """

    def open_engine(size: str | None, device: str | None, **given: Any) -> Callable[..., Any]:
        from linknet_fastai.engines.engine import NATIVE
        from linknet_fastai.engines.open_engine import open_engine

        input_size = size if size in (None, NATIVE) else parse_size_option(size)
        chosen = {name: value for name, value in given.items() if value is not None}
        return functools.partial(open_engine, size=input_size, device=parse_device(device), **chosen)

    generated = {
        "size": InputSizeOption,
        "engine": EngineOption,
        "precision": PrecisionOption,
        "device": EngineDeviceOption,
        "trust_pickle": TrustOption,
    }
    return _with_options(open_engine, generated, command)


def _with_options(
    collect: Callable[..., Any], generated: Mapping[str, Any], command: Callable[..., None]
) -> Callable[..., None]:
    """A Typer command with generated options; `collect` turns their values into the parameter that has its name."""

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        given = {name: arguments.pop(name, None) for name in generated}
        command(**arguments, **{collect.__name__: collect(**given)})

    own = inspect.signature(command).parameters.values()
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in generated.items()
    ]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # as `inspect` says
        [each.replace(kind=each.KEYWORD_ONLY) for each in own if each.name != collect.__name__] + options
    )
    return typer_command(run)


def parse_size_option(text: str) -> tuple[int, int]:
    """Turn the value of `--size` into (width, height).

    Raises:
        UsageError: it is not a size.

    Example:
        >>> parse_size_option("640x480")
        (640, 480)
    """
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None


def parse_assignments(texts: list[str]) -> dict[str, Any]:
    """Turn the values of `--set`, NAME=VALUE with VALUE as in TOML, into settings by name.

    Raises:
        UsageError: a text is not an assignment, or there is no such setting.

    Example:
        >>> parse_assignments(["flip=false", "weight-decay=0.01", "optimizer=sgd"])
        {'flip': False, 'weight_decay': 0.01, 'optimizer': 'sgd'}
    """
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--set {text}: write NAME=VALUE, as in flip=false")
        if name not in Settings.model_fields and name not in RENAMED:
            raise UsageError(f"--set {text}: no setting {name!r}{did_you_mean(name, Settings.model_fields)}")
        try:
            given[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            given[name] = value.strip()  # a word without quotes
    return current_names(given)
