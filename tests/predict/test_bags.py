"""A ROS bag goes in and out: every image's class map with its stamp, in every format that rosbags reads."""

import dataclasses
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.engines.engine import Engine
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict.bags import predict_bag
from linknet_fastai.predict.inputs import collect_bags
from linknet_fastai.predict.kinds import is_bag

WIDTH, HEIGHT, COUNT = 40, 30, 12
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
ROS2, ROS1 = get_typestore(Stores.ROS2_HUMBLE), get_typestore(Stores.ROS1_NOETIC)


class Bright(Engine):
    """Channel 1 where the red channel is bright, as certain as the green channel says."""

    name, has_confidence = "bright", True

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return (pixels[..., 0] > 127).astype(np.uint8)

    def channels_and_confidence(self, pixels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return self.channels(pixels, size), pixels[..., 1]


@pytest.fixture(scope="module")
def engine() -> Engine:
    classes = [{"id": i, "name": f"c{i}", "color": (i, 0, 0)} for i in (7, 40)]
    return Bright(ModelCard(recipe="own", classes=classes, void={"id": 9}, size=(64, 48)), "fp32", "native")


def frame(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def message(store: Any, number: int, encoding: str = "rgb8", pad: int = 0, seq: bool = False) -> Any:
    """An image with a stamp and a frame of its own, `pad` bytes after each row."""
    types, pixels = store.types, frame(number)
    stamp = types["builtin_interfaces/msg/Time"](100 + number, 7 * number)
    header = types["std_msgs/msg/Header"](*([number] if seq else []), stamp, f"camera{number}")
    if encoding == "png":
        Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
        return types[COMPRESSED](header, "rgb8; png compressed", np.frombuffer(buffer.getvalue(), np.uint8))
    if encoding == "mono8":
        pixels = pixels[..., :1]
    if encoding in ("bgr8", "bgra8"):
        pixels = pixels[..., ::-1]
    if encoding in ("rgba8", "bgra8"):
        pixels = np.concatenate([pixels, np.full((HEIGHT, WIDTH, 1), 9, np.uint8)], -1)
    rows = np.pad(pixels.reshape(HEIGHT, -1), ((0, 0), (0, pad)))
    return types[IMAGE](header, HEIGHT, WIDTH, encoding, 0, rows.shape[1], rows.ravel())


def write_bag(path: Path, plugin: StoragePlugin = StoragePlugin.MCAP, **topics: list[Any]) -> Path:
    """A bag of ROS 2 with the messages of each topic, recorded one every 50 ms."""
    with Writer(path, version=8, storage_plugin=plugin) as writer:
        for topic, messages in topics.items():
            connection = writer.add_connection(f"/{topic}", messages[0].__msgtype__, typestore=ROS2)
            for number, each in enumerate(messages):
                writer.write(connection, 10**18 + 50_000_000 * number, ROS2.serialize_cdr(each, each.__msgtype__))
    return path


def ros1_bag(path: Path) -> Path:
    with Writer1(path) as writer:
        connection = writer.add_connection("/front", IMAGE, typestore=ROS1)
        for number in range(COUNT):
            data = ROS1.serialize_ros1(message(ROS1, number, seq=True), IMAGE)
            writer.write(connection, 10**18 + 50_000_000 * number, data)
    return path


def read(folder: Path) -> list[tuple[str, int, Any]]:
    with AnyReader([folder]) as reader:
        return [(each.topic, at, reader.deserialize(data, each.msgtype)) for each, at, data in reader.messages()]


@pytest.fixture(params=["mcap", "folder", "sqlite", "ros1"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A bag of rosbag2 as a folder or its one file, with SQLite, or of ROS 1."""
    if request.param == "ros1":
        return ros1_bag(tmp_path / "drive.bag")
    plugin = StoragePlugin.SQLITE3 if request.param == "sqlite" else StoragePlugin.MCAP
    folder = write_bag(tmp_path / "drive", plugin, front=[message(ROS2, number) for number in range(COUNT)])
    return next(folder.glob("*.mcap")) if request.param == "mcap" else folder


def test_every_image_gets_its_maps_with_its_stamp_frame_and_time(
    engine: Engine, source: Path, tmp_path: Path
) -> None:
    assert is_bag(source)
    result = predict_bag(engine, source, tmp_path / "out/bags/drive", below=0.2)
    assert (result.images, result.problems) == (COUNT, [])
    written = read(result.folder)
    by_topic = {topic: [(at, each) for name, at, each in written if name == topic] for topic, *_ in written}
    prefix = "/front/segmentation/"
    assert {*by_topic} == {prefix + name for name in ("label_info", "mask", "confidence", "overlay/compressed")}
    (at, labels), *more = by_topic[prefix + "label_info"]
    assert not more
    assert (at, written[0][0]) == (10**18, prefix + "label_info")  # before the masks
    assert [(each.class_id, each.class_name) for each in labels.class_map] == [(7, "c7"), (40, "c40")]
    assert labels.threshold == pytest.approx(0.2)
    for name in ("mask", "confidence", "overlay/compressed"):
        for number, (at, each) in enumerate(by_topic[prefix + name]):
            stamp = each.header.stamp
            assert (at, stamp.sec, stamp.nanosec) == (10**18 + 50_000_000 * number, 100 + number, 7 * number)
            assert each.header.frame_id == f"camera{number}"
            pixels = frame(number)
            if name == "overlay/compressed":
                assert Image.open(io.BytesIO(each.data.tobytes())).size == (WIDTH, HEIGHT)
                continue
            assert (each.encoding, each.height, each.width, each.step) == ("mono8", HEIGHT, WIDTH, WIDTH)
            mask = np.where(pixels[..., 1] < 0.2 * 255, 9, engine(pixels))
            expected = mask if name == "mask" else pixels[..., 1]
            assert np.array_equal(each.data.reshape(HEIGHT, WIDTH), expected)
    with AnyReader([result.folder]) as reader:
        (latched,) = (
            each.ext.offered_qos_profiles for each in reader.connections if each.topic.endswith("label_info")
        )
    assert (latched[0].durability, latched[0].reliability) == (QosDurability.TRANSIENT_LOCAL, QosReliability.RELIABLE)


@pytest.mark.parametrize(
    ("encoding", "pad"), [("rgb8", 8), ("bgr8", 0), ("rgba8", 0), ("bgra8", 4), ("mono8", 3), ("png", 0)]
)
def test_encodings_give_the_same_mask(engine: Engine, tmp_path: Path, encoding: str, pad: int) -> None:
    source = write_bag(tmp_path / "drive", front=[message(ROS2, 3, encoding, pad)])
    predict_bag(engine, source, tmp_path / "out", overlays=False)
    (mask,) = [each for topic, _, each in read(tmp_path / "out") if topic.endswith("/mask")]
    assert np.array_equal(mask.data.reshape(HEIGHT, WIDTH), engine(frame(3)))  # of gray Bright sees the red channel


def test_topics_are_chosen_and_images_that_cannot_be_read_are_one_line(engine: Engine, tmp_path: Path) -> None:
    bayer = [message(ROS2, number, "bayer_rggb8" if number else "rgb8") for number in range(4)]
    source = write_bag(tmp_path / "drive", front=[message(ROS2, 0)], left=bayer)
    result = predict_bag(engine, source, tmp_path / "out", topics=["/left"])
    assert {topic.split("/")[1] for topic, *_ in read(tmp_path / "out")} == {"left"}
    assert result.images == 1
    (problem,) = result.problems
    assert "3 images of /left cannot be predicted, the first at 1000000000.050 s: its encoding is bayer" in problem
    with pytest.raises(UsageError, match=r"--topic: /rear has no images in .*; these have: /front, /left"):
        predict_bag(engine, source, tmp_path / "out", topics=["/rear"])
    source = write_bag(tmp_path / "all", front=bayer[1:])
    with pytest.raises(UserError, match="all: 3 images of /front cannot be predicted"):
        predict_bag(engine, source, tmp_path / "none")
    assert {path.name for path in tmp_path.iterdir()} == {"drive", "all", "out"}


def image(**wrong: Any) -> Any:
    return dataclasses.replace(message(ROS2, 0), **wrong)


def depths() -> np.ndarray:
    """The data of a depth camera's topic, as in 16UC1; png compressed."""
    Image.fromarray(np.full((HEIGHT, WIDTH), 2500, np.uint16)).save(content := io.BytesIO(), "PNG")
    return np.frombuffer(content.getvalue(), np.uint8)


EPS = np.frombuffer(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", np.uint8)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (image(step=3), "has 3600 bytes, which are not 40x30 pixels of rgb8"),
        (image(width=2**31, height=2**31, step=2**31 - 1), "has 3600 bytes, which are not"),
        (image(width=0), "which are not 0x30 pixels"),
        (image(data=np.zeros(9, np.uint8)), "has 9 bytes, which are not"),
        (dataclasses.replace(message(ROS2, 0, "png"), data=EPS), "cannot be decoded"),
        (dataclasses.replace(message(ROS2, 0, "png"), data=depths()), "the mode I;16 of depths"),
        (dataclasses.replace(message(ROS2, 0, "png"), data=message(ROS2, 0, "png").data[:90]), "cannot be decoded"),
    ],
)
def test_an_image_that_cannot_be_read_is_one_line_and_the_others_are_predicted(
    engine: Engine, tmp_path: Path, broken: Any, line: str
) -> None:
    source = write_bag(tmp_path / "drive", front=[broken], rear=[message(ROS2, 1)])
    result = predict_bag(engine, source, tmp_path / "out")
    assert result.images == 1
    (problem,) = result.problems
    assert "1 images of /front cannot be predicted" in problem
    assert line in problem


def test_definitions_of_other_types_are_not_parsed(engine: Engine, tmp_path: Path) -> None:
    with Writer(tmp_path / "drive", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        own = writer.add_connection("/own", "own/msg/Odd", msgdef="no: definition (", rihs01="RIHS01_0")
        writer.write(own, 1, b"\0")
        front = writer.add_connection("/front", IMAGE, typestore=ROS2)
        writer.write(front, 2, ROS2.serialize_cdr(message(ROS2, 0), IMAGE))
    assert predict_bag(engine, tmp_path / "drive", tmp_path / "out").images == 1


def test_memory_does_not_grow_with_the_length(engine: Engine, tmp_path: Path) -> None:
    large = message(ROS2, 0)
    large.height, large.width, large.step, large.data = 300, 400, 1200, frame(0, 300, 400).ravel()  # 360 kB
    peaks = []
    for count in (32, 32, 96):  # the first time imports and caches count
        source = write_bag(tmp_path / f"{count}-{len(peaks)}", front=[large] * count)
        tracemalloc.start()
        predict_bag(engine, source, tmp_path / "out", overlays=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 16 * large.data.size  # not the 64 images more


def test_only_a_bag_that_a_prediction_wrote_is_replaced(engine: Engine, tmp_path: Path) -> None:
    source = write_bag(tmp_path / "drive", front=[message(ROS2, 0)])
    written = tmp_path / "out/bags/drive"
    for _ in range(2):
        ((bag,), _) = collect_bags([source], tmp_path / "out")
        predict_bag(engine, bag.source, tmp_path / "out/bags" / bag.target)
    for same in (written, written / "drive.mcap"):
        with pytest.raises(UsageError, match="would be overwritten"):
            collect_bags([same], tmp_path / "out")
    (written / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="already exists and was not written by linknet-fastai"):
        collect_bags([source], tmp_path / "out")
    (tmp_path / "foreign/bags").mkdir(parents=True)
    write_bag(tmp_path / "foreign/bags/drive", linknet_fastai=[message(ROS2, 0)])
    with pytest.raises(UsageError, match="already exists"):
        collect_bags([source], tmp_path / "foreign")
    with pytest.raises(UsageError, match="would both write drive"):
        collect_bags([source, write_bag(tmp_path / "b/drive", front=[message(ROS2, 0)])], tmp_path / "new")


@pytest.mark.parametrize("name", ["cut.mcap", "cut.bag", "cut.db3"])
def test_a_damaged_bag_is_one_line(engine: Engine, tmp_path: Path, name: str) -> None:
    whole = next(write_bag(tmp_path / "drive", front=[message(ROS2, 0)]).glob("*.mcap"))
    (cut := tmp_path / name).write_bytes(whole.read_bytes()[:300])
    with pytest.raises(UserError, match=f"{name}: cannot be read as a ROS bag") as caught:
        predict_bag(engine, cut, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_predicts_bags_beside_images(
    command: Callable[..., int], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_bag(tmp_path / "drive", front=[message(ROS2, number) for number in range(3)])
    Image.fromarray(frame(0)).save(tmp_path / "one.png")
    assert (
        command("predict", model, source, tmp_path / "one.png", "--topic", "/front", "--out", tmp_path / "out") == 0
    )
    assert "3 images, " in (shown := capsys.readouterr().out)
    assert "1 of 1 frames predicted" in shown
    masks = [each for topic, _, each in read(tmp_path / "out/bags/drive") if topic.endswith("/mask")]
    single = np.asarray(Image.open(tmp_path / "out/masks/one.png"))
    assert np.array_equal(masks[0].data.reshape(HEIGHT, WIDTH), single)
    assert command("predict", model, source, "--topic", "/rear", "--out", tmp_path / "out") == 2
    rear = write_bag(tmp_path / "back", rear=[message(ROS2, 0)])
    assert command("predict", model, source, rear, "--topic", "/rear", "--out", tmp_path / "out") == 1
    assert "--topic: /rear has no images in" in capsys.readouterr().err
    assert (tmp_path / "out/bags/back").is_dir()
    assert command("predict", model, tmp_path / "one.png", "--topic", "/front", "--out", tmp_path / "out") == 2
