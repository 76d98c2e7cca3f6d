"""`fit --folds`: frames are cut by groups, every fold is a plain training, and the whole is resumed."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import pytest

from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.parallel import is_first, process_count
from linknet_fastai.data.match import Frame
from linknet_fastai.training import folds as folds_module
from linknet_fastai.training.fit import fit
from linknet_fastai.training.folds import cut_folds, fit_folds, read_folds

SMALL = {"size": "64x48", "bs": 2, "workers": 0, "epochs": 1, "seed": 1, "device": "cpu", "encoder": "test_resnet"}


def frames(**groups: int) -> list[Frame]:
    names = [(group, number) for group, count in groups.items() for number in range(count)]
    return [Frame(Path(f"{g}{n}"), Path(f"{g}{n}m"), f"{g}{n}", None if g == "alone" else g) for g, n in names]


def sizes(cut: dict[str, list[Frame]]) -> dict[str, int]:
    return {name: len(fold) for name, fold in cut.items()}


def test_each_group_is_a_fold() -> None:
    cut = cut_folds(frames(b=3, a=2))
    assert sizes(cut) == {"a": 2, "b": 3}
    assert {frame.group for frame in cut["b"]} == {"b"}


def test_a_number_of_folds_cuts_no_group_and_makes_them_of_similar_size() -> None:
    cut = cut_folds(frames(a=8, b=5, c=3, d=4), 2)
    assert sizes(cut) == {"fold-1": 11, "fold-2": 9}
    assert not {frame.group for frame in cut["fold-1"]} & {frame.group for frame in cut["fold-2"]}
    assert sizes(cut_folds(frames(alone=7), 3)) == {"fold-1": 3, "fold-2": 2, "fold-3": 2}


def test_too_few_groups_and_frames_without_one_are_refused() -> None:
    with pytest.raises(UsageError, match="--folds: 1 groups of frames to train on are too few"):
        cut_folds(frames(a=3))
    with pytest.raises(UsageError, match="3 groups of frames to train on are too few"):
        cut_folds(frames(a=3, b=1, c=1), 4)
    with pytest.raises(UsageError, match="2 frames belong to no group of the recipe; give a number"):
        cut_folds(frames(a=3, alone=2))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Street scenes in groups by the last digit of their numbers, up to 3; the others are on their own."""
    (file := tmp_path / "pairs.toml").write_text(
        'base = "street"\nname = "pairs"\ngroup = { stem = "([0-3])$" }\n', encoding="utf-8"
    )
    return file


