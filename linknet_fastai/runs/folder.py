"""The folder of a run: run.toml and metrics.csv, written whole or not at all."""

import csv
import io
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import tomli_w
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from linknet_fastai.config.recipe import MOST_CLASSES
from linknet_fastai.config.settings import MOST_EPOCHS, RENAMED, Settings, Text, explain
from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.core.files import (
    LARGEST_LIST,
    parse_json,
    read_tables,
    read_text,
    write_text,
)
from linknet_fastai.core.text import Line, Name
from linknet_fastai.scoring.scores import OVERALL_SCORES

RUN_FILE, METRICS_FILE = "run.toml", "metrics.csv"
SCORE_COLUMNS = [score.name for score in OVERALL_SCORES]
COLUMNS = ("epoch", "train_loss", "valid_loss", *SCORE_COLUMNS, "lr", "seconds")
LARGEST_METRICS = 1 << 24  # bytes
PACKAGES = ("linknet-fastai", "fastai", "torch", "torchvision", "timm", "numpy", "pillow")


def refuse_used_folder(folder: Path) -> None:
    """Raise UsageError if a new run would write among what is there already."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"--out: {folder} is in use; name another folder")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"--out: {folder} cannot be made, {existing} is no folder to write into")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a run folder and keep other trainings out of it.

    Raises:
        UserError: another training is in it, or it cannot be written into.
    """
    lock = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                with suppress(OSError):  # Windows deletes no open file, and FileLock does it itself there
                    lock.unlink(missing_ok=True)
                with suppress(OSError):  # it is empty where a run has not come to be
                    folder.rmdir()
    except Timeout:
        raise UserError(f"{folder}: another fit trains in this folder right now") from None
    except OSError as error:
        if error.filename != str(lock):
            raise
        raise UserError(f"{folder}: cannot be written into ({reason(error)})") from None


