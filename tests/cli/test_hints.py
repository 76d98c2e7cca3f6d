"""What users of other trainers type: it works, or the error names what it is called here."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from linknet_fastai.config.recipe import recipe_folder
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UsageError
from linknet_fastai.runs.folder import write_run

Command = Callable[..., int]


@pytest.fixture
def run_folder(model: Path, street_data: Path, tmp_path: Path) -> Path:
    """A run with a model, trained on `street_data`."""
    folder = tmp_path / "run"
    run = {"recipe": "street", "data": str(street_data), "started": ""}
    write_run(folder, Settings(pretrained=False, size="64x48"), dict.fromkeys(Settings.model_fields, "default"), run)
    shutil.copy(model, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train street", "no command 'train': use fit"),
        ("val run", "no command 'val': use evaluate"),
        ("lr_find street", "no command 'lr_find': use lr-find"),
        ("evalaute run", "Did you mean 'evaluate'?"),
        ("fit street --batch-size 4", "no such option --batch-size: use --bs"),
        ("fit street --batch_size=4", "no such option --batch_size: use --bs"),
        ("fit street --batch 4", "no such option --batch: use --bs"),
        ("fit street --lr0 0.1", "no such option --lr0: use --lr"),
        ("fit street --imgsz 640", "no such option --imgsz: use --size 640x480"),
        ("fit street --size 640", "'640' is not a size: write WIDTHxHEIGHT, as in 640x480"),
        ("evaluate run street --size 640", "'640' is not a size: write WIDTHxHEIGHT, as in 640x480"),
        ("fit street --num-workers 4", "no such option --num-workers: use --workers"),
        ("fit street --model resnet34", "no such option --model: use --encoder"),
        ("fit street --flip false", "no such option --flip: use --set flip=VALUE"),
        ("fit street --wd 0.1", "no such option --wd: use --set weight_decay=VALUE"),
        ("fit street --epoch 4", "no such option --epoch: did you mean --epochs?"),
        ("fit street --class_weights log", "no such option --class_weights: did you mean --class-weights?"),
        ("fit street --optimiser sgd", "no such option --optimiser: did you mean --optimizer?"),
        ("fit street --zzz", "no such option --zzz; see linknet-fastai fit --help"),
        ("predict run --source a.png", "no such option --source: INPUT... is an argument"),
        ("evaluate run --batch-size 4", "no such option --batch-size; see linknet-fastai evaluate --help"),
        (
            "fit --data own.toml",
            "--data: own.toml is not a data folder; a recipe is the argument RECIPE: fit own.toml",
        ),
        ("fit street --data own.toml", "RECIPE: fit own.toml"),
        ("lr-find --data own.toml", "RECIPE: lr-find own.toml"),
        ("evaluate run --data own.yaml", "RECIPE: evaluate MODEL own.yaml"),
    ],
)
def test_a_name_of_another_trainer_is_answered_by_ours(
    line: str, message: str, command: Command, street_data: Path, capsys: pytest.CaptureFixture
) -> None:
    line = line.replace("street", f"street --data {street_data}") if "--size" in line and "fit" in line else line
    assert command(*line.split()) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_fit_takes_the_number_of_a_gpu(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from linknet_fastai.config.presets import settings_for
    from linknet_fastai.config.recipe import load_recipe

    devices = []

    def stop(recipe: str, data: Path, options: dict, *others: object) -> None:
        loaded = load_recipe(recipe)
        devices.append(settings_for(loaded, loaded.layouts[0], options)[0].device)
        raise UsageError("far enough")

    monkeypatch.setattr("linknet_fastai.training.fit.fit", stop)
    assert command("fit", "street", "--device", "0") == 2
    assert devices == ["cuda:0"]


def test_evaluate_takes_the_number_of_a_gpu(
    command: Command, model: Path, street_data: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("evaluate", model, "street", "--data", street_data, "--device", "99") == 2
    assert "--device: cuda:99" in capsys.readouterr().err


def test_predict_writes_into_predicted_if_no_folder_is_given(
    command: Command, here: Path, model: Path, street_data: Path
) -> None:
    for _ in range(2):  # an earlier prediction is replaced
        assert command("predict", model, street_data / "val/images/val_0000.png") == 0
    files = sorted(path.relative_to(here).as_posix() for path in here.rglob("*.png"))
    assert files == ["predicted/legend.png", "predicted/masks/val_0000.png", "predicted/overlays/val_0000.png"]


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_evaluate_takes_recipe_and_data_from_the_run(
    name: str, command: Command, here: Path, run_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("evaluate", run_folder / name) == 0
    assert "on street val" in capsys.readouterr().out


def test_data_and_recipe_take_precedence_over_those_of_the_run(
    command: Command, here: Path, run_folder: Path, street_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("evaluate", run_folder, "--data", tmp_path / "moved") == 1
    assert "moved: no such data folder" in capsys.readouterr().err
    (tmp_path / "own.toml").write_text((recipe_folder() / "street.toml").read_text())
    assert command("evaluate", run_folder, tmp_path / "own.toml", "--data", street_data) == 0
    assert f"on {tmp_path / 'own.toml'} val" in capsys.readouterr().out


def test_evaluate_of_a_file_alone_names_the_recipe_that_is_missing(
    command: Command, model: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("evaluate", model) == 2
    assert f"RECIPE is missing: evaluate {model} RECIPE, as in street" in capsys.readouterr().err


def test_export_without_a_format_lists_the_formats_and_what_is_missing(
    command: Command, here: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("linknet_fastai.cli.tables.find_spec", lambda package: None if package == "nncf" else package)
    assert command("export", model) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[1:5]] == ["pkl", "safetensors", "onnx", "openvino"]
    assert err == "note: openvino --int8 needs: pip install 'linknet-fastai[int8]'\n"
    assert list(here.iterdir()) == []
    assert sorted(path.name for path in model.parent.iterdir()) == ["model.safetensors"]


@pytest.mark.parametrize("place", ["option", "preset", "recipe"])
def test_the_old_name_of_a_setting_is_read_with_one_note(
    place: str,
    command: Command,
    here: Path,
    street_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    colors = []

    def stop(dataset: object, settings: Settings, *others: object) -> None:
        colors.append(settings.color)
        raise UsageError("far enough")

    monkeypatch.setattr("linknet_fastai.training.fit.learner_from_settings", stop)
    recipe, given = "street", []
    if place == "option":
        given = ["--set", "colour=0.125"]
    elif place == "preset":
        Path("own.toml").write_text("colour = 0.125\n")
        given = ["--preset", "own.toml"]
    else:
        text = (recipe_folder() / "street.toml").read_text()
        Path(recipe := "own.toml").write_text(text.replace("[training]", "[training]\ncolour = 0.125"))
    assert command("fit", recipe, "--data", street_data, *given) == 2
    assert colors == [0.125]
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == ["note: the setting 'colour' is now called 'color'"]


def test_runs_of_older_versions_are_compared(command: Command, here: Path, capsys: pytest.CaptureFixture) -> None:
    runs = Path(__file__).parents[2] / "results" / "runs"
    old = [runs / "paper-240x180-31", runs / "best-240x180-31"]
    assert all("\ncolour = " in (run / "run.toml").read_text() for run in old)
    assert command("compare", *old) == 0
    out = capsys.readouterr().out
    (row,) = (line.split() for line in out.splitlines() if line.startswith("color"))
    assert row == ["color", "0.0", "0.3"]
