"""The command line: errors and their exit status, nothing left after an error, help without torch, the output."""

import inspect
import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import linknet_fastai
from linknet_fastai.cli import main as cli
from linknet_fastai.cli import train
from linknet_fastai.cli.terminal import show_table
from linknet_fastai.config.recipe import load_recipe, recipe_folder, recipe_names
from linknet_fastai.config.settings import WITHOUT_OPTION, Settings
from linknet_fastai.core.errors import UsageError
from linknet_fastai.data.loaders import segmentation_dls
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.model.save_load import load_model
from linknet_fastai.runs.folder import write_run
from linknet_fastai.training.run_record import FitResult

COMMANDS = ["fit", "lr-find", "evaluate", "predict", "serve", "export", "data", "recipes", "models", "benchmark"]
Command = Callable[..., int]


@pytest.fixture
def street_copy(street_data: Path, tmp_path: Path) -> Path:
    """Street scenes that a test may damage."""
    return Path(shutil.copytree(street_data, tmp_path / "scenes"))


@pytest.fixture
def run_folder(street_data: Path, tmp_path: Path) -> Path:
    """A run that stopped before its first epoch ended."""
    folder = tmp_path / "run"
    run = {"recipe": "street", "data": str(street_data), "command": "", "started": "", "device": "cpu"}
    write_run(folder, Settings(pretrained=False, size="64x48"), dict.fromkeys(Settings.model_fields, "default"), run)
    return folder


def one_error(capsys: pytest.CaptureFixture) -> str:
    """The one line on stderr."""
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    assert "(unexpected; --debug" not in err
    return err


# Invalid arguments, options and recipes (exit status 2), and all other errors (1)

