"""The report of a run: one self-contained page, equal to the files of the run, that runs no foreign code."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from linknet_fastai.core.errors import UserError
from linknet_fastai.data.open import open_dataset
from linknet_fastai.model.save_load import load_model
from linknet_fastai.runs.compare import summarize
from linknet_fastai.runs.report import report, representative_frames, write_report
from linknet_fastai.training import fit as training

SMALL = {"encoder": "test_resnet", "size": "64x48", "bs": 4, "workers": 0, "epochs": 2, "seed": 1, "device": "cpu"}
Command = Callable[..., int]


class Page(HTMLParser):
    """The tags of a page, what they refer to, and its text; fails where tags are not closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(street_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "my run"
    training.fit("street", street_data, SMALL, folder)
    return folder


def test_every_fit_writes_a_page_that_needs_nothing_else(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 2 * 7  # seven charts, light and dark
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 3 * 3 * 2  # three frames, three masks over each


def test_the_page_shows_the_content_of_the_run_folder(run: Path) -> None:
    page, summary = Page((run / "report.html").read_text(encoding="utf-8")), summarize(run)
    scores = json.loads((run / "evaluation-val.json").read_text())
    for value in (summary.best["miou"], summary.last["miou"], summary.best["pixel_accuracy"]):
        assert f"{value:.4f}" in page.text
    assert "my run" in page.text
    for name, miou in scores["frame_miou"].items():
        if miou in (max(scores["frame_miou"].values()), min(scores["frame_miou"].values())):
            assert f"{Path(name).stem}, mIoU {miou:.3f}" in page.text
    changed = page.text[page.text.index("Changed settings") : page.text.index("All settings")]
    assert "64x48" in changed
    assert "recipe" in changed
    assert "weight_decay" not in changed
    assert f"error {scores['ece']:.4f} at temperature {scores['temperature']:.3f}" in page.text
    for word in ("Bicyclist", "torch", "command", "cross-entropy"):
        assert word in page.text
    assert "No 95% intervals: too few frames" in page.text


def test_the_page_shows_the_intervals_of_an_evaluation(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    scores = json.loads((folder / "evaluation-val.json").read_text())
    words = "bootstrap over 12 blocks of consecutive frames, within these drives only"
    scores["intervals"] = {"words": words, "miou": [0.25, 0.75], "mean_accuracy": [0.125, 0.5]}
    scores["classes"][0] |= {"iou": 0.5, "iou_interval": [0.375, 0.625]}
    (folder / "evaluation-val.json").write_text(json.dumps(scores))
    write_report(folder, [], load_model(folder)[1])
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    for text in ("0.250 to 0.750", "0.125 to 0.500", "0.375 to 0.625", f"Intervals: {words}"):
        assert text in page.text
    assert "No 95% intervals" not in page.text


def test_the_scores_that_fit_leaves_are_those_of_its_best_weights(run: Path) -> None:
    scores = json.loads((run / "evaluation-val.json").read_text())
    assert scores["split"] == "val"
    assert scores["miou"] == pytest.approx(summarize(run).best["miou"], abs=1e-3)
    assert len(scores["frame_miou"]) == scores["frames"] == 3


def test_the_frames_shown_are_the_best_the_middle_and_the_worst(street_data: Path) -> None:
    dataset = open_dataset("street", street_data)
    stems = [frame.stem for frame in dataset.frames("val")]
    names = [dataset.relative_path(frame) for frame in dataset.frames("val")]
    mious = dict(zip(names, (0.2, float("nan"), 0.9), strict=True)) | {"gone.png": 1.0}

    class engine:  # noqa: N801
        @staticmethod
        def predict_channels(image) -> np.ndarray:
            return np.zeros(image.size[::-1], np.uint8)

    shown = representative_frames(mious, dataset, "val", engine)
    assert [(frame.rank, frame.stem) for frame in shown] == [("best", stems[2]), ("worst", stems[0])]
    (frame,) = representative_frames({names[0]: 0.2}, dataset, "val", engine)
    assert frame.rank == "only scored"  # not the worst
    assert representative_frames(dict.fromkeys(names, None), dataset, "val", engine) == []


def test_names_from_a_recipe_are_text_and_never_markup(run: Path, street_data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "<script>alert(1)</script>")
    file = folder / "run.toml"
    file.write_text(file.read_text().replace("command = '", "command = '<img src=x onerror=alert(2)>"))
    file.write_text(re.sub(r'command = "', 'command = "<img src=x onerror=alert(2)>', file.read_text()))
    report(folder, street_data)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(2)&gt;" in text
    Page(text)


def test_the_command_writes_it_again_and_reports_missing_frames(
    command: Command, run: Path, street_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    whole = (folder / "report.html").read_text(encoding="utf-8")
    (folder / "report.html").unlink()
    assert command("report", folder, "--data", street_data) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    assert Page((folder / "report.html").read_text(encoding="utf-8")).tags == Page(whole).tags
    moved = (folder / "run.toml").read_text().replace(str(street_data), str(tmp_path / "gone"))
    (folder / "run.toml").write_text(moved)
    assert command("report", folder) == 0
    assert "no frames are shown" in capsys.readouterr().err
    assert "Best, median and worst" not in (folder / "report.html").read_text(encoding="utf-8")
    assert command("report", folder, "--data", tmp_path / "gone") == 1


def test_a_folder_that_is_not_a_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run here"):
        report(tmp_path)
