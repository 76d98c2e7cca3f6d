"""`predict --order uncertain`: the least certain frames first, spread over sequences."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import save

from linknet_fastai.engines.engine import NATIVE, Engine
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict.annotations import annotate_images, annotation_jobs
from linknet_fastai.predict.images import predict_images
from linknet_fastai.predict.inputs import collect_jobs
from linknet_fastai.predict.order import APART, label_next

CLASSES = [{"id": n, "name": name, "color": (9, 0, 9 * n)} for n, name in enumerate(("road", "tree"))]
CARD = ModelCard(recipe="two", classes=CLASSES, void={"id": 255}, size=(64, 48))


class FromRed(Engine):
    """Gives the red of a frame as its confidence."""

    name = "from red"
    has_confidence = True

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return np.zeros(size, np.uint8)

    def channels_and_confidence(self, pixels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return self.channels(pixels, size), np.ascontiguousarray(pixels[..., 0])


def test_neighbors_wait_for_the_next_round_and_nothing_is_lost() -> None:
    uncertain = {Path("a") / f"x{n}_cam1.png": 0.5 - n / 1000 for n in range(40)}  # from the first to the last
    others = {Path("b/x5_cam1.png"): 0.45, Path("a/other.png"): 0.1}
    ordered = label_next(uncertain | others)
    assert sorted(ordered) == sorted(uncertain | others)
    # By number and not by name, at which 10 comes before 2; b and a name of its own are other sequences.
    assert [path.name for path in ordered[:6]] == [
        "x0_cam1.png",
        f"x{APART + 1}_cam1.png",
        f"x{2 * (APART + 1)}_cam1.png",
        f"x{3 * (APART + 1)}_cam1.png",
        "x5_cam1.png",
        "other.png",
    ]
    assert ordered[6] == Path("a/x1_cam1.png")


def test_frames_on_their_own_are_sorted_by_uncertainty_alone() -> None:
    names = {Path(f"{name}.png"): value for name, value in {"tree": 0.1, "car": 0.4, "bus": 0.4, "sky": 0.9}.items()}
    assert [path.stem for path in label_next(names)] == ["sky", "bus", "car", "tree"]


def test_uncertainty_is_one_minus_the_mean_confidence_for_masks_and_for_shapes(tmp_path: Path) -> None:
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:3, :, 0] = 255
    file = save(pixels, tmp_path / "images/half.png")
    engine, out = FromRed(CARD, "fp32", NATIVE), tmp_path / "out"
    found: dict[Path, float] = {}
    assert not predict_images(engine, collect_jobs([file], out), out, uncertainties=found)
    assert found == {file: pytest.approx(0.5)}
    assert sorted(path.name for path in out.iterdir()) == ["masks", "overlays"]  # no confidence maps
    found.clear()
    annotate_images(engine, annotation_jobs([file], out, "cvat"), out, "cvat", uncertainties=found)
    assert found == {file: pytest.approx(0.5)}


def test_the_command_writes_the_list_and_only_over_its_own(
    command: Callable[..., int], model: Path, street_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = street_data / "val/images", tmp_path / "out"
    arguments = ("predict", model, images, "--out", out, "--masks-only", "--order", "uncertain")
    for _ in range(2):
        assert command(*arguments) == 0
    assert f"to label next: {out / 'label-next.csv'}" in capsys.readouterr().out.replace("\n", "")
    rows = list(csv.DictReader((out / "label-next.csv").read_text().splitlines()))
    assert sorted(row["frame"] for row in rows) == sorted(map(str, images.iterdir()))
    assert all(0 < float(row["uncertainty"]) < 1 for row in rows)
    assert {row["sequence"] for row in rows} == {(images / "val_#.png").as_posix()}
    assert float(rows[0]["uncertainty"]) == max(float(row["uncertainty"]) for row in rows)
    (out / "label-next.csv").write_text("frame\nmine\n")
    assert command(*arguments) == 2
    assert "label-next.csv: already exists and was not written by linknet-fastai" in capsys.readouterr().err
    assert command("predict", model, "0", "--out", tmp_path / "none", "--order", "uncertain") == 2
    assert "--order: camera 0 is no image; extract its frames first" in capsys.readouterr().err
