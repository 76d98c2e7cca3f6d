"""Videos: every frame keeps its time, sound is copied, broken frames are left out, no file is incomplete."""

import errno
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.engines.engine import Engine
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict import frames as reading
from linknet_fastai.predict.frames import Frame, Reading
from linknet_fastai.predict.inputs import Clip, collect_clips
from linknet_fastai.predict.video import predict_video

# FFmpeg's test picture in place of a camera, with the times of a machine that was started 50,000 seconds ago: PyAV
# reads both through a device.
CAMERAS = dict.fromkeys(("linux", "darwin"), ("lavfi", "testsrc=s=64x48:r=100:d={},setpts=PTS+50000/TB", {}))
COLORS = {"dark": (255, 0, 0), "light": (0, 0, 255)}
Command = Callable[..., int]


class Brightness(Engine):
    """Calls a pixel dark or light, in this machine's plain numpy."""

    name = "brightness"

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return (pixels.mean(2) > 128).astype(np.uint8)


@pytest.fixture
def engine() -> Engine:
    classes = [{"id": id, "name": name, "color": color} for id, (name, color) in enumerate(COLORS.items())]
    return Brightness(ModelCard(recipe="light", classes=classes, void={"id": 9}, size=(64, 48)), "fp32", "native")


def gray(level: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    return np.full((size[1], size[0], 3), level, np.uint8)


def write_clip(
    file: Path,
    frames: Sequence[np.ndarray],
    times: Sequence[Fraction] | None = None,
    codec: str = "libx264",
    sound: str | None = None,
    rotation: int = 0,
) -> Path:
    """A clip at 10 frames a second, or with frames at the given times."""
    with av.open(str(file), "w") as output:
        stream = output.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24" if codec == "png" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        if sound:
            heard = output.add_stream(sound, rate=48_000)
            waves = np.sin(np.arange(48_000 * len(frames) // 10) / 20).astype(np.float32)[None]
            played = av.AudioFrame.from_ndarray(waves, format="fltp", layout="mono")
            played.sample_rate, played.pts = 48_000, round(48_000 * times[0]) if times else 0
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = round((times[number] if times else Fraction(number, 10)) * 1000)
            frame.time_base = Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound:
            output.mux(heard.encode(played))
            output.mux(heard.encode(None))
    return file


def read_clip(file: Path) -> tuple[list[np.ndarray], list[float], list[str]]:
    """The frames of a clip, their times and the codecs of its sounds."""
    with av.open(str(file)) as container:
        codecs = [stream.codec_context.name for stream in container.streams.audio]
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [float(frame.time) for frame in frames], codecs


def test_every_frame_keeps_its_place_and_time_and_gets_its_color(engine: Engine, tmp_path: Path) -> None:
    levels = [20, 230, 60, 200, 40, 220]
    times = [Fraction(n, 10) for n in (0, 1, 2, 5, 6, 9)]  # no even pace
    clip = write_clip(tmp_path / "in.mp4", [gray(level) for level in levels], times)
    reported = []
    result = predict_video(
        engine, clip, tmp_path / "out.mp4", opacity=1, progress=lambda *step: reported.append(step)
    )
    frames, shown, _ = read_clip(result.file)
    assert (result.frames, result.dropped, result.broken, result.stopped) == (6, 0, 0, False)
    assert shown == pytest.approx([float(time) for time in times], abs=1e-3)
    for level, frame in zip(levels, frames, strict=True):
        expected = COLORS["light" if level > 128 else "dark"]
        assert np.abs(frame.mean((0, 1)) - expected).max() < 12
    assert reported[-1] == ("predicting out.mp4", 6, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def read_sound(file: Path) -> list[bytes]:
    """The packets of a clip's sound."""
    with av.open(str(file)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.dts is not None]


@pytest.mark.parametrize(
    ("codec", "suffix"), [("aac", "mp4"), ("libmp3lame", "mkv"), ("flac", "mkv"), ("mp2", "mkv")]
)
def test_sound_is_copied_packet_by_packet(engine: Engine, tmp_path: Path, codec: str, suffix: str) -> None:
    clip = write_clip(tmp_path / f"in.{suffix}", [gray(90)] * 20, sound=codec)
    result = predict_video(engine, clip, tmp_path / "out.mp4")
    assert read_sound(result.file) == read_sound(clip) != []
    assert result.sound_left_out == []
    with av.open(str(result.file)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples == pytest.approx(2 * 48_000, abs=3 * 1152)


def test_sound_that_does_not_fit_in_an_mp4_is_left_out_and_reported(engine: Engine, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", [gray(90)] * 20, sound="pcm_s16le")
    result = predict_video(engine, clip, tmp_path / "out.mp4")
    frames, times, codecs = read_clip(result.file)
    assert (len(frames), codecs) == (20, [])
    assert times == pytest.approx([n / 10 for n in range(20)], abs=1e-3)
    assert "without its pcm_s16le sound" in str(result)


def test_sound_of_an_unknown_codec_is_left_out_and_reported(engine: Engine, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", [gray(90)] * 5, sound="pcm_s16le")
    clip.write_bytes(clip.read_bytes().replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT"))
    with av.open(str(clip)) as container:
        assert [stream.codec_context for stream in container.streams.audio] == [None]
    result = predict_video(engine, clip, tmp_path / "out.mp4")
    frames, _, codecs = read_clip(result.file)
    assert (len(frames), codecs) == (5, [])
    assert "without its unknown sound" in str(result)


def test_a_clip_with_decreasing_times_is_predicted_to_its_end(engine: Engine, tmp_path: Path) -> None:
    one = write_clip(tmp_path / "one.ts", [gray(90)] * 10, sound="aac")
    two = tmp_path / "two.ts"
    two.write_bytes(one.read_bytes() * 2)
    result = predict_video(engine, two, tmp_path / "out.mp4")
    frames, times, codecs = read_clip(result.file)
    assert (result.frames, len(frames), codecs) == (20, 20, ["aac"])
    assert times == sorted(set(times))


def test_a_clip_that_begins_late_begins_at_once(engine: Engine, tmp_path: Path) -> None:
    times = [Fraction(36_000 + n, 10) for n in range(10)]
    clip = write_clip(tmp_path / "late.ts", [gray(90)] * 10, times, sound="aac")
    result = predict_video(engine, clip, tmp_path / "out.mp4")
    with av.open(str(result.file)) as container:
        assert [float(stream.start_time * stream.time_base) for stream in container.streams] == pytest.approx(
            [0, 0], abs=0.1
        )
        assert container.duration * 1e-6 == pytest.approx(1, abs=0.1)


def test_a_colon_in_a_name_is_no_protocol(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "in.mp4", [gray(90)] * 3).rename("12:30:05.mp4")
    assert predict_video(engine, Path("12:30:05.mp4"), Path("run:1/out.mp4")).frames == 3


def test_a_turned_clip_comes_out_upright(engine: Engine, tmp_path: Path) -> None:
    left_light = gray(20)
    left_light[:, :32] = 230
    clip = write_clip(tmp_path / "in.mp4", [left_light] * 3, rotation=90)
    with av.open(str(clip)) as container:
        assert next(container.decode(video=0)).rotation == 90
    frames, _, _ = read_clip(predict_video(engine, clip, tmp_path / "out.mp4", opacity=1).file)
    assert frames[0].shape == (64, 48, 3)
    bottom, top = frames[0][40:].mean((0, 1)), frames[0][:24].mean((0, 1))  # turned against the clock, left is below
    assert bottom[2] > 200 > 50 > top[2]


def test_sides_that_h264_cannot_have_are_rounded_up(engine: Engine, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.avi", [gray(90, (65, 47))] * 2, codec="png")
    assert read_clip(predict_video(engine, clip, tmp_path / "out.mp4").file)[0][0].shape == (48, 66, 3)


def test_a_rate_drops_frames_evenly(engine: Engine, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", [gray(90)] * 20)
    result = predict_video(engine, clip, tmp_path / "out.mp4", fps=4)
    assert (result.frames, result.dropped) == (8, 12)
    times = read_clip(result.file)[1]
    assert times == pytest.approx([0, 0.3, 0.5, 0.8, 1, 1.3, 1.5, 1.8], abs=1e-3)
    assert predict_video(engine, clip, tmp_path / "all.mp4", fps=60).dropped == 0


@pytest.mark.parametrize(("fps", "frames"), [(29.97, 20), (23.976, 20), (7.3, 14), (0.01, 1)])
def test_any_rate_is_one_that_ffmpeg_has(engine: Engine, tmp_path: Path, fps: float, frames: int) -> None:
    clip = write_clip(tmp_path / "in.mp4", [gray(90)] * 20)
    assert predict_video(engine, clip, tmp_path / "out.mp4", fps=fps).frames == frames


def test_a_broken_frame_is_left_out_and_the_others_come(engine: Engine, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3), np.uint8)
    clip = write_clip(tmp_path / "in.avi", list(noise), codec="png")
    content = bytearray(clip.read_bytes())
    third = [place for place in range(len(content)) if content[place : place + 4] == b"\x89PNG"][2]
    content[third + 100 : third + 460] = bytes(360)
    clip.write_bytes(content)
    result = predict_video(engine, clip, tmp_path / "out.mp4")
    assert (result.frames, result.broken) == (4, 1)
    assert read_clip(result.file)[1] == pytest.approx([0, 0.1, 0.3, 0.4], abs=2e-3)
    assert "4 frames" in str(result)
    assert "1 broken" in str(result)


def test_a_clip_that_was_cut_off_gives_what_is_there(engine: Engine, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (10, 48, 64, 3), np.uint8)
    clip = write_clip(tmp_path / "in.avi", list(noise), codec="png")
    clip.write_bytes(clip.read_bytes()[:-40_000])
    result = predict_video(engine, clip, tmp_path / "out.mp4")
    assert 3 <= result.frames < 10
    assert len(read_clip(result.file)[0]) == result.frames


@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_what_is_no_video_is_one_line_and_leaves_nothing(
    engine: Engine, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "in.mp4"
    if content is None:
        with av.open(str(file), "w") as output:  # sound alone
            heard = output.add_stream("aac", rate=48_000)
            played = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
            played.sample_rate, played.pts = 48_000, 0
            output.mux(heard.encode(played))
            output.mux(heard.encode(None))
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"in\.mp4: (cannot be opened as a video|there is no video)"):
        predict_video(engine, file, tmp_path / "out" / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_ctrl_c_ends_a_video_with_what_it_has(engine: Engine, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", [gray(90)] * 50)

    def stop_after_five(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt  # no signal: shells have what runs in the background ignore Ctrl-C's

    result = predict_video(engine, clip, tmp_path / "out.mp4", progress=stop_after_five)
    assert result.stopped
    assert result.frames == len(read_clip(result.file)[0]) == 5


def test_uncertain_pixels_of_a_video_are_not_colored(engine: Engine, tmp_path: Path) -> None:
    class Unsure(Brightness):
        has_confidence = True

        def channels_and_confidence(self, pixels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            certain = np.full(size, 200, np.uint8)
            certain[:, : size[1] // 2] = 100
            return self.channels(pixels, size), certain

    clip, unsure = write_clip(tmp_path / "in.mp4", [gray(90)] * 2), Unsure(engine.card, "fp32", "native")
    result = predict_video(unsure, clip, tmp_path / "out.mp4", opacity=1, below=0.5)
    left, right = (frame.astype(int) for frame in np.split(read_clip(result.file)[0][0], 2, axis=1))
    assert np.abs(left[:, :28] - 90).max() < 12  # its own color
    assert (right[:, 4:].mean((0, 1)) > (200, -1, -1)).all()
    assert right[:, 4:, 1].mean() < 30


def test_images_become_a_video_in_the_order_of_their_numbers(engine: Engine, tmp_path: Path) -> None:
    (folder := tmp_path / "shots").mkdir()
    levels = {1: 20, 2: 230, 10: 40}
    for number, level in levels.items():
        Image.fromarray(gray(level)).save(folder / f"shot{number}.png")
    (folder / "shot3.png").write_bytes(b"no image")
    (clip,), images = collect_clips([folder], tmp_path / "out", as_video=True)
    assert images == []
    assert clip.target == Path("shots.mp4")
    result = predict_video(engine, clip.source, tmp_path / "out.mp4", opacity=1, fps=5)
    frames, times, _ = read_clip(result.file)
    assert (result.frames, result.broken) == (3, 1)
    assert times == pytest.approx([0, 0.2, 0.6], abs=1e-3)
    assert [frame.mean((0, 1))[2] > 128 for frame in frames] == [False, True, False]


def test_a_camera_is_read_until_it_ends_and_late_frames_are_dropped(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "CAMERAS", CAMERAS)
    result = predict_video(engine, 2, tmp_path / "out.mp4")
    assert result.frames + result.dropped == 200
    frames, times, _ = read_clip(result.file)
    assert len(frames) == result.frames >= 1
    assert times == sorted(set(times))
    assert times[0] == 0


def test_ctrl_c_ends_a_camera_with_what_it_has(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "CAMERAS", CAMERAS)

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt  # while the camera's reader is at a frame

    result = predict_video(engine, 9999, tmp_path / "out.mp4", progress=stop)
    assert result.stopped
    assert len(read_clip(result.file)[0]) == result.frames == 1


@pytest.fixture
def stopped_camera(monkeypatch: pytest.MonkeyPatch) -> int:
    """A camera that gives three frames; Ctrl-C is pressed in the wait for the fourth."""

    def three(frames: Iterator[Frame], _: Reading) -> Iterator[Frame]:
        yield from islice(frames, 3)
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "CAMERAS", CAMERAS)
    monkeypatch.setattr(reading, "_newest", three)
    return 9999


def test_ctrl_c_in_the_wait_for_a_frame_keeps_those_that_came_before(
    engine: Engine, tmp_path: Path, stopped_camera: int
) -> None:
    result = predict_video(engine, stopped_camera, tmp_path / "out.mp4")
    assert (result.stopped, result.problem) == (True, "")
    assert len(read_clip(result.file)[0]) == result.frames == 3


def test_what_follows_a_stopped_camera_is_predicted_and_what_failed_before_it_is_shown(
    command: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stopped_camera: int
) -> None:
    (broken := tmp_path / "broken.mp4").write_bytes(b"no video")
    clip = write_clip(tmp_path / "clip.mp4", [gray(90)] * 3)
    assert command("predict", model, broken, stopped_camera, clip, "--out", tmp_path / "out") == 1
    assert {file.name for file in (tmp_path / "out/overlays").iterdir()} == {"camera-9999.mp4", "clip.mp4"}
    assert "broken.mp4: cannot be opened as a video" in capsys.readouterr().err
    assert command("predict", model, stopped_camera, "--out", tmp_path / "out") == 0


def test_a_camera_that_is_stopped_before_its_first_frame_is_a_failure_and_the_next_input_follows(
    command: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(frames: Iterator[Frame], _: Reading) -> Iterator[Frame]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(reading, "CAMERAS", CAMERAS)
    monkeypatch.setattr(reading, "_newest", stopped)
    clip = write_clip(tmp_path / "clip.mp4", [gray(90)] * 3)
    assert command("predict", model, 9999, clip, "--out", tmp_path / "out") == 1
    assert [file.name for file in (tmp_path / "out/overlays").iterdir()] == ["clip.mp4"]
    assert "camera 9999: stopped before its first frame" in capsys.readouterr().err


def test_a_camera_that_has_no_new_frame_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As FFmpeg's avfoundation, of macOS, reports it; PyAV's `demux` has ended then."""

    class Camera:
        packets = 0

        def demux(self, _: str) -> Iterator[int]:
            self.packets += 1
            if self.packets > 3:
                return
            yield self.packets
            raise av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    assert list(reading._waiting(Camera(), ["video"])) == [1, 2, 3]
    monkeypatch.setattr(reading, "TIMEOUT", -1)
    with pytest.raises(av.error.BlockingIOError):  # one from which nothing comes any more
        list(reading._waiting(Camera(), ["video"]))


def test_a_camera_that_is_not_there_is_one_line(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="camera 97"):
        predict_video(engine, 97, tmp_path / "out.mp4")


def test_videos_are_separated_from_images(tmp_path: Path) -> None:
    def touch(*files: str) -> None:
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()

    touch("a.MOV", "photo.png", "both/b.mp4", "both/deep/c.avi", "both/d.jpg", "clips/e.webm", "out/overlays/f.mp4")
    (tmp_path / "7").mkdir()
    names = ["a.MOV", "photo.png", "both", "clips", "7"]
    clips, images = collect_clips([tmp_path / name for name in names] + [Path("3")], tmp_path / "out")
    assert clips == [
        Clip(tmp_path / "a.MOV", Path("a.mp4")),
        Clip(tmp_path / "both/b.mp4", Path("b.mp4")),
        Clip(tmp_path / "both/deep/c.avi", Path("deep/c.mp4")),
        Clip(tmp_path / "clips/e.webm", Path("e.mp4")),
        Clip(3, Path("camera-3.mp4")),
    ]
    assert images == [tmp_path / "photo.png", tmp_path / "both", tmp_path / "7"]
    assert collect_clips([tmp_path / "out"], tmp_path / "out")[0] == []
    touch("more/a.mkv")
    with pytest.raises(UsageError, match=r"both write a\.mp4"):
        collect_clips([tmp_path / "a.MOV", tmp_path / "more"], tmp_path / "out")


def test_predict_writes_videos_and_images_and_continues_after_one_that_fails(
    command: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "in").mkdir()
    (folder / "broken.mp4").write_bytes(b"no video")
    write_clip(folder / "clip.mp4", [gray(90)] * 3)
    Image.fromarray(gray(90)).save(folder / "photo.png")
    assert command("predict", model, folder, "--out", tmp_path / "out", "--opacity", 0.7) == 1
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["legend.png", "masks/photo.png", "overlays/clip.mp4", "overlays/photo.png"]
    printed = capsys.readouterr()
    assert "3 frames" in printed.out
    assert "broken.mp4: cannot be opened as a video" in printed.err


def test_the_videos_of_a_folder_are_predicted_in_addition_to_the_video_of_its_images(tmp_path: Path) -> None:
    for name in ("a.png", "clip.mp4"):
        (tmp_path / name).touch()
    clips, images = collect_clips([tmp_path], tmp_path / "out", as_video=True)
    assert [clip.source for clip in clips] == [tmp_path / "clip.mp4", [tmp_path / "a.png"]]
    assert images == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--video"], "--video: "),
        (["--fps", 5], "--fps: "),
        (["--masks-only", "--opacity", 0.5], "--opacity: --masks-only"),
        (["--format", "cityscapes", "--opacity", 0.5], "--opacity: --format cityscapes"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    command: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list, named: str
) -> None:
    Image.fromarray(gray(90)).save(tmp_path / "photo.png")
    assert command("predict", model, tmp_path / "photo.png", "--out", tmp_path / "out", *options) == 2
    assert f"error: {named}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--masks-only"], ["--format", "cityscapes"], ["--palette"]])
def test_options_that_a_video_cannot_follow_are_refused(
    command: Command, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [gray(90)])
    assert command("predict", model, clip, "--out", tmp_path / "out", *option) == 2
    assert option[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