FIT = "fit street --data {street} --size 64x48 --workers 0 --device cpu "
WRONG_USE = [
    ("nosuch", "nosuch"),
    ("fit", "RECIPE is missing"),
    ("fit street --bogus", "--bogus"),
    ("fit nosuch", "no recipe 'nosuch'"),
    ("fit camvit", "did you mean 'camvid'"),
    ("fit {tmp}/gone.toml", "gone.toml: no such recipe file"),
    ("fit {tmp}/broken.toml", "broken.toml: cannot read this recipe"),
    ("fit cityscapes", "--data: cityscapes cannot be downloaded"),
    (FIT + "--size 480", "--size (from the command line)"),
    (FIT + "--size 20x20", "between 33 and 16384"),
    (FIT + "--epochs 0", "--epochs"),
    (FIT + "--init-from run --encoder-weights weights.pth", "--init-from (from the command line)"),
    (FIT + "--epochs many", "--epochs"),
    (FIT + "--bs 1", "--bs"),
    (FIT + "--lr fast", "--lr"),
    (FIT + "--lr -1", "--lr"),
    (FIT + "--lr nan", "--lr"),
    (FIT + "--decoder bilinear", "--decoder"),
    (FIT + "--optimizer lion", "--optimizer"),
    (FIT + "--device tpu", "--device"),
    (FIT + "--device cuda:99", "--device: cuda:99"),
    (FIT + "--precision fp16", "--precision: fp16 needs a CUDA GPU"),
    (FIT + "--encoder nosuchnet", "--encoder: timm has no model 'nosuchnet'"),
    (FIT + "--encoder vit_tiny_patch16_224", "--encoder: 'vit_tiny_patch16_224' does not return NCHW features"),
    (FIT + "--train-on nosuch", "'nosuch' is no split of street"),
    (FIT + "--validate-on {tmp}/stems.txt", "stems.txt: no frame 'nosuch'"),
    (FIT + "--out {tmp}", "--out: {tmp} is not empty"),
    (FIT + "--out {tmp}/stems.txt/run", "{tmp}/stems.txt"),
    (FIT + "--init-from {tmp}/broken.toml", "broken.toml: a model is"),
    ("fit --resume {run} --lr 0.1", "--lr: --resume"),
    ("fit --resume {run} --workers -1", "--workers"),
    ("fit --resume {run} --device tpu", "--device"),
    ("fit --resume {run} --class-weights none", "--class-weights: --resume"),
    ("fit camvid --resume {run}", "trains on street, not on camvid"),
    ("fit --resume {run} --out elsewhere", "--out"),
    ("lr-find street --data {street} --steps 3", "--steps"),
    ("lr-find street --data {street} --size 1x1", "--size"),
    ("lr-find street --data {street} --out {tmp}/stems.txt", "--out"),
    ("evaluate {model}", "RECIPE"),
    ("evaluate {model} street --data {street} --split nosuch", "'nosuch' is no split of street"),
    ("evaluate {model} street --data {street} --size wide", "--size: 'wide' is not a size"),
    ("evaluate {model} goose --data {cityscapes} --map Tree", "--map: 'Tree' is not MODELCLASS=RECIPECLASS"),
    ("evaluate {model} cityscapes --data {cityscapes} --map Tre=vegetation", "did you mean 'Tree'?"),
    ("evaluate {model} cityscapes --data {cityscapes} --map Tree=tree", "--map: 'tree' is no class of cityscapes"),
    ("evaluate {model} cityscapes --data {cityscapes} --protocol course", "--protocol course needs a model with"),
    ("evaluate {tmp}/model.pkl street --data {street}", "--trust-pickle"),
    ("predict {model} {frame} {frame} --out out", "would both write"),
    ("predict {model} {frame} --out out --precision fp16 --device cpu", "--precision"),
    ("predict {model} {tmp}/empty --out out", "no images"),
    ("evaluate {model} street --data {street} --engine openvino", "export {model} --format openvino"),
    ("predict {model} {frame} --out out --engine onnxruntime", "export {model} --format onnx"),
    ("predict {model} {frame} --out out --engine tensorrt", "--engine"),
    ("predict {model} {frame} --format cityscapes --below .6", "--below: --format cityscapes"),
    ("predict {model} {frame} --format cityscapes --palette", "--palette: --format cityscapes"),
    ("predict {model} {frame} --format coco --palette", "--palette: --format coco writes no masks"),
    ("predict {model} {frame} --format cvat --opacity .6", "--opacity: --format cvat writes no overlays"),
    ("predict {model} {frame} --tolerance 2", "--tolerance: goes with --format coco, labelme, cvat"),
    ("predict {model} {frame} --format coco --min-pixels 0", "--min-pixels"),
    ("predict {model} {frame} --below 60", "--below"),
    ("predict {model} {frame} --topic /front", "--topic: no INPUT is a ROS bag"),
    ("evaluate {model} street --data {street} --temperature 0", "--temperature"),
    ("export {model} --format tflite", "--format"),
    ("export {model} --out model.onnx", "--format: is missing"),
    ("export {model} --format onnx --half", "--half: goes with --interface network"),
    ("export {model} --format openvino --interface network", "--interface network: goes with --format onnx"),
    ("export {model} --format onnx --interface network --size 20x20", "--size"),
    ("export {model} --format safetensors --out .", "--out: . is a folder; name a file"),
    ("export {model} --format pkl --int8 --calibrate {street}", "--int8: goes with --format onnx, openvino or web"),
    ("export {model} --format openvino --int8", "--calibrate DIR"),
    ("export {model} --format web --int8", "--calibrate DIR"),
    ("export {model} --format onnx --runtime x.tgz", "--runtime: goes with --format web"),
    ("export {model} --format onnx --check {tmp}/empty", "{tmp}/empty: no images"),
    ("data nosuch", "no recipe 'nosuch'"),
    ("serve {model} --port 70000", "--port"),
    ("serve {model} --max-seconds 0", "--max-seconds"),
]
WRONG_ELSE = [
    ("fit street --data {tmp}/gone", "{tmp}/gone: no such data folder"),
    ("fit street --data {tmp}/empty", "{tmp}/empty: no street data here"),
    (FIT + "--encoder-weights {tmp}/gone.pth", "--encoder-weights: {tmp}/gone.pth: no such file"),
    (FIT + "--init-from {tmp}/gone", "{tmp}/gone: no such model"),
    ("fit --resume {tmp}/empty", "{tmp}/empty: no run here"),
    ("fit --resume {tmp}/gone", "{tmp}/gone: no run here"),
    ("lr-find street --data {tmp}/gone", "{tmp}/gone: no such data folder"),
    ("evaluate {tmp}/gone street --data {street}", "{tmp}/gone: no such model"),
    ("evaluate {tmp}/empty street --data {street}", "{tmp}/empty: no model.safetensors in this folder"),
    ("evaluate {model} street --data {tmp}/gone", "{tmp}/gone: no such data folder"),
    ("predict {model} {tmp}/gone.png --out out", "{tmp}/gone.png: no such file or folder"),
    ("predict {tmp}/gone {frame} --out out", "{tmp}/gone: no such model"),
    ("predict {tmp}/gone.onnx {frame} --out out", "{tmp}/gone.onnx: no such model"),
    ("evaluate {tmp}/gone.xml street --data {street}", "{tmp}/gone.xml: no such model"),
    ("export {model} --format openvino --int8 --calibrate {tmp}/gone", "{tmp}/gone: no such folder of images"),
    ("predict {model} {frame} --out {tmp}/stems.txt", "cannot be written"),
    ("evaluate {model} street --data {street} --json {tmp}/stems.txt/x.json", "{tmp}/stems.txt/x.json"),
    ("evaluate {model} street --data {street} --json {tmp}/empty", "{tmp}/empty"),
    ("evaluate {model} street --data {street} --json .", ".: is a folder; name a file"),
    ("export {model} --format safetensors --out {tmp}/stems.txt/x", "{tmp}/stems.txt/x"),
    ("data street --data {street} --out {tmp}/stems.txt/x.png", "{tmp}/stems.txt/x.png"),
    ("serve {tmp}/gone", "{tmp}/gone: no such model"),
    ("export {tmp}/empty --format pkl", "{tmp}/empty: no model.safetensors in this folder"),
    ("data camvid --data {street}", "{street}: no camvid data here"),
]
CASES = [(*case, 2) for case in WRONG_USE] + [(*case, 1) for case in WRONG_ELSE]