def write_run(folder: Path, settings: Settings, origins: Mapping[str, str], run: Mapping[str, Any]) -> None:
    """Write run.toml: what was run, every setting and where it came from, the versions."""
    tables = {
        "run": dict(run),
        "settings": settings.model_dump(mode="json", exclude_none=True),
        "origins": {name: origins[name] for name in Settings.model_fields},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    write_text(folder / RUN_FILE, tomli_w.dumps(tables))


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Add the table `result` to run.toml, in place of an earlier one; TOML has no None."""
    tables = _read_toml(folder / RUN_FILE)
    known = {name: value for name, value in result.items() if value is not None}
    write_text(folder / RUN_FILE, tomli_w.dumps(tables | {"result": known}))


class _Table(BaseModel):
    """A table of a run's files: what commands read out of it is checked, what else stands there is kept."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Run(_Table):
    recipe: Text
    data: Text
    started: Line
    parameters: Annotated[int, Field(ge=0, lt=1 << 60)] = 0


class _Result(_Table):
    finished: bool = False
    peak_memory_mib: Annotated[int, Field(ge=0, lt=1 << 60)] | None = None


class _RunTables(_Table):
    """The tables of run.toml."""

    settings: Settings
    origins: dict[Name, Line]
    run: _Run
    versions: dict[Name, Line]
    result: _Result | None = None


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class _ClassScores(_Table):
    name: Name
    iou: Share | None


class _Scores(_Table):
    """What `evaluate` writes; scores that somebody else wrote down may be fewer."""

    split: Text
    miou: Share | None
    mean_accuracy: Share | None = None
    size: Line = "-"
    engine: Line = "-"
    tta: bool = False
    frames: Count = 0
    classes: Annotated[list[_ClassScores], Field(max_length=MOST_CLASSES)] = []
    confusion: list[list[Count]] = []
    frame_miou: dict[str, Share | None] = {}

    @model_validator(mode="after")
    def _check_square(self) -> Self:
        if [len(row) for row in self.confusion] != [len(self.classes)] * len(self.classes):
            raise ValueError("confusion: not a row and a column for each of the classes")
        return self


class RunFile(NamedTuple):
    """What run.toml holds; `result` is empty where the run has not come to its end."""

    settings: Settings
    origins: dict[str, str]
    run: dict[str, Any]
    versions: dict[str, str]
    result: dict[str, Any]


def read_run(folder: Path) -> RunFile:
    """Read run.toml.

    Raises:
        UserError: there is no run in this folder, or its run.toml does not fit.
    """
    try:
        tables = _RunTables(**_read_toml(folder / RUN_FILE))
    except ValidationError as error:
        raise UserError(f"{folder / RUN_FILE}: {explain(error)}") from None
    origins = dict.fromkeys(Settings.model_fields, "default") | {
        RENAMED.get(name, name): origin for name, origin in tables.origins.items()
    }
    run, result = (table.model_dump(exclude_unset=True) if table else {} for table in (tables.run, tables.result))
    return RunFile(tables.settings, origins, run, tables.versions, result)


def write_evaluation(folder: Path, scores: Mapping[str, Any]) -> None:
    """Write the scores of `evaluate` as evaluation-SPLIT.json."""
    write_text(folder / f"evaluation-{Path(scores['split']).stem}.json", json.dumps(scores, indent=2) + "\n")


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Read all that `evaluate` left in the folder, by name; what a file does not say is empty.

    Raises:
        UserError: a file is damaged.
    """
    evaluations = []
    for file in sorted(folder.glob("evaluation*.json")):
        try:
            evaluations.append(_Scores.model_validate(parse_json(read_text(file, LARGEST_LIST))).model_dump())
        except ValidationError as error:
            raise UserError(f"{file}: {explain(error)}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({reason(error)})") from None
    return evaluations


def write_metrics(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write metrics.csv, a row an epoch; a score that was added since an earlier row is empty there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[-1]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _format(value) for name, value in row.items()} for row in rows)
    write_text(folder / METRICS_FILE, text.getvalue())


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Read metrics.csv, a row an epoch; an empty cell is nan, as is a score that the file is too old to have.

    Raises:
        UserError: the file is missing, or no such table.
    """
    file = folder / METRICS_FILE
    try:
        reader = csv.DictReader(io.StringIO(read_text(file, LARGEST_METRICS), newline=""), strict=True)
        if missing := set(COLUMNS) - set(SCORE_COLUMNS[1:]) - set(reader.fieldnames or ()):
            raise ValueError(f"no column {min(missing)!r}")
        if len(reader.fieldnames) > len(COLUMNS) + MOST_CLASSES:
            raise ValueError("more columns than a recipe can have classes")
        rows = [dict.fromkeys(SCORE_COLUMNS, math.nan) | _parse_row(row) for row in islice(reader, MOST_EPOCHS)]
        if not rows:
            raise ValueError("no row")
        return rows
    except FileNotFoundError:
        raise UserError(f"{folder}: no epoch of this run has ended ({METRICS_FILE} is missing)") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: damaged ({reason(error)})") from None


def _parse_row(row: Mapping[str | None, Any]) -> dict[str, float]:
    """A row of metrics.csv as numbers; raises ValueError where it has more or fewer cells, or no number in one."""
    if None in row or None in row.values():
        raise ValueError(f"another number of cells in the row of epoch {row['epoch']}")
    numbers = {name: float(value or "nan") for name, value in row.items()}
    if math.inf in map(abs, numbers.values()):
        raise ValueError("a number that is infinite")
    if not (1 <= numbers["epoch"] <= MOST_EPOCHS and numbers["seconds"] >= 0):
        raise ValueError(f"epoch {row['epoch']} of {row['seconds']} seconds cannot be")
    return {**numbers, "epoch": int(numbers["epoch"])}


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return read_tables(file)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{file.parent}: no run here ({file.name} is missing)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({reason(error)})") from None


def _format(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.6g}" if math.isfinite(value) else ""  # a class that occurs nowhere, a loss beyond all numbers


def best_row(rows: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The row of the epoch with the best mIoU, the first of several; one without a score is worse than any."""
    return max(rows, key=lambda row: -1 if math.isnan(row["miou"]) else row["miou"])
