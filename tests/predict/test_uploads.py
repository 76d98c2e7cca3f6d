"""Predictions of uploads: limits, counts of pixels and time, the size of what the page shows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image
from test_video import read_clip, write_clip

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UserError
from linknet_fastai.engines.engine import Engine
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict.uploads import CLIP_FPS, SHOWN_SIDE, CountingEngine, Limits, check_clip, predict_image
from linknet_fastai.predict.video import predict_video

CARD = ModelCard.of(load_recipe("street"), (64, 48))
ROAD = 3
LIMITS = Limits(mebibytes=64, megapixels=25, seconds=30)


class Quarters(Engine):
    """Sees the first class in the left quarter of every frame and road in the rest; does `work` first."""

    name = "quarters"
    calls = 0

    def __init__(self, work: Callable[[], object] = lambda: None, frames_at_once: int = 1) -> None:
        super().__init__(CARD, "fp32", frames_at_once=frames_at_once)
        self.work = work

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        self.calls += 1
        self.work()
        channels = np.full(size, ROAD, np.uint8)
        channels[:, : size[1] // 4] = 0
        return channels


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Half a second of gray, 64x48."""
    return write_clip(tmp_path / "clip.mp4", [np.full((48, 64, 3), 100, np.uint8)] * 5)


def test_shares_are_of_all_pixels_of_all_frames() -> None:
    counting = CountingEngine(Quarters(), Event())
    counting(Image.new("RGB", (80, 60)))
    counting(Image.new("RGB", (40, 20)))
    assert counting.frames == 2
    assert counting.shares.tolist() == [0.25, 0, 0, 0.75] + [0] * 7


def test_milliseconds_are_those_of_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def tick(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr("linknet_fastai.predict.uploads.time.perf_counter", lambda: clock[0])
    counting = CountingEngine(Quarters(work=lambda: tick(0.25)), Event())
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda *given: tick(100) or resize(*given))
    for _ in range(2):
        counting(Image.new("RGB", (80, 60)))
    assert clock[0] > 200
    assert counting.milliseconds == 250


def test_engines_share_the_places_in_their_engine() -> None:
    engine = Quarters(frames_at_once=2)
    engines = [CountingEngine(engine, Event()) for _ in range(2)]
    for counting in engines:
        assert counting.free_slots.acquire(blocking=False)
    assert not CountingEngine(engine, Event()).free_slots.acquire(blocking=False)


def test_no_frame_is_predicted_once_the_page_is_closed() -> None:
    ended = Event()
    ended.set()
    engine = Quarters()
    with pytest.raises(UserError, match="closed"):
        CountingEngine(engine, ended)(Image.new("RGB", (80, 60)))
    assert engine.calls == 0


@pytest.mark.parametrize("kind", [UserError, RuntimeError, MemoryError])
def test_an_error_of_the_engine_names_no_file_of_the_model(kind: type[Exception]) -> None:
    def fail() -> None:
        raise kind("/home/me/model.onnx: fails")

    with pytest.raises(
        UserError, match=r"^the network fails on this frame: linknet-fastai predict shows the reason$"
    ):
        CountingEngine(Quarters(work=fail), Event())(Image.new("RGB", (80, 60)))


def test_an_image_is_predicted_as_it_is_and_reduced_for_the_page(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 10)).save(tmp_path / "wide.png")
    image, channels, size = predict_image(Quarters(), tmp_path / "wide.png", LIMITS)
    assert size == (4000, 10)
    assert image.size == channels.shape[::-1] == (SHOWN_SIDE, 4)
    assert (channels[:, : SHOWN_SIDE // 4] == 0).all()
    assert (channels[:, SHOWN_SIDE // 4 :] == ROAD).all()


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    cut = (tmp_path / "a.png").read_bytes()[:60]  # its head alone
    (tmp_path / "a.png").write_bytes(cut)
    with pytest.raises(UserError, match=r"a\.png: .*80x60 is more than 0\.004 million pixels"):
        predict_image(Quarters(), tmp_path / "a.png", replace(LIMITS, megapixels=0.004))
    with pytest.raises(UserError, match=r"a\.png: cannot read"):
        predict_image(Quarters(), tmp_path / "a.png", replace(LIMITS, megapixels=0.005))


def test_a_clip_is_drawn_with_the_selected_classes(clip: Path, tmp_path: Path) -> None:
    counting = CountingEngine(Quarters(), Event())
    steps = []
    result = predict_video(
        counting, clip, tmp_path / "out.mp4", 1, CLIP_FPS, lambda *progress: steps.append(progress), [ROAD]
    )
    assert (result.frames, counting.frames, steps[-1][1:]) == (5, 5, (5, 5))
    assert counting.shares[[0, ROAD]].tolist() == [0.25, 0.75]
    frame = read_clip(tmp_path / "out.mp4")[0][0].astype(int)
    assert np.abs(frame[8:40, 24:56] - CARD.classes[ROAD].color).max() < 12
    assert np.abs(frame[8:40, 2:12] - 100).max() < 12


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        (replace(LIMITS, seconds=0.4), r"clip\.mp4: 0\.5 seconds are more than 0\.4"),
        (replace(LIMITS, megapixels=0.003), r"clip\.mp4: 64x48 is more than 0\.003 million pixels"),
    ],
)
def test_a_clip_too_long_or_too_large_is_refused(clip: Path, limits: Limits, line: str) -> None:
    check_clip(clip, LIMITS)
    with pytest.raises(UserError, match=line):
        check_clip(clip, limits)


def test_a_clip_of_unknown_length_ends_at_the_maximum_of_frames(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 3 frames"):
        predict_video(CountingEngine(Quarters(), Event(), 3), clip, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_a_clip_that_only_names_other_files_is_refused(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {clip.name}\n")
    with pytest.raises(UserError, match=r"list\.mp4: cannot be opened as a video"):
        check_clip(tmp_path / "list.mp4", LIMITS)