def too_late(*arguments: object, **options: object) -> None:
    """Replaces the expensive work: an error should have been raised before it."""
    raise AssertionError("the work has started")


@pytest.mark.parametrize(("line", "message", "status"), CASES, ids=[line for line, _, _ in CASES])
def test_an_error_is_one_line_and_an_exit_status(
    command: Command,
    here: Path,
    street_data: Path,
    cityscapes_tree: Path,
    model: Path,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    line: str,
    message: str,
    status: int,
) -> None:
    for costly in ("linknet_fastai.training.fit.fit_schedule", "linknet_fastai.training.lr_find.search_lr"):
        monkeypatch.setattr(costly, too_late)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.toml").write_text("name = = 1")
    (tmp_path / "stems.txt").write_text("nosuch\n")
    (tmp_path / "model.pkl").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    places = {
        "tmp": tmp_path,
        "street": street_data,
        "cityscapes": cityscapes_tree,
        "model": model,
        "run": run_folder,
        "frame": street_data / "val" / "images" / "val_0000.png",
    }
    assert command(*(word.format(**places) for word in line.split())) == status
    assert message.format(**places) in one_error(capsys)
    assert sorted(tmp_path.rglob("*")) == before


def missing_label(folder: Path) -> Path:
    (file := folder / "train/labels/train_0003.png").unlink()
    return file


def bad_value(folder: Path) -> Path:
    Image.fromarray(np.full((72, 96), 77, np.uint8)).save(file := folder / "train/labels/train_0003.png")
    return file


def other_size(folder: Path) -> Path:
    Image.fromarray(np.zeros((72, 95), np.uint8)).save(file := folder / "val/labels/val_0001.png")
    return file


def truncated_image(folder: Path) -> Path:
    file = folder / "train/images/train_0003.png"
    file.write_bytes(file.read_bytes()[:500])
    return file


def empty_split(folder: Path) -> Path:
    for file in (folder / "train/images").iterdir():
        file.unlink()
    return folder


@pytest.mark.parametrize("name", ["fit", "lr-find"])
@pytest.mark.parametrize("damage", [bad_value, other_size, truncated_image, empty_split])
def test_damaged_data_is_named_before_anything_is_trained_or_written(
    command: Command,
    here: Path,
    street_copy: Path,
    capsys: pytest.CaptureFixture,
    name: str,
    damage: Callable[[Path], Path],
) -> None:
    file = damage(street_copy)
    assert command(name, "street", "--data", street_copy, "--workers", 0) == 1
    assert str(file) in one_error(capsys)
    assert list(here.iterdir()) == []


