"""`compare`: how runs differ, groups of seeds, and published figures next to measured ones."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import result_alone
from PIL import Image

from linknet_fastai.core.errors import UserError
from linknet_fastai.model.save_load import load_model
from linknet_fastai.runs.compare import (
    comparable_evaluation,
    differing_settings,
    published_figures,
    spreads,
    summarize,
    write_table,
)
from linknet_fastai.training import fit as training

SMALL = {"encoder": "test_resnet", "size": "64x48", "bs": 4, "workers": 0, "epochs": 2, "device": "cpu"}
Command = Callable[..., int]


@pytest.fixture(scope="module")
def runs(street_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that differ in their seeds alone, and one with another decoder."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "finish_run", result_alone)
        for name, more in (("a", {"seed": 1}), ("b", {"seed": 2}), ("c", {"seed": 1, "decoder": "pixelshuffle"})):
            training.fit("street", street_data, SMALL | more, folder / name)
    return [folder / name for name in "abc"]


def test_a_summary_is_what_the_run_folder_holds(runs: list[Path]) -> None:
    run = summarize(runs[0])
    with (runs[0] / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert run.name == "a"
    assert run.recipe == "street"
    assert run.last["miou"] == float(rows[-1]["miou"])
    assert run.best["miou"] == max(float(row["miou"]) for row in rows)
    assert run.ious["Road"] == float(rows[-1]["iou_Road"])
    assert run.seconds == pytest.approx(sum(float(row["seconds"]) for row in rows))
    assert run.run["parameters"] == sum(weight.numel() for weight in load_model(runs[0])[0].parameters())


def test_only_settings_that_differ_are_reported(runs: list[Path]) -> None:
    a, b, c = map(summarize, runs)
    assert differing_settings([a, b]) == {"seed": [1, 2]}
    assert differing_settings([a, c]) == {"decoder": ["deconv", "pixelshuffle"]}
    assert differing_settings([a]) == {}
    elsewhere = replace(a, run=a.run | {"processes": 4, "precision": "fp16"})
    assert differing_settings([a, elsewhere]) == {"precision": [a.run["precision"], "fp16"], "processes": [1, 4]}


def test_runs_that_differ_in_the_seed_alone_have_a_spread(runs: list[Path]) -> None:
    a, b, c = map(summarize, runs)
    (group,) = spreads([a, b, c])
    assert (group.names, group.seeds) == (["a", "b"], [1, 2])
    assert group.mean == pytest.approx((a.last["miou"] + b.last["miou"]) / 2)
    assert spreads([a, a, c]) == []  # one run named twice has no spread
    assert spreads([a, replace(b, rows=b.rows[:1])]) == []  # nor has one that has not ended
    for other in ({"data": "/elsewhere"}, {"processes": 4}, {"precision": "fp16"}):
        assert spreads([a, replace(b, run=b.run | other)]) == []


def test_the_table_has_a_row_a_run_and_every_setting(runs: list[Path], tmp_path: Path) -> None:
    write_table(list(map(summarize, runs)), tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["a", "b", "c"]
    assert [row["decoder"] for row in rows] == ["deconv", "deconv", "pixelshuffle"]
    assert float(rows[2]["last_miou"]) == summarize(runs[2]).last["miou"]
    assert {"iou_Road", "parameters", "seconds", "lr", "epochs"} <= set(rows[0])


def test_published_figures_carry_split_and_source_and_each_measure_its_name() -> None:
    figures = {figure.network: figure for figure in published_figures("camvid")}
    assert (figures["SegNet"].mean_accuracy, figures["SegNet"].miou) == (0.652, 0.556)
    assert (figures["ENet"].mean_accuracy, figures["ENet"].miou) == (0.683, 0.513)
    assert (figures["LinkNet"].mean_accuracy, figures["LinkNet"].miou) == (0.691, 0.558)
    assert all(figure.source and figure.split == "test" for figure in figures.values())
    assert published_figures("street") == []


def test_the_page_of_scores_has_every_published_figure() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "scores.md").read_text(encoding="utf-8").splitlines()
    for figure in published_figures("camvid"):
        scores = [f"{100 * score:.1f}" for score in (figure.mean_accuracy, figure.miou) if score is not None]
        assert any(figure.network in line and all(f" {score} " in line for score in scores) for line in lines)


def test_only_scores_on_the_same_split_without_tta_are_compared_with_published_ones(
    runs: list[Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(runs[0], tmp_path / "run")
    assert comparable_evaluation(summarize(folder), "test") is None
    (folder / "evaluation-val.json").write_text(json.dumps({"split": "val", "tta": False, "miou": 0.1}))
    (folder / "evaluation-tta.json").write_text(json.dumps({"split": "test", "tta": True, "miou": 0.2}))
    assert comparable_evaluation(summarize(folder), "test") is None
    other_size = {"split": "test", "tta": False, "miou": 0.4, "size": "native"}
    (folder / "evaluation-native.json").write_text(json.dumps(other_size))
    assert comparable_evaluation(summarize(folder), "test") is None
    table = [[1, 0, 2], [0, 1, 3]]  # the last column is of classes that this recipe does not have
    elsewhere = {"split": "test", "recipe": "camvid", "miou": 0.6, "confusion": table}
    elsewhere["classes"] = [{"name": name, "iou": 0.6} for name in ("road", "car")]
    (folder / "evaluation-city.json").write_text(json.dumps(elsewhere))
    assert comparable_evaluation(summarize(folder), "test") is None
    for name, miou, engine in (("int8", 0.5, "openvino in int8"), ("test", 0.3, "torch in bf16")):
        own = {"split": "test", "tta": False, "miou": miou, "size": "64x48", "engine": engine}
        (folder / f"evaluation-{name}.json").write_text(json.dumps(own))
        assert comparable_evaluation(summarize(folder), "test")["miou"] == miou


def test_the_command_shows_differences_and_writes_table_and_picture(
    command: Command, runs: list[Path], here: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("compare", *runs, "--csv", "runs.csv", "--picture", "runs.png") == 0
    shown = capsys.readouterr().out
    for word in ("pixelshuffle", "Bicyclist", "same but for the seed", "a, b"):
        assert word in shown
    assert len(Path("runs.csv").read_text().splitlines()) == 4
    assert Image.open("runs.png").size[0] > 1000


def test_published_figures_are_shown_below_runs_of_their_recipe(
    command: Command, runs: list[Path], tmp_path: Path, here: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(runs[0], tmp_path / "camvid-run")
    text = (folder / "run.toml").read_text()
    (folder / "run.toml").write_text(text.replace('recipe = "street"', 'recipe = "camvid"'))
    assert command("compare", folder) == 0
    out, err = capsys.readouterr()
    assert "ESPNet" in out
    assert "0.558" in out
    assert "evaluate RUN camvid --split test" in err
    scores = {"split": "test", "size": "64x48", "tta": False, "miou": 0.123, "mean_accuracy": 0.234}
    (folder / "evaluation-test.json").write_text(json.dumps(scores))
    assert command("compare", folder) == 0
    out, err = capsys.readouterr()
    assert "0.123" in out
    assert err == ""


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.csv", "epoch,miou\nx,y\n"),
        ("metrics.csv", "a,b\n1,2\n"),
        ("run.toml", "[settings"),
        ("evaluation-test.json", "{"),
    ],
)
def test_a_damaged_run_is_named_by_its_file(file: str, content: str, runs: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs[0], tmp_path / "run")
    (folder / file).write_text(content)
    with pytest.raises(UserError) as caught:
        summarize(folder)
    assert str(folder / file) in str(caught.value)


def test_a_folder_without_a_run_or_an_epoch_is_reported(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run here"):
        summarize(tmp_path)
    folder = shutil.copytree(runs[0], tmp_path / "run")
    (folder / "metrics.csv").unlink()
    with pytest.raises(UserError, match="no epoch of this run is complete"):
        summarize(folder)
