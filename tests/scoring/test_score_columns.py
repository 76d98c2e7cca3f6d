"""The table of scores decides the columns of metrics.csv, and files from before a score was added are still read."""

import math
from pathlib import Path

from linknet_fastai.runs.metrics import read_metrics, write_metrics
from linknet_fastai.scoring.scores import OVERALL_SCORES

ROW = {"epoch": 1, "train_loss": 0.5, "valid_loss": 0.4, "miou": 0.3, "iou_Sky": 0.3, "lr": 1e-3, "seconds": 2.0}


def test_a_metrics_file_older_than_a_score_is_read_with_nan_in_its_place(tmp_path: Path) -> None:
    write_metrics(tmp_path, [ROW])
    (row,) = read_metrics(tmp_path)
    assert {name: row[name] for name in ROW} == ROW
    assert all(math.isnan(row[score.name]) for score in OVERALL_SCORES[1:])


def test_a_resumed_run_adds_the_column_of_a_newer_score(tmp_path: Path) -> None:
    write_metrics(tmp_path, [ROW, ROW | {"epoch": 2, "mean_accuracy": 0.25}])
    earlier, later = read_metrics(tmp_path)
    assert math.isnan(earlier["mean_accuracy"])
    assert later["mean_accuracy"] == 0.25
