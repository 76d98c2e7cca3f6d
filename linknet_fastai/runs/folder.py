"""The run folder, its run.toml and evaluations, each written completely or not at all; `metrics` has the scores."""

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from linknet_fastai import __version__
from linknet_fastai.config.classes import MAX_CLASSES
from linknet_fastai.config.layers import settings_of_a_run
from linknet_fastai.config.settings import RENAMED, Settings, Text
from linknet_fastai.core.errors import UsageError, UserError, explain, reason
from linknet_fastai.core.files import (
    MAX_LIST_BYTES,
    MAX_TOML_BYTES,
    file_lock,
    parse_json,
    parse_toml,
    read_text,
    write_text,
)
from linknet_fastai.core.text import Line, Name
from linknet_fastai.model.card import Temperature

RUN_FILE, LOCK = "run.toml", ".lock"
PACKAGES = ("fastai", "torch", "torchvision", "timm", "numpy", "pillow")


def new_folder(out: Path | None, name: str) -> Path:
    """The folder to write a new run into: `out`, or by default runs/NAME-DATE-TIME in the current folder.

    Raises:
        UsageError: it is not empty, or cannot be written into.
    """
    folder = out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):  # of a run that was killed
        raise UsageError(f"--out: {folder} is not empty; choose another folder")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"--out: {folder} cannot be created, {existing} is not a writable folder")
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create a run folder and lock it against other trainings.

    Raises:
        UserError: the folder is locked by another training, or cannot be written into.
    """

    def refuse(done: int, total: int) -> None:
        raise UserError(f"{folder}: locked by another fit that is running in this folder")

    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(folder / LOCK, refuse))
        except OSError as error:
            raise UserError(f"{folder}: cannot be written into ({reason(error)})") from None
        try:
            yield
        finally:
            with suppress(OSError):  # Windows cannot delete an open file
                (folder / LOCK).unlink()
                folder.rmdir()  # it is empty if the run failed before its first file


def write_run(folder: Path, settings: Settings, origins: Mapping[str, str], run: Mapping[str, Any]) -> None:
    """Write run.toml.

    Args:
        folder: the run folder.
        settings: every resolved setting.
        origins: the source of each setting.
        run: what was run: recipe, data, command, time.

    Raises:
        UserError: the file cannot be written.
    """
    tables = {
        "run": dict(run),
        "settings": settings.model_dump(mode="json", exclude_none=True),
        "origins": {name: origins[name] for name in Settings.model_fields},
        "versions": {
            "python": platform.python_version(),
            "linknet-fastai": __version__,  # not from metadata, which a checkout that is not installed lacks
            **{name: version(name) for name in PACKAGES},
        },
    }
    write_text(folder / RUN_FILE, tomli_w.dumps(tables))


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Add the table `result` to run.toml, or replace it. None values are left out: TOML has no null.

    Raises:
        UserError: there is no run.toml, or it cannot be written.
    """
    tables = _read(folder / RUN_FILE, parse_toml, dict, MAX_TOML_BYTES)
    values = {name: value for name, value in result.items() if value is not None}
    write_text(folder / RUN_FILE, tomli_w.dumps(tables | {"result": values}))


