"""metrics.csv of a run folder, a row for each epoch, and other tables; written completely or not at all."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from linknet_fastai.config.classes import MAX_CLASSES
from linknet_fastai.config.settings import MOST_EPOCHS
from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.files import read_text, write_text
from linknet_fastai.scoring.scores import OVERALL_SCORES

METRICS_FILE = "metrics.csv"
SCORE_COLUMNS = [score.name for score in OVERALL_SCORES]
COLUMNS = ("epoch", "train_loss", "valid_loss", *SCORE_COLUMNS, "lr", "seconds")
LARGEST_METRICS = 1 << 24  # bytes


def write_metrics(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write metrics.csv, one row per epoch; nan becomes an empty cell.

    Raises:
        UserError: the file cannot be written.
    """
    write_csv(folder / METRICS_FILE, [{name: _cell(value) for name, value in row.items()} for row in rows])


def _cell(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""  # such as the IoU of an absent class, a diverged loss


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table; its columns are the keys of all rows, a missing key is an empty cell."""
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Read metrics.csv, one row per epoch; an empty cell is nan, as is a score that an older file does not have.

    Columns that a newer version added are left out.

    Raises:
        UserError: the file is missing, damaged, or lacks a column.

    Example:
        ::

            rows = read_metrics(Path("runs/camvid"))
            print(rows[-1]["epoch"], rows[-1]["miou"])
    """
    file = folder / METRICS_FILE
    try:
        reader = csv.DictReader(io.StringIO(read_text(file, LARGEST_METRICS), newline=""), strict=True)
        columns = reader.fieldnames or ()
        if missing := set(COLUMNS) - set(SCORE_COLUMNS[1:]) - set(columns):
            raise ValueError(f"no column {min(missing)!r}")
        known = [name for name in columns if name in COLUMNS or name.startswith("iou_")]
        if len(known) > len(COLUMNS) + MAX_CLASSES:
            raise ValueError("more columns than a recipe can have classes")
        parsed = (_parse_row(row, known) for row in islice(reader, MOST_EPOCHS))
        rows = [dict.fromkeys(SCORE_COLUMNS, math.nan) | row for row in parsed]
        if not rows:
            raise ValueError("no row")
        return rows
    except FileNotFoundError:
        raise UserError(f"{folder}: no epoch of this run is complete ({METRICS_FILE} is missing)") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: damaged ({reason(error)})") from None


def _parse_row(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, float]:
    """Convert a row of metrics.csv to numbers; raises ValueError for too many or few cells and for other text."""
    if None in row or None in row.values():  # how csv.DictReader marks them
        raise ValueError(f"too many or too few cells in the row of epoch {row['epoch']}")
    numbers = {name: float(row[name] or "nan") for name in columns}
    if math.inf in map(abs, numbers.values()):
        raise ValueError("infinite value")
    if not (1 <= numbers["epoch"] <= MOST_EPOCHS and numbers["seconds"] >= 0):
        raise ValueError(f"impossible epoch {row['epoch']} or seconds {row['seconds']}")
    return {**numbers, "epoch": int(numbers["epoch"])}


def best_row(rows: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The row of the epoch with the best mIoU: the first of equal ones, a row without a score only if all are.

    Example:
        >>> best_row([{"epoch": 1, "miou": 0.4}, {"epoch": 2, "miou": 0.6}, {"epoch": 3, "miou": float("nan")}])
        {'epoch': 2, 'miou': 0.6}
    """
    return max(rows, key=lambda row: -1 if math.isnan(row["miou"]) else row["miou"])