def test_unavailable_weights_end_the_training_with_an_error(
    command: Command, here: Path, street_data: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise OSError("offline")

    monkeypatch.setattr("timm.create_model", offline)
    assert command(*FIT.format(street=street_data).split(), "--pretrained") == 1
    assert "--no-pretrained" in one_error(capsys)
    assert list(here.iterdir()) == []


def test_an_error_of_some_library_is_one_line_too(
    command: Command, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("this\nand\n\nthat")

    monkeypatch.setattr(cli, "app", fail)
    assert command("fit", "street") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: RuntimeError: this and that")
    assert "--debug" in err
    assert err.count("\n") == 1


def test_ctrl_c_is_no_traceback(
    command: Command, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupt)
    assert command("data", "street") == 130
    assert one_error(capsys) == "error: stopped\n"


@pytest.mark.parametrize("arguments", [("--debug", "fit", "nosuch"), ("fit", "nosuch", "--debug")])
def test_debug_raises_before_and_after_the_command(
    here: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "argv", ["linknet-fastai", *arguments])
    with pytest.raises(UsageError, match="nosuch"):
        cli.main()


# In a separate process


def subprocess_of(here: Path, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=here, capture_output=True, text=True, timeout=120, env=os.environ
    )


def test_help_of_every_command_does_not_import_torch(here: Path) -> None:
    code = """
import sys
from linknet_fastai.cli import main as cli
for arguments in [["--help"], ["--version"], *([name, "--help"] for name in sys.argv[1:])]:
    sys.argv = ["linknet-fastai", *arguments]
    try:
        cli.main()
    except SystemExit as left:
        assert left.code == 0, (arguments, left.code)
heavy = {"torch", "fastai", "timm", "matplotlib", "pandas", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess_of(here, "-c", code, *COMMANDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage: ") == 1 + len(COMMANDS)
    assert f"linknet-fastai {linknet_fastai.__version__}\n" in done.stdout
    for option in ("--encoder-weights", "--masks-only", "--trust-pickle", "--json", "--format", "--steps"):
        assert option in done.stdout


def test_a_process_that_fails_prints_one_line_and_leaves_nothing(here: Path) -> None:
    done = subprocess_of(here, "-m", "linknet_fastai", "fit", "street", "--bogus")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "--bogus" in done.stderr
    assert list(here.iterdir()) == []


def test_what_libraries_log_of_an_error_is_not_printed(
    command: Command, street_data: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    logging.disable(logging.NOTSET)  # as in a new process
    assert command(*(FIT + "--encoder-weights gone.pth").format(street=street_data).split()) == 1
    assert "gone.pth: no such file" in one_error(capsys)
    assert caplog.records == []  # timm logs this too


def test_a_training_that_fails_prints_nothing_on_stdout(command: Command, capsys: pytest.CaptureFixture) -> None:
    assert command("fit", "street", "--data", "gone") == 1
    assert capsys.readouterr().out == ""


# The output of the commands


def row_of(text: str, name: str) -> list[str]:
    """The cells of the last line that begins with a name."""
    return [line.split() for line in text.splitlines() if line.split()[:1] == [name]][-1]


def test_data_prints_counts_shares_and_weights_and_draws_a_batch(
    command: Command, here: Path, segnet_tree: Path, camvid_classes: np.ndarray, capsys: pytest.CaptureFixture
) -> None:
    assert command("data", "camvid", "--data", segnet_tree) == 0
    out, err = capsys.readouterr()
    assert "layout segnet" in out
    assert row_of(out, "train") == ["train", "2", "64x48", f"{(camvid_classes == 255).mean():.2%}", "0"]
    for channel, name in enumerate(load_recipe("camvid").class_names):
        share = (camvid_classes == channel).sum() / (camvid_classes != 255).sum()
        weight = 1 / math.log(1.02 + share)
        assert row_of(out, name) == [name, str(channel), f"{share:.4f}", f"{share:.4f}", f"{weight:.2f}"]
    assert row_of(out, "test")[1:] == ["-", "missing", "-", "-"]
    assert "scores cannot be compared with published ones" in err
    with Image.open(here / "camvid-batch.png") as picture:
        assert picture.size[0] > 600
    assert [path.name for path in here.iterdir()] == ["camvid-batch.png"]


def test_data_draws_into_the_file_of_out(command: Command, here: Path, street_data: Path) -> None:
    assert command("data", "street", "--data", street_data, "--out", "pictures/batch.png") == 0
    assert [path.relative_to(here).as_posix() for path in here.rglob("*.png")] == ["pictures/batch.png"]


def test_data_lists_all_damage_and_draws_nothing(
    command: Command, here: Path, street_copy: Path, capsys: pytest.CaptureFixture
) -> None:
    files = [bad_value(street_copy), other_size(street_copy), street_copy / "test/images/test_0001.png"]
    files[2].write_bytes(b"")
    assert command("data", "street", "--data", street_copy) == 1
    out, err = capsys.readouterr()
    assert err.count("error: ") == err.count("\n") == 3
    assert all(str(file) in err for file in files)
    assert [row_of(out, split)[-1] for split in ("train", "val", "test")] == ["1", "1", "1"]
    assert list(here.iterdir()) == []


def test_data_counts_a_missing_label_map_in_a_note(
    command: Command, here: Path, street_copy: Path, capsys: pytest.CaptureFixture
) -> None:
    label = missing_label(street_copy)
    assert command("data", "street", "--data", street_copy) == 0
    assert f"without a label map, left out: 1, first {street_copy}" in (err := capsys.readouterr().err)
    assert label.stem in err


def test_no_argument_at_all_shows_the_help(command: Command, capsys: pytest.CaptureFixture) -> None:
    assert command() == 2
    out, err = capsys.readouterr()
    assert "lr-find" in out + err
    assert "error" not in err


def test_evaluate_and_predict_agree_to_the_pixel(
    command: Command, here: Path, street_data: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("evaluate", model, "street", "--data", street_data, "--json", "scores/val.json") == 0
    shown = capsys.readouterr().out
    assert command("predict", model, street_data / "val/images", "--out", "out", "--masks-only") == 0
    scores = json.loads(Path("scores/val.json").read_text())
    assert {"miou", "mean_accuracy", "pixel_accuracy", "frames", "classes", "confusion"} <= set(scores)
    written = {name: scores[name] for name in ("recipe", "split", "size", "tta")}
    assert written == {"recipe": "street", "split": "val", "size": "64x48", "tta": False}
    assert scores["frames"] == 3
    assert "boundary_miou" not in scores
    truth = np.stack([Image.open(file) for file in sorted((street_data / "val/labels").iterdir())])
    masks = np.stack([Image.open(file) for file in sorted(Path("out/masks").iterdir())])
    counts = truth != 11
    assert scores["pixel_accuracy"] == pytest.approx((masks == truth)[counts].mean())
    for class_id, row in enumerate(scores["classes"]):
        true, predicted = (truth == class_id) & counts, (masks == class_id) & counts
        union = (true | predicted).sum()
        assert row["name"] == load_recipe("street").class_names[class_id]
        assert row["pixels"] == true.sum()
        assert row["iou"] == (pytest.approx((true & predicted).sum() / union) if union else None)
        assert row["accuracy"] == (pytest.approx((true & predicted).sum() / true.sum()) if true.any() else None)
    ious = [row["iou"] for row in scores["classes"] if row["iou"] is not None]
    assert scores["miou"] == pytest.approx(np.mean(ious))
    assert row_of(shown, "mean")[1] == f"{scores['miou']:.4f}"


def test_frames_that_the_model_was_trained_on_are_noted_but_not_those_of_another_recipe(
    command: Command,
    tmp_path: Path,
    street_data: Path,
    cityscapes_tree: Path,
    model: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    (names := tmp_path / "names.txt").write_text(sorted((street_data / "train/images").iterdir())[0].stem)
    assert command("evaluate", model, "street", "--data", street_data, "--split", names) == 0
    assert f"frames in both {names} and train: 1" in " ".join(capsys.readouterr().err.split())
    names.write_text("aachen_000000_000019")
    assert command("evaluate", model, "cityscapes", "--data", cityscapes_tree, "--split", names) == 0
    assert "frames in both" not in " ".join(capsys.readouterr().err.split())


def test_scores_are_shown_even_if_they_cannot_be_written(
    command: Command, here: Path, street_data: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    for option in ("--json", "--picture"):
        assert command("evaluate", model, "street", "--data", street_data, option, here) == 1
        out, err = capsys.readouterr()
        assert row_of(out, "mean")
        assert str(here) in err


def test_a_table_in_a_pipe_is_not_folded(capsys: pytest.CaptureFixture) -> None:
    long = [f"{name * 50}.toml" for name in "abc"]
    show_table("123", [long])
    assert capsys.readouterr().out.splitlines()[1].split() == long


def test_data_names_a_missing_split_to_train_on(
    command: Command, street_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = tmp_path / "own.toml"
    text = (recipe_folder() / "street.toml").read_text()
    recipe.write_text(text.replace("\ntrain = {}", '\ntraining = { folder = "train" }'))
    assert recipe.read_text() != text
    assert command("data", recipe, "--data", street_copy) == 1
    assert "'train' is no split of street (training" in capsys.readouterr().err


def test_evaluate_writes_json_alone_to_stdout_when_asked(
    command: Command, here: Path, street_data: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    line = ("evaluate", model.parent, "street", "--data", street_data, "--split", "test", "--json", "-")
    assert command(*line) == 0
    out, err = capsys.readouterr()
    scores = json.loads(out)
    assert (scores["frames"], len(scores["classes"]), err) == (2, 11, "")
    assert list(here.iterdir()) == []


def test_evaluate_scores_groups_and_more_of_each_class_on_demand(
    command: Command,
    street_data: Path,
    model: Path,
    own_recipe: Callable,
    own_tree: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    line = ("evaluate", model.parent, "street", "--data", street_data, "--split", "train", "--all", "--by", "group")
    assert command(*line, "--boundary", "--json", "scores.json") == 0
    out, scores = capsys.readouterr().out, json.loads(Path("scores.json").read_text())
    for word in (
        "95% interval",
        "precision",
        "F1",
        "boundary IoU",
        "lowest class",
        "frequency-weighted IoU",
        "within these drives only",
    ):
        assert word in out
    assert not Path("scores.npz").exists()
    boundary_ious = [row["boundary_iou"] for row in scores["classes"] if row["boundary_iou"] is not None]
    assert scores["boundary_miou"] == pytest.approx(np.mean(boundary_ious))
    means = next(line.split() for line in out.splitlines() if line.split()[:1] == ["mean"])
    assert means[-1] == f"{scores['boundary_miou']:.4f}"
    assert sum(group["frames"] for group in scores["groups"]) == scores["frames"] == 8
    assert scores["intervals"]["miou"][0] <= scores["miou"] <= scores["intervals"]["miou"][1]
    assert command("evaluate", model, own_recipe(), "--data", own_tree, "--by", "group") == 2
    assert "--by group: " in capsys.readouterr().err


def test_predict_reports_unreadable_frames_and_predicts_the_others(
    command: Command, street_copy: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    broken = truncated_image(street_copy)
    assert command("predict", model, street_copy / "train/images", "--out", "out", "--size", "native") == 1
    out, err = capsys.readouterr()
    assert "7 of 8 frames predicted" in out
    assert err.startswith(f"error: {broken}: cannot read this image")
    assert err.count("\n") == 1
    masks = sorted(Path("out/masks").iterdir())
    assert len(masks) == len(list(Path("out/overlays").iterdir())) == 7
    with Image.open(masks[0]) as mask:
        assert (mask.mode, mask.size) == ("L", (96, 72))


def test_predict_and_evaluate_follow_the_size_and_the_confidence_that_they_are_given(
    command: Command, street_data: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    frame = street_data / "val/images/val_0000.png"
    predictor = Predictor(*load_model(model), "cpu", "fp32", (40, 40))
    channels, confidence = predictor.channels_and_confidence(
        np.asarray(Image.open(frame).resize((40, 40), Image.Resampling.BILINEAR)), (72, 96)
    )
    below = float(np.median(confidence)) / 255
    options = ("--confidence", "--below", below, "--size", "40x40", "--precision", "fp32", "--device", "cpu")
    assert command("predict", model, frame, "--out", "out", *options) == 0
    ids = np.array([entry.id for entry in predictor.card.classes])
    mask = np.asarray(Image.open("out/masks/val_0000.png"))
    assert np.array_equal(np.asarray(Image.open("out/confidence/val_0000.png")), confidence)
    sure = confidence >= 255 * below
    assert 0 < sure.mean() < 1
    assert np.array_equal(mask[sure], ids[channels[sure]])
    assert (mask[~sure] == predictor.card.void.id).all()
    assert command("evaluate", model, "street", "--data", street_data, "--size", "native", "--json", "s.json") == 0
    assert json.loads(Path("s.json").read_text())["size"] == "native"


def test_lr_find_prints_the_valley_as_the_rate_to_train_with(
    command: Command, street_data: Path, capsys: pytest.CaptureFixture
) -> None:
    small = ("--size", "64x48", "--bs", 4, "--encoder", "test_resnet", "--no-pretrained", "--workers", 0)
    assert command("lr-find", "street", "--data", street_data, *small, "--steps", 20, "--out", "found") == 0
    out = capsys.readouterr().out
    valley, given = (float(re.search(pattern, out)[1]) for pattern in (r"valley +(\S+)", r"--lr (\S+)"))
    assert given == pytest.approx(valley, rel=0.05)
    assert sorted(file.name for file in Path("found").iterdir()) == ["lr-find.csv", "lr-find.png"]


def test_export_names_what_it_wrote_and_clear_cache_deletes_what_was_decoded(
    command: Command, street_data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("export", model, "--format", "safetensors", "--out", "copy.safetensors") == 0
    assert "copy.safetensors" in capsys.readouterr().out
    assert load_model(Path("copy.safetensors"))[1] == load_model(model)[1]
    cache = tmp_path / "cache"
    segmentation_dls("street", street_data, size="64x48", device="cpu", workers=0, cache_dir=cache)
    assert any(cache.rglob("*"))
    assert command("data", "street", "--data", street_data, "--cache-dir", cache, "--clear-cache") == 0
    assert not [file for file in (cache / "frames").rglob("*") if file.is_file() and file.suffix != ".lock"]


def test_fit_is_called_with_the_options_of_the_command_line(
    command: Command, street_data: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from linknet_fastai.training import fit as training

    calls: list[tuple] = []

    def stop(*arguments: object) -> None:
        calls.append(arguments)
        raise UsageError("far enough")

    monkeypatch.setattr(training, "fit", stop)
    assert command(*FIT.format(street=street_data).split(), "--lr", "auto", "--no-pretrained", "--out", "there") == 2
    recipe, data, options, out, *_ = calls[0]
    assert (recipe, data, out) == ("street", street_data, Path("there"))
    given = {name: value for name, value in options.items() if value is not None}
    assert given == {"size": "64x48", "workers": 0, "device": "cpu", "lr": "auto", "pretrained": False}


def test_recipes_lists_what_is_shipped(command: Command, capsys: pytest.CaptureFixture) -> None:
    assert command("recipes") == 0
    recipes, presets = capsys.readouterr().out.split("\n\n")
    rows = {line.split()[0]: line.split()[1:] for line in recipes.splitlines()[1:]}
    assert list(rows) == recipe_names()
    assert rows["mapillary-1.2"] == ["65", "1024x768", "--data", "DIR"]
    assert rows["cityscapes34"] == ["34", "1024x512", "--data", "DIR"]
    assert rows["camvid"][0] == "11"
    assert rows["street"][-1] == "drawn"
    assert [line.split()[0] for line in presets.splitlines()[1:]] == ["best", "course", "course-modified", "paper"]


def test_recipes_prints_the_file_of_one(command: Command, capsys: pytest.CaptureFixture) -> None:
    assert command("recipes", "--show", "camvid32") == 0
    assert capsys.readouterr().out == (recipe_folder() / "camvid32.toml").read_text(encoding="utf-8")
    assert command("recipes", "--show", "paper") == 0
    assert 'optimizer = "rmsprop"' in capsys.readouterr().out
    assert command("recipes", "--show", "camvod") == 2
    assert "did you mean 'camvid'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", recipe_names())
def test_a_copied_recipe_is_the_shipped_one(command: Command, here: Path, name: str) -> None:
    assert command("recipes", "--copy", name, "mine/own.toml") == 0
    assert load_recipe(here / "mine" / "own.toml") == load_recipe(name)


def test_copying_a_recipe_overwrites_nothing(command: Command, here: Path, capsys: pytest.CaptureFixture) -> None:
    (here / "camvid").mkdir()
    (mine := here / "camvid" / "val.txt").write_text("mine", encoding="utf-8")
    assert command("recipes", "--copy", "camvid", "own.toml") == 2
    assert "camvid/val.txt exists already" in capsys.readouterr().err
    assert command("recipes", "--copy", "camvid", "own.txt") == 2
    assert "a recipe is a .toml file" in capsys.readouterr().err
    assert [path for path in here.rglob("*") if path.is_file()] == [mine]


def test_evaluate_gives_the_courses_dice_and_a_picture_on_demand(
    command: Command, here: Path, street_data: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    plain = ("evaluate", model, "street", "--data", street_data, "--json")
    assert command(*plain, "plain.json") == 0
    assert command(*plain, "course.json", "--protocol", "course", "--picture", "confusion.png") == 0
    assert "per-image Dice with void scored" in capsys.readouterr().out
    scores, course = (json.loads(Path(name).read_text()) for name in ("plain.json", "course.json"))
    assert "course_dice" not in scores
    assert 0 < course.pop("course_dice") < 1
    assert scores == course
    assert np.sum(scores["confusion"]) == sum(row["pixels"] for row in scores["classes"])
    assert min(Image.open("confusion.png").size) > 600


def test_evaluate_with_tta_is_recorded_and_needs_torch(
    command: Command, here: Path, street_data: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("evaluate", model, "street", "--data", street_data, "--tta", "--json", "tta.json") == 0
    assert "flips and scales averaged" in capsys.readouterr().out
    assert json.loads(Path("tta.json").read_text())["tta"] is True
    Path("model.onnx").touch()
    assert command("evaluate", "model.onnx", "street", "--data", street_data, "--tta") == 2
    assert "--tta" in capsys.readouterr().err


def test_evaluate_scores_the_confidence_at_any_temperature(
    command: Command, here: Path, street_data: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ("evaluate", model, "street", "--data", street_data, "--json", "scores.json")
    assert command(*arguments, "--temperature", 0.25) == 0
    cold = json.loads(Path("scores.json").read_text())
    assert cold["temperature"] == 0.25
    assert f"expected calibration error {cold['ece']:.4f}, temperature 0.25" in capsys.readouterr().out
    assert command(*arguments) == 0
    own = json.loads(Path("scores.json").read_text())
    assert own["temperature"] == 1
    assert own["ece"] < cold["ece"]  # an untrained network is not that certain
    assert own["miou"] == cold["miou"]


@pytest.mark.usefixtures("short_end")
def test_any_setting_is_set_by_name_as_in_toml(
    command: Command, here: Path, street_data: Path, capsys: pytest.CaptureFixture
) -> None:
    given = ("--set", "scale=[0.5, 2]", "--set", "flip=false", "--set", "weight-decay=0.5", "--set", "optimizer=sgd")
    tiny = ("--encoder", "test_resnet", "--size", "64x48", "--workers", "0", "--epochs", "1", "--out", "run")
    assert command("fit", "street", "--data", street_data, *tiny, *given) == 0
    settings = tomllib.loads(Path("run/run.toml").read_text())
    written = {name: settings["settings"][name] for name in ("scale", "flip", "weight_decay", "optimizer")}
    assert written == {"scale": [0.5, 2.0], "flip": False, "weight_decay": 0.5, "optimizer": "sgd"}
    assert settings["origins"]["scale"] == "command line"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--set", "scale"), "write NAME=VALUE"),
        (("--set", "scales=1"), "did you mean 'scale'?"),
        (("--set", "scale=[2, 1]"), "--set scale (from the command line)"),
        (("--set", "lr=0.1", "--lr", "0.2"), "--lr is given too"),
        (("--set", "lr=-1"), "--lr (from the command line)"),
        (("--preset", "cours"), "did you mean 'course'?"),
    ],
)
def test_an_invalid_setting_is_an_error(
    given: tuple[str, ...], message: str, command: Command, here: Path, street_data: Path, capsys
) -> None:
    assert command("fit", "street", "--data", street_data, *given) == 2
    assert message in one_error(capsys)
    assert list(here.iterdir()) == []


def test_fit_has_an_option_for_every_setting_but_those_without_one() -> None:
    assert set(Settings.model_fields) - set(inspect.signature(train.fit).parameters) == WITHOUT_OPTION


def test_quiet_prints_only_errors_and_json(
    command: Command, model: Path, street_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("evaluate", model, "street", "--data", street_data)
    assert command(*arguments, "--quiet", "--json", "scores.json") == 0
    assert capsys.readouterr() == ("", "")
    assert command("--quiet", *arguments, "--json", "-") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["miou"] == json.loads(Path("scores.json").read_text(encoding="utf-8"))["miou"]
    assert printed.err == ""
    assert command(*arguments, "--quiet", "--split", "nowhere") == 2
    assert "nowhere" in one_error(capsys)
    assert command(*arguments) == 0
    assert "pixel accuracy" in capsys.readouterr().out


def test_evaluate_scores_the_classes_that_a_model_and_another_recipe_both_know(
    command: Command, here: Path, cityscapes_tree: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    line = f"evaluate {model} cityscapes --data {cityscapes_tree} --map Tree=vegetation --json scores.json"
    assert command(*line.split(), "--picture", "matrix.png") == 0
    printed = capsys.readouterr()
    assert "on cityscapes val, 7 of its 19 classes" in printed.out
    assert (
        "predicts them, as cityscapes does not know them: Pavement, SignSymbol, Pedestrian, Bicyclist" in printed.err
    )
    scores = json.loads((here / "scores.json").read_text(encoding="utf-8"))
    names = ["road", "building", "fence", "pole", "vegetation", "sky", "car"]
    assert [entry["name"] for entry in scores["classes"]] == names
    assert np.array(scores["confusion"]).shape == (7, 8)
    assert "averageScoreClasses" not in scores  # the official scores are of all classes
    with Image.open(here / "matrix.png") as picture:
        assert picture.width > 300


def test_the_shell_completes_recipes_and_presets(tmp_path: Path) -> None:
    def completed(*words: str) -> list[str]:
        asked = {"COMP_WORDS": " ".join(("linknet-fastai", *words)), "COMP_CWORD": str(len(words))}
        environment = {**os.environ, **asked, "_LINKNET_FASTAI_COMPLETE": "complete_bash"}
        program = [sys.executable, "-m", "linknet_fastai"]
        return subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout.split()

    assert completed("evaluate", "model", "city") == ["cityscapes", "cityscapes34"]
    assert completed("fit", "street", "--preset", "course") == ["course", "course-modified"]


def test_a_stopped_run_prints_how_to_continue_and_no_picture(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = FitResult(Path("run"), [{"epoch": 1, "miou": 0.5}], finished=False)
    monkeypatch.setattr("linknet_fastai.training.fit.fit", lambda *arguments: left)
    assert command("fit", "street") == 130
    printed = capsys.readouterr().out
    assert "stopped after epoch 1; continue with: linknet-fastai fit --resume run" in printed
    assert "report" not in printed