def test_what_folds_cannot_be_cut_from_is_refused_before_anything_is_written(
    recipe: Path, street_data: Path, tmp_path: Path, command: Callable[..., int], capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(UsageError, match="belong to no group"):
        fit_folds(recipe, street_data, SMALL, None, tmp_path / "refused")
    with pytest.raises(UsageError, match="--validate-on: --folds validates on the frames that are left out"):
        fit_folds(recipe, street_data, {"validate_on": "val"}, 2, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    assert command("fit", "street", "--folds", "many") == 2
    assert "--folds: 'many' is neither group nor a number" in capfd.readouterr().err
    assert command("fit", "--resume", "all", "--folds", "2") == 2
    assert "leave out --folds" in capfd.readouterr().err


@pytest.mark.usefixtures("short_end")
def test_folds_are_plain_trainings_and_a_stopped_one_resumes_as_a_whole(
    recipe: Path, street_data: Path, command: Callable[..., int], capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, trained = Path("out"), []

    def interrupted(recipe: str, data: Path, options: dict, run: Path, *others: object) -> object:
        trained.append((run.name, options))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return fit(recipe, data, options, run, *others)

    monkeypatch.setattr(folds_module, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_folds(recipe, street_data, SMALL | {"train_on": "train+val"}, 2, out)
    assert read_folds(out).folds[0].last_miou is not None
    assert read_folds(out).mean is None
    before = (out / "fold-1" / "metrics.csv").stat().st_mtime_ns
    capfd.readouterr()
    assert command("fit", "--resume", out, "--epochs", "10") == 2
    assert "--epochs: --resume uses the run's own settings; leave it out" in capfd.readouterr().err
    assert command("fit", "camvid", "--resume", out) == 2
    assert "pairs.toml, not on camvid; leave RECIPE out" in capfd.readouterr().err
    assert command("fit", "--resume", out) == 0
    assert [name for name, _ in trained] == ["fold-1", "fold-2", "fold-2"]
    assert trained[2] == trained[1]
    assert (out / "fold-1" / "metrics.csv").stat().st_mtime_ns == before

    stored = json.loads((out / "folds.json").read_text())
    mious = []
    for fold, (name, options) in zip(stored["folds"], trained[:2], strict=True):
        lists = [out / "lists" / f"{name}-{kind}.txt" for kind in ("train", "validate")]
        selections = {"train_on": str(lists[0].resolve()), "validate_on": str(lists[1].resolve())}
        assert options == SMALL | selections
        train, left_out = (set(file.read_text().split()) for file in lists)
        assert not train & left_out
        assert (len(train), len(left_out)) == (fold["train_frames"], fold["frames"])
        assert len(train | left_out) == 8 + 3
        tables = tomllib.loads((out / name / "run.toml").read_text())
        assert (tables["run"]["train_frames"], tables["run"]["validation_frames"]) == (len(train), len(left_out))
        mious.append(tables["result"]["last_miou"])
    assert [fold["last_miou"] for fold in stored["folds"]] == pytest.approx(mious, abs=1e-5)
    assert (stored["mean"], stored["spread"]) == pytest.approx((fmean(mious), stdev(mious)), abs=1e-5)
    assert stored["worst"] == stored["folds"][mious.index(min(mious))]["name"]
    printed = capfd.readouterr().out
    table = printed[printed.index("left out  ") :].splitlines()[1:5]
    assert [line.split()[0] for line in table] == ["fold-1", "fold-2", "mean", "spread"]
    assert "fold 2 of 2: fold-2 is left out" in printed

    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<a href" not in page  # these folds ended without reports
    for name in ("fold-1", "fold-2"):
        (out / name / "report.html").touch()
    assert command("report", out) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    for text in (stored["mean"], stored["spread"], *mious):
        assert f'<td class="number">{text:.4f}</td>' in page
    for name in ("fold-1", "fold-2"):
        assert f'<a href="{name}/report.html">{name}</a>' in page
    assert f"worst fold: {stored['worst']}" in page
    assert "<td>Road</td>" in page
    assert command("report", out, "--data", street_data) == 2
    assert "--data: the report of folds shows no frames" in capfd.readouterr().err


def test_files_and_models_that_folds_are_trained_with_are_found_from_any_folder(
    recipe: Path, street_data: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def recorded(recipe: str, data: Path, options: dict, *_: object) -> object:
        trained.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(folds_module, "fit", recorded)
    Path("mine.toml").write_text("lr = 0.1\n")
    options = SMALL | {"preset": "mine.toml", "teacher": "camvid-n", "init_from": Path("camvid-m")}
    with pytest.raises(KeyboardInterrupt):
        fit_folds(recipe, street_data, options, 2, Path("out"))
    assert trained[0]["preset"] == str(here / "mine.toml")
    assert [Path(trained[0][name]).name for name in ("teacher", "init_from")] == [
        "camvid-n.safetensors",
        "camvid-m.safetensors",
    ]
    assert all(Path(trained[0][name]).is_file() for name in ("preset", "teacher", "init_from"))
    with pytest.raises(UserError, match="no such model"):
        fit_folds(recipe, street_data, SMALL | {"teacher": "camvid-x"}, 2, Path("other"))
    assert not Path("other").exists()


def test_each_of_several_processes_trains_folds_of_its_own_as_if_it_was_alone(
    recipe: Path, street_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, out, rank = [], tmp_path / "out", ""

    def recorded(recipe: str, data: Path, options: dict, run: Path, *others: object) -> object:
        trained.append((rank, run.name, process_count(), is_first()))
        return fit(recipe, data, options, run, *others)

    def until_all_end(finished: bool) -> bool:
        return finished and len(trained) == 2

    monkeypatch.setattr(folds_module, "fit", recorded)
    monkeypatch.setattr(folds_module, "end_together", until_all_end)
    for name, replacement in (("join_processes", lambda: None), ("from_rank_0", lambda work: work())):
        monkeypatch.setattr(folds_module, name, replacement)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="start them on one machine"):
        fit_folds(recipe, street_data, SMALL, 2, out)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    rank = "1"
    assert not fit_folds(recipe, street_data, SMALL, 2, out).finished
    assert [fold.last_miou for fold in read_folds(out).folds] == [None] * 2  # rank 0 writes
    monkeypatch.setattr(folds_module, "_cut", lambda *_: (out, read_folds(out)))
    monkeypatch.setattr(folds_module, "_is_finished", lambda run: len(trained) == 2)  # none was when both started
    monkeypatch.setenv("RANK", "0")
    rank = "0"
    assert fit_folds(recipe, street_data, SMALL, 2, out).finished
    assert trained == [("1", "fold-2", 1, True), ("0", "fold-1", 1, True)]
    stored = read_folds(out)
    assert stored.mean == pytest.approx(fmean(fold.last_miou for fold in stored.folds))
    assert (out / "report.html").is_file()
