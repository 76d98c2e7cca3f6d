"""A ROS bag goes in and out: every image's class map with its stamp, in every format that rosbags reads."""

import io
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


def frame(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def message(store: Any, number: int, encoding: str = "rgb8", pad: int = 0, seq: bool = False) -> Any:
    """An image with a stamp and a frame of its own, `pad` bytes after each row."""
    types, pixels = store.types, frame(number)
    stamp = types["builtin_interfaces/msg/Time"](100 + number, 7 * number)
    header = types["std_msgs/msg/Header"](*([number] if seq else []), stamp, f"camera{number}")
    if encoding == "png":
        Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
        return types[COMPRESSED](header, "rgb8; png compressed", np.frombuffer(buffer.getvalue(), np.uint8))
    if encoding in ("bgr8", "bgra8"):
        pixels = pixels[..., ::-1]
    if encoding == "bgra8":
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


@pytest.mark.parametrize(("encoding", "pad"), [("rgb8", 8), ("bgr8", 0), ("bgra8", 4), ("png", 0)])
def test_encodings_give_the_same_mask(engine: Engine, tmp_path: Path, encoding: str, pad: int) -> None:
    source = write_bag(tmp_path / "drive", front=[message(ROS2, 3, encoding, pad)])
    predict_bag(engine, source, tmp_path / "out", overlays=False)
    masks = [each for topic, _, each in read(tmp_path / "out") if topic.endswith("/mask")]
    assert [np.array_equal(each.data.reshape(HEIGHT, WIDTH), engine(frame(3))) for each in masks] == [True]


def test_topics_are_chosen_and_images_that_cannot_be_read_are_reported(engine: Engine, tmp_path: Path) -> None:
    images = [message(ROS2, 0), message(ROS2, 1)]
    bayer = [message(ROS2, 0), message(ROS2, 1, "bayer_rggb8")]
    source = write_bag(tmp_path / "drive", front=images, left=bayer)
    result = predict_bag(engine, source, tmp_path / "out", topics=["/left"])
    assert {topic.split("/")[1] for topic, *_ in read(tmp_path / "out")} == {"left"}
    assert result.images == 1
    (broken,) = result.broken
    assert "/left at 1000000000050000000 ns: the encoding bayer_rggb8 is not read" in broken
    with pytest.raises(UsageError, match=r"--topic: /rear has no images in .*; these have: /front, /left"):
        predict_bag(engine, source, tmp_path / "out", topics=["/rear"])
    source = write_bag(tmp_path / "all", front=bayer[1:])
    with pytest.raises(UserError, match="none of its images can be predicted"):
        predict_bag(engine, source, tmp_path / "none")
    assert {path.name for path in tmp_path.iterdir()} == {"drive", "all", "out"}


def test_a_folder_is_replaced_only_if_a_prediction_wrote_it(engine: Engine, tmp_path: Path) -> None:
    source = write_bag(tmp_path / "drive", front=[message(ROS2, 0)])
    for _ in range(2):
        predict_bag(engine, source, tmp_path / "out")
    foreign = write_bag(tmp_path / "foreign", front=[message(ROS2, 0)])
    with pytest.raises(UsageError, match=r"--out: .*foreign would be overwritten"):
        predict_bag(engine, source, foreign)
    assert len(read(foreign)) == 1


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
    assert command("predict", model, tmp_path / "one.png", "--topic", "/front", "--out", tmp_path / "out") == 2
