"""The page of folds that are not finished: what there is, and nothing that runs the code of others."""

import json
from pathlib import Path

from test_report import Page

from linknet_fastai.runs.folds_report import fold_curves, report_folds


def test_the_page_shows_folds_without_a_run_and_names_as_text(tmp_path: Path) -> None:
    names = ["<b>a", "b#?"]
    folds = [{"name": name, "groups": ["<i>x", "y"], "train_frames": 3, "frames": 4} for name in names]
    (tmp_path / "b#?").mkdir()
    (tmp_path / "b#?" / "report.html").touch()
    content = {"recipe": "street", "data": "d", "options": {"epochs": 7}, "folds": folds}
    (tmp_path / "folds.json").write_text(json.dumps(content))
    page = Page(report_folds(tmp_path).read_text(encoding="utf-8"))
    for text in ("0 of 2", "<b>a", "<i>x, y", "epochs"):
        assert text in page.text
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == ["b%23%3F/report.html"]
    assert not [tag for tag, _ in page.tags if tag in ("svg", "b", "i")]


def test_the_curve_of_the_mean_ends_where_a_fold_does() -> None:
    (axes,) = fold_curves({"a": [0.2, 0.4, 0.6], "b": [0.4, 0.2], "c": [0.0, 0.0, 0.3]}, "c").axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines["mean"].round(6)) == [0.2, 0.2]
    assert list(lines["worst: c"]) == [0.0, 0.0, 0.3]
    assert len(axes.lines) == 4
