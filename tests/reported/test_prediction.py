"""What users reported of prediction: all kinds of files, damaged clips, turned frames, files that are overwritten."""

import re
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.images import open_image
from linknet_fastai.engines.engine import Engine
from linknet_fastai.export.export import export_run
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict import frames as reading
from linknet_fastai.predict.inputs import collect_clips, collect_jobs, note_of_unread
from linknet_fastai.predict.uploads import Limits, predict_image
from linknet_fastai.predict.video import predict_video

Command = Callable[..., int]
CORNERS = np.array([[[220, 30, 30], [30, 200, 30]], [[30, 30, 220], [240, 240, 240]]], np.uint8)  # no two alike


class Nothing(Engine):
    """Sees one class everywhere; with opacity 0 an overlay is the frame itself."""

    name = "nothing"

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return np.zeros(size, np.uint8)


@pytest.fixture
def engine() -> Engine:
    classes = [{"id": id, "name": name, "color": (id, 0, 255)} for id, name in ((4, "all"), (5, "none"))]
    return Nothing(ModelCard(recipe="one", classes=classes, void={"id": 9}, size=(64, 48)), "fp32", "native")


def picture(size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """Four colors, one a quarter."""
    return np.asarray(Image.fromarray(CORNERS).resize(size, Image.Resampling.NEAREST))


def corners(pixels: np.ndarray) -> np.ndarray:
    """The colors of the four quarters, 2x2x3."""
    height, width = pixels.shape[:2]
    return pixels[[height // 4, 3 * height // 4]][:, [width // 4, 3 * width // 4]].astype(int)


def write(
    file: Path,
    codec: str = "libx264",
    kind: str | None = None,
    count: int = 10,
    rate: int = 10,
    size: tuple[int, int] = (64, 48),
    prepare: Callable[[Any], None] = lambda stream: None,
    noise: int = 0,
    **options: str,
) -> Path:
    """A clip of `picture`, with noise so that it has some length in bytes."""
    random = np.random.default_rng(0)
    with av.open(str(file), "w", format=kind, options=options) as output:
        stream = output.add_stream(codec, rate)
        (stream.width, stream.height), stream.pix_fmt = size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 5
        stream.codec_context.bit_rate = 4_000_000
        prepare(stream)
        for number in range(count):
            pixels = picture(size)
            if noise:
                pixels = (pixels // 2 + random.integers(0, noise, pixels.shape)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file


def first_frame(file: Path) -> np.ndarray:
    with av.open(str(file)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


# Files that are overwritten


@pytest.mark.parametrize("name", ["legend.png", "overlays/clip.mp4", "overlays/photo.png"])
def test_a_file_of_mine_is_not_overwritten_by_predict(
    command: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write(tmp_path / "clip.mp4", count=2)
    write(tmp_path / "other.mp4", count=2)  # a video, but not of ours
    Image.fromarray(picture()).save(tmp_path / "photo.png")
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    source = tmp_path / "other.mp4" if name.endswith("mp4") else tmp_path / "photo.png"
    mine.write_bytes(content := source.read_bytes())
    call = ("predict", model, tmp_path / "clip.mp4", tmp_path / "photo.png", "--out", tmp_path / "out")
    assert command(*call) == 2
    assert f"{mine}: already exists and was not written by linknet-fastai" in capsys.readouterr().err
    assert list((tmp_path / "out").rglob("*.*")) == [mine]
    assert mine.read_bytes() == content
    mine.unlink()
    assert (command(*call), command(*call)) == (0, 0)  # what an earlier prediction wrote is replaced


def test_a_picture_of_mine_is_not_overwritten_by_data(
    command: Command, here: Path, own_recipe: Callable[..., Path], own_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own-batch.png").write_bytes(b"mine")
    assert command("data", own_recipe(), "--data", own_tree) == 2
    assert "own-batch.png: already exists" in capsys.readouterr().err
    assert (here / "own-batch.png").read_bytes() == b"mine"


def test_a_file_of_mine_beside_the_one_i_named_is_not_overwritten_by_export(model: Path, tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"net\.bin: already exists"):
        export_run(model, "openvino", tmp_path / "net.xml")
    (tmp_path / "net.pkl").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"net\.pkl: already exists"):
        export_run(model, "pkl", tmp_path / "net")
    assert export_run(model, "pkl", tmp_path / "net.pkl").file.stat().st_size > 1000  # that very name was given
    export_run(model, "pkl", tmp_path / "net")  # and now it is ours


# Videos by what they are

FORMATS = [
    ("mpeg2video", "mpegts", ".ts"),
    ("libx264", "mpegts", ".MTS"),
    ("mpeg4", "3gp", ".3gp"),
    ("flv1", "flv", ".flv"),
    ("wmv2", "asf", ".wmv"),
    ("libx264", "h264", ".h264"),
    ("mpeg2video", "mpeg2video", ".m2v"),
    ("mjpeg", "mjpeg", ".mjpeg"),
    ("wrapped_avframe", "yuv4mpegpipe", ".y4m"),
    ("libvpx", "ivf", ".ivf"),
    ("libx264", "matroska", ".mkv"),
]


@pytest.mark.parametrize(("codec", "kind", "suffix"), FORMATS)
def test_a_video_of_any_format_is_a_video(engine: Engine, tmp_path: Path, codec: str, kind: str, suffix: str) -> None:
    clip = write(tmp_path / f"clip{suffix}", codec, kind, rate=25)
    for given in (clip, tmp_path):
        (found,), images = collect_clips([given], tmp_path / "out")
        assert (found.source, found.target, images) == (clip, Path("clip.mp4"), [])
    result = predict_video(engine, clip, tmp_path / "out.mp4", opacity=0)
    assert (result.frames, result.problem) == (10, "")
    assert np.abs(corners(first_frame(result.file)) - CORNERS).max() < 40


def test_a_blu_ray_stream_is_a_video(tmp_path: Path) -> None:
    clip = write(tmp_path / "00001.m2ts", kind="mpegts", mpegts_m2ts_mode="1")
    assert collect_clips([tmp_path], tmp_path / "out")[0][0].source == clip


def test_a_name_without_or_with_a_wrong_ending_does_not_matter(engine: Engine, tmp_path: Path) -> None:
    (noname := tmp_path / "recording").write_bytes(write(tmp_path / "clip.mp4").read_bytes())
    (wrong := tmp_path / "clip.png").write_bytes(noname.read_bytes())
    Image.fromarray(picture()).save(photo := tmp_path / "photo.mp4", "PNG")
    clips, images = collect_clips([noname, wrong, photo], tmp_path / "out")
    assert ([clip.source for clip in clips], images) == ([noname, wrong], [photo])
    assert predict_video(engine, noname, tmp_path / "out.mp4").frames == 10
    assert [str(job) for job in collect_jobs(images, tmp_path / "out")] == [str(photo)]
    assert (engine(photo) == 4).all()


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXTINF:1,\nclip.mp4\n", "ffconcat version 1.0\nfile clip.mp4\n", "v=0\no=- 0 0 IN IP4 1.2.3.4\n"],
)
@pytest.mark.parametrize("suffix", [".ts", ".mkv", ""])
def test_a_list_of_other_files_is_no_video(engine: Engine, tmp_path: Path, text: str, suffix: str) -> None:
    write(tmp_path / "clip.mp4")
    (given := tmp_path / f"list{suffix}").write_text(text)
    with pytest.raises(UserError, match=f"list{suffix}: cannot be opened as a video"):
        predict_video(engine, given, tmp_path / "out.mp4")


def test_code_named_ts_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "main.ts").write_text("export const G: number = 1;\n" * 100)
    assert collect_clips([tmp_path], tmp_path / "out") == ([], [tmp_path])
    assert note_of_unread([tmp_path], tmp_path / "out") is None


# Turned frames and pixels that are no squares


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_or_mirrored_clip_comes_out_upright(
    engine: Engine, tmp_path: Path, degrees: int, mirrored: bool
) -> None:
    def turn(stream: Any) -> None:
        stream.set_display_rotation(degrees, hflip=mirrored)
        stream.codec_context.sample_aspect_ratio = Fraction(16, 15)

    clip = write(tmp_path / "clip.mp4", count=2, prepare=turn)
    result = predict_video(engine, clip, tmp_path / "out.mp4", opacity=0)
    expected = np.rot90(CORNERS, degrees // 90)
    assert np.abs(corners(first_frame(result.file)) - (expected[:, ::-1] if mirrored else expected)).max() < 40
    with av.open(str(result.file)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height) == ((48, 64) if degrees % 180 else (64, 48))
        assert video.sample_aspect_ratio == (Fraction(15, 16) if degrees % 180 else Fraction(16, 15))


@pytest.mark.parametrize(("codec", "suffix", "aspect"), [("mpeg2video", "mpg", (64, 45)), ("mpeg4", "avi", (12, 11))])
def test_the_pixels_of_a_clip_keep_their_shape(
    engine: Engine, tmp_path: Path, codec: str, suffix: str, aspect: tuple[int, int]
) -> None:
    def stretch(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)

    clip = write(tmp_path / f"dv.{suffix}", codec, count=3, rate=25, size=(720, 576), prepare=stretch)
    with av.open(str(predict_video(engine, clip, tmp_path / "out.mp4").file)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.sample_aspect_ratio) == (720, 576, Fraction(*aspect))


def test_a_motion_jpeg_with_exif_is_turned(engine: Engine, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # FFmpeg gives it together with data that PyAV has no name for
    Image.fromarray(picture()).save(tmp_path / "one.jpg", exif=exif, quality=95)
    (clip := tmp_path / "clip.mjpeg").write_bytes((tmp_path / "one.jpg").read_bytes() * 5)
    result = predict_video(engine, clip, tmp_path / "out.mp4", opacity=0)
    assert result.frames == 5
    assert np.abs(corners(first_frame(result.file)) - np.rot90(CORNERS, -1)).max() < 40


# Clips that are damaged


@pytest.mark.parametrize(
    ("codec", "kind", "options"),
    [
        ("libx264", "mp4", {"movflags": "faststart"}),
        ("libx264", "matroska", {}),
        ("libvpx", "webm", {}),
        ("mpeg4", "avi", {}),
        ("libx264", "flv", {}),
        ("mpeg2video", "mxf", {}),
    ],
)
def test_a_clip_that_was_cut_off_says_how_much_of_it_was_read(
    engine: Engine, tmp_path: Path, codec: str, kind: str, options: dict[str, str]
) -> None:
    rate = 25 if kind == "mxf" else 10
    clip = write(tmp_path / "clip", codec, kind, 6 * rate, rate, noise=100, **options)
    assert predict_video(engine, clip, tmp_path / "whole.mp4").problem == ""
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    result = predict_video(engine, clip, tmp_path / "out.mp4")
    assert 0.2 * 6 * rate < result.frames < 0.6 * 6 * rate
    with av.open(str(result.file)) as container:
        read = round(container.duration * 1e-6, 1)
    assert result.problem.startswith(f"{clip}: damaged or incomplete (")
    assert any(f"({seconds:.1f} s of 6." in result.problem for seconds in (read, read - 0.1, read + 0.1))


def test_a_recording_without_its_index_is_one_line(engine: Engine, tmp_path: Path) -> None:
    clip = write(tmp_path / "clip.mp4", noise=100)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(UserError, match=r"clip\.mp4: .* \(damaged, or cut off before its index was written\)"):
        predict_video(engine, clip, tmp_path / "out.mp4")


@pytest.mark.parametrize(("codec", "kind"), [("libx264", "mp4"), ("libx264", "mpegts"), ("mpeg2video", "mpeg")])
def test_damage_in_the_middle_of_a_clip_is_reported(engine: Engine, tmp_path: Path, codec: str, kind: str) -> None:
    clip = write(tmp_path / "clip", codec, kind, count=50, rate=25, noise=100)
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = np.random.default_rng(1).bytes(2000)
    clip.write_bytes(content)
    problem = predict_video(engine, clip, tmp_path / "out.mp4").problem
    assert re.search(r"frames with errors: [1-3], the first at (0\.9|1\.0|1\.1) s", problem)


@pytest.mark.parametrize("kind", ["mpegts", "mpeg"])
def test_a_recording_that_begins_in_the_middle_is_not_damaged(engine: Engine, tmp_path: Path, kind: str) -> None:
    clip = write(tmp_path / "clip", "mpeg2video", kind, count=50, rate=25, noise=100)
    clip.write_bytes(clip.read_bytes()[clip.stat().st_size // 3 :])
    result = predict_video(engine, clip, tmp_path / "out.mp4")
    assert 20 < result.frames < 40
    assert result.problem == ""


def test_a_damaged_clip_is_an_error_of_predict(
    command: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write(tmp_path / "clip.mkv", count=30, noise=100)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 3])
    assert command("predict", model, clip, "--out", tmp_path / "out") == 1
    assert "clip.mkv: damaged or incomplete (" in capsys.readouterr().err
    assert (tmp_path / "out" / "overlays" / "clip.mp4").is_file()


def test_sound_that_goes_on_after_the_last_frame_is_no_damage(engine: Engine, tmp_path: Path) -> None:
    for codec, suffix in (("aac", "mkv"), ("pcm_s16le", "mkv"), ("aac", "mp4")):
        with av.open(str(clip := tmp_path / f"{codec}.{suffix}"), "w") as output:
            stream, heard = output.add_stream("libx264", 10), output.add_stream(codec, rate=48_000)
            (stream.width, stream.height), stream.pix_fmt = (64, 48), "yuv420p"
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 5 * 48_000), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 48_000, 0
            for number in range(10):
                frame = av.VideoFrame.from_ndarray(picture(), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
            if codec == "pcm_s16le":
                sound = av.AudioResampler("s16", "mono", 48_000).resample(sound)[0]
            output.mux(heard.encode(sound))
            output.mux(heard.encode(None))
        result = predict_video(engine, clip, tmp_path / "out.mp4")
        assert (result.frames, result.problem) == (10, "")


@pytest.mark.parametrize("delivered", [0, 3])
def test_a_camera_that_fails_ends_with_its_reason(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delivered: int
) -> None:
    def unplugged(*_: Any) -> Iterator[reading.Frame]:
        for number in range(delivered):
            yield reading.Frame(Fraction(number), Fraction(1), lambda: Image.fromarray(picture()))
        raise ValueError("the camera was unplugged")

    camera = {"linux": ("lavfi", "testsrc=s=64x48:d={}", {})}
    monkeypatch.setattr(reading, "CAMERAS", camera | {"darwin": camera["linux"]})
    monkeypatch.setattr(reading, "_decoded", unplugged)
    outcome: list[Any] = []

    def record() -> None:
        try:
            outcome.append(predict_video(engine, 1, tmp_path / "out.mp4").problem)
        except UserError as error:
            outcome.append(str(error))

    (recorder := threading.Thread(target=record, daemon=True)).start()
    recorder.join(20)
    expected = "damaged or incomplete (reading ended with:" if delivered else "none of its frames can be read ("
    assert outcome[0].startswith(f"camera 1: {expected}")
    assert "the camera was unplugged" in outcome[0]
    assert (tmp_path / "out.mp4").exists() == bool(delivered)


# Folders


def test_files_that_systems_leave_behind_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "in" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "in" / "__MACOSX").mkdir()
    Image.fromarray(picture()).save(tmp_path / "in" / "a.png")
    Image.fromarray(picture()).save(tmp_path / "in" / ".ipynb_checkpoints" / "a-checkpoint.png")
    for name in ("._a.png", "._clip.mp4", "__MACOSX/._a.JPG", ".DS_Store", "Thumbs.db", "._b.heic"):
        (tmp_path / "in" / name).write_bytes(b"\0\5\x16\7" + b"\0" * 200)
    clips, images = collect_clips([tmp_path / "in"], tmp_path / "out")
    assert clips == []
    assert [job.target.name for job in collect_jobs(images, tmp_path / "out")] == ["a.png"]
    assert note_of_unread([tmp_path / "in"], tmp_path / "out") is None


def test_what_a_folder_holds_and_is_not_read_is_counted(
    command: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "in").mkdir()
    clip = write(tmp_path / "clip.mp4", count=2)
    for name in ("photo.png", "PHOTO2.JPG", "x.jfif", "scan.tif"):
        Image.fromarray(picture()).save(folder / name, "TIFF" if name == "scan.tif" else "JPEG")
    (folder / "scan.tif").rename(folder / "DSC_1.NEF")
    for name in ("a.heic", "b.HEIC", "c.cr3", "d.jxl"):
        (folder / name).write_bytes(b"\0\0\0\x18ftypheic")
    for name in ("GL01.LRV", "recording"):  # a proxy, and a clip without an ending
        (folder / name).write_bytes(clip.read_bytes())
    for name in ("notes.txt", "labels.json", "sound.m4a", "model.bin"):
        (folder / name).write_bytes(b"\0\0\0\x18ftypM4A " if name == "sound.m4a" else b"text")
    assert command("predict", model, folder, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr()
    kinds = ".cr3 (1), .heic (2), .jfif (1), .jxl (1), .lrv (1), .nef (1), no ending (1)"
    assert f"note: 8 files are not read: {kinds}; convert or rename them to .png, .jpg or .mp4\n" in printed.err
    assert "2 of 2 frames predicted" in printed.out


# Progress


def test_the_bar_of_a_clip_ends_also_with_a_rate_and_broken_frames(engine: Engine, tmp_path: Path) -> None:
    noise = {"noise": 100, "count": 30}
    whole, cut = write(tmp_path / "whole.mp4", **noise), write(tmp_path / "cut.mkv", **noise)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    unknown = write(tmp_path / "unknown.h264", **noise)
    for clip, fps, expected in ((whole, None, 30), (whole, 4, 30), (cut, 4, 30), (unknown, None, 0)):
        steps: list[tuple[str, int, int]] = []

        def note(what: str, done: int, total: int, steps: list = steps) -> None:
            steps.append((what, done, total))

        result = predict_video(engine, clip, tmp_path / "out.mp4", fps=fps, progress=note)
        assert {total for _, _, total in steps[:-1]} == {expected}
        *_, (_, done, total) = steps
        assert done == total == result.frames + result.dropped + result.broken
        assert all(first[1] <= second[1] for first, second in pairwise(steps))


# What an engine takes


def test_an_engine_answers_what_it_takes_or_is_right(engine: Engine) -> None:
    rgb = picture()
    for wrong in (
        torch.from_numpy(rgb.copy()),
        rgb / 255,
        np.dstack([rgb, rgb[..., :1]]),
        rgb[..., :1],
        rgb.transpose(2, 0, 1),
        rgb > 100,
        rgb.astype(np.uint16),
    ):
        with pytest.raises(UserError, match=r"takes the path of an image, a PIL image, or a uint8 array .*, not "):
            engine(wrong)
    with pytest.raises(UserError, match="mode I and values below 256"):
        engine(Image.fromarray(rgb).convert("I"))  # it was seen as black


def test_a_camera_raw_is_not_its_preview(engine: Engine, tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "raw.tif")
    raw = (tmp_path / "raw.tif").rename(tmp_path / "DSC_0001.NEF")
    for read in (open_image, engine, lambda file: predict_image(engine, file, Limits(1, 1, 1))):
        with pytest.raises(UserError, match=r"DSC_0001\.NEF: .*only the preview in a camera raw"):
            read(raw)
    Image.fromarray(picture()).save(jpeg := tmp_path / "IMG_1.dng", "JPEG")  # what it is, not what it is called
    assert open_image(jpeg).size == (64, 48)