class _Table(BaseModel):
    """A table in a file of the run folder. The keys that commands read are checked, others are kept."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Run(_Table):
    recipe: Text
    recipe_name: Text = ""
    data: Text
    started: Line
    parameters: Annotated[int, Field(ge=0, lt=1 << 60)] = 0


class _Result(_Table):
    finished: bool = False
    peak_memory_mib: Annotated[int, Field(ge=0, lt=1 << 60)] | None = None


class _RunTables(_Table):
    """The tables of run.toml."""

    settings: dict[str, Any]
    origins: dict[Name, Line]
    run: _Run
    versions: dict[Name, Line]
    result: _Result = _Result()


Tables = TypeVar("Tables")
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class _ClassScores(_Table):
    name: Name
    iou: Share | None
    iou_interval: tuple[Share, Share] | None = None


class _Intervals(_Table):
    words: Line
    miou: tuple[Share, Share] | None
    mean_accuracy: tuple[Share, Share] | None


class _ReliabilityBin(_Table):
    confidence: Share
    accuracy: Share
    share: Share


class _RiskAtCoverage(_Table):
    coverage: Share
    risk: Share
    miou: Share | None


class _Scores(_Table):
    """The scores that `evaluate` writes. Other programs may write fewer: all but split and miou is optional."""

    split: Text
    recipe: Text = "-"
    miou: Share | None
    mean_accuracy: Share | None = None
    size: Line = "-"
    engine: Line = "-"
    tta: bool = False
    frames: Count = 0
    intervals: _Intervals | None = None
    classes: Annotated[list[_ClassScores], Field(max_length=MAX_CLASSES)] = []
    confusion: list[list[Count]] = []
    frame_miou: dict[str, Share | None] = {}
    ece: Share | None = None
    temperature: Temperature = 1.0
    reliability: Annotated[list[_ReliabilityBin], Field(max_length=256)] = []
    risk_coverage: Annotated[list[_RiskAtCoverage], Field(max_length=256)] = []

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        size = len(self.classes)
        widths = {len(row) for row in self.confusion}
        if len(self.confusion) != size or len(widths) > 1 or not widths <= {size, size + 1}:
            raise ValueError("confusion: needs a row and a column for each class, and at most one column more")
        return self


class RunFile(NamedTuple):
    """The tables of run.toml, which another version may have written.

    Attributes:
        settings: the settings that are valid in this version, as in the file; one that the file lacks is missing.
        left_out: what is wrong with each of the others, by name.
        origins: the source of each setting.
        run: what was run: recipe, data, command, time.
        versions: the versions of Python and packages.
        result: empty if the run was not finished.
    """

    settings: dict[str, Any]
    left_out: dict[str, str]
    origins: dict[str, str]
    run: dict[str, Any]
    versions: dict[str, str]
    result: dict[str, Any]


def read_run(folder: Path) -> RunFile:
    """Read run.toml.

    Raises:
        UserError: there is no run in this folder, or its run.toml is damaged or not valid.

    Example:
        ::

            run = read_run(Path("runs/camvid"))
            print(run.settings["lr"], run.origins["lr"], run.versions["torch"])
    """
    tables = _read(folder / RUN_FILE, parse_toml, _RunTables.model_validate, MAX_TOML_BYTES)
    settings, left_out = settings_of_a_run(tables.settings)
    written = {RENAMED.get(name, name): origin for name, origin in tables.origins.items()}
    origins = {name: written.get(name, "default") for name in settings}
    run, result = (table.model_dump(exclude_unset=True) for table in (tables.run, tables.result))
    return RunFile(settings, left_out, origins, run, tables.versions, result)


def write_evaluation(folder: Path, scores: Mapping[str, Any]) -> Path:
    """Write the scores of `evaluate` as evaluation-SPLIT.json, and return the file.

    Raises:
        UserError: the file cannot be written.
    """
    name = "+".join(Path(part).stem for part in scores["split"].split("+")).replace(":", "-")  # for Windows
    file = folder / f"evaluation-{name}.json"
    write_text(file, json.dumps(scores, indent=2) + "\n")
    return file


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Read every evaluation*.json in a run folder, sorted by file name. Missing keys have their defaults.

    The key `file` is the file's path.

    Raises:
        UserError: a file is damaged.

    Example:
        ::

            {scores["split"]: scores["miou"] for scores in read_evaluations(Path("runs/camvid"))}
    """
    files = sorted(folder.glob("evaluation*.json"))
    read = [_read(file, parse_json, _Scores.model_validate, MAX_LIST_BYTES) for file in files]
    return [{**scores.model_dump(), "file": file} for scores, file in zip(read, files, strict=True)]


def _read(file: Path, parse: Callable[[str], Any], check: Callable[[Any], Tables], max_bytes: int) -> Tables:
    """Read a file of a run folder; every error becomes a UserError that names it."""
    try:
        return check(parse(read_text(file, max_bytes)))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{file.parent}: no run here ({file.name} is missing)") from None
    except ValidationError as error:
        raise UserError(f"{file}: {explain(error)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({reason(error)})") from None
