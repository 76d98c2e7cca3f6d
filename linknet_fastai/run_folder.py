"""The folder of a run: run.toml, metrics.csv and checkpoints. Everything is written beside, then renamed."""

import csv
import io
import json
import os
import pickle
import platform
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
import torch
from pydantic import ValidationError

from linknet_fastai.errors import UsageError, UserError
from linknet_fastai.files import write_text, written_whole
from linknet_fastai.settings import Settings, explain

RUN_FILE, METRICS_FILE, CHECKPOINTS = "run.toml", "metrics.csv", "checkpoints"
PACKAGES = ("linknet-fastai", "fastai", "torch", "torchvision", "timm", "numpy", "pillow")


def refuse_used_folder(folder: Path) -> None:
    """Raise UsageError if a new run would write among what is there already."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"--out: {folder} is in use; name another folder")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"--out: {folder} cannot be made, {existing} is no folder to write into")


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
    tables = _read_toml(folder / RUN_FILE)
    try:
        settings = Settings(**tables["settings"])
        return RunFile(settings, tables["origins"], tables["run"], tables["versions"], tables.get("result", {}))
    except ValidationError as error:
        raise UserError(f"{folder / RUN_FILE}: settings: {explain(error)}") from None
    except KeyError as error:
        raise UserError(f"{folder / RUN_FILE}: the table {error} is missing") from None


def write_evaluation(folder: Path, scores: Mapping[str, Any]) -> None:
    """Write the scores of `evaluate` as evaluation-SPLIT.json."""
    write_text(folder / f"evaluation-{Path(scores['split']).stem}.json", json.dumps(scores, indent=2) + "\n")


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Read all that `evaluate` left in the folder, by name.

    Raises:
        UserError: a file is damaged.
    """
    evaluations = []
    for file in sorted(folder.glob("evaluation*.json")):
        try:
            evaluations.append(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error})") from None
    return evaluations


def write_metrics(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write metrics.csv, a row an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _format(value) for name, value in row.items()} for row in rows)
    write_text(folder / METRICS_FILE, text.getvalue())


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Read metrics.csv, a row an epoch; an empty cell is nan.

    Raises:
        UserError: the file is missing, or no such table.
    """
    file = folder / METRICS_FILE
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            table = list(csv.DictReader(lines))
        rows = [{name: float(value or "nan") for name, value in row.items()} for row in table]
        if missing := {"epoch", "miou", "seconds"} - rows[0].keys():
            raise KeyError(min(missing))
        return [{**row, "epoch": int(row["epoch"])} for row in rows]
    except FileNotFoundError:
        raise UserError(f"{folder}: no epoch of this run has ended ({METRICS_FILE} is missing)") from None
    except (OSError, UnicodeDecodeError, ValueError, TypeError, LookupError, csv.Error) as error:
        raise UserError(f"{file}: damaged ({type(error).__name__}: {error})") from None


def write_checkpoint(folder: Path, epochs_done: int, state: Mapping[str, Any]) -> None:
    """Write the state after an epoch; the one before it is kept, older ones go."""
    checkpoints = folder / CHECKPOINTS
    with written_whole(checkpoints / f"epoch-{epochs_done:05d}.pt") as partial:
        torch.save({"epochs_done": epochs_done, **state}, partial)
    for old in sorted(checkpoints.glob("epoch-*.pt"))[:-2]:
        old.unlink()


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the newest checkpoint; None where no epoch has ended yet. No code in the file is run.

    Raises:
        UserError: the file is damaged.
    """
    files = sorted((folder / CHECKPOINTS).glob("epoch-*.pt"))
    if not files:
        return None
    try:
        return torch.load(files[-1], map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{files[-1]}: damaged ({str(error).splitlines()[0]}); delete it to go on from the one before"
        ) from None


def plain_numbers(value: Any) -> Any:
    """Copy a nest of dicts and lists with numpy scalars as Python numbers, so that it loads with weights_only.

    fastai's schedules leave numpy floats in the optimizer's state.
    """
    if isinstance(value, dict):
        return {key: plain_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain_numbers(item) for item in value)
    return value.item() if hasattr(value, "item") and not isinstance(value, torch.Tensor) else value


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file.parent}: no run here ({file.name} is missing)") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None


def _format(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if value != value else f"{value:.6g}"  # nan, a class that occurs nowhere, is an empty cell
