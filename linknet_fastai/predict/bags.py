"""Predicts the images of a ROS bag: reads one and writes one with class maps, confidences and overlays, without ROS.

The class maps, with `vision_msgs/LabelInfo`, are those that nav2's semantic_segmentation_layer takes (README of
github.com/kiwicampus/semantic_segmentation_layer: mask and confidence as mono8, the labels before the masks, reliable
and transient local).
"""

import io
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from linknet_fastai.core.errors import UsageError, UserError, import_optional, reason
from linknet_fastai.core.images import to_rgb
from linknet_fastai.core.parallel import Progress, map_in_threads
from linknet_fastai.engines.engine import Engine, frame_threads
from linknet_fastai.model.card import METADATA_KEY
from linknet_fastai.predict.images import without_uncertain
from linknet_fastai.predict.overlay import overlay

highlevel, rosbag2 = import_optional("rosbags.highlevel", "ros"), import_optional("rosbags.rosbag2", "ros")
interfaces, typesys = import_optional("rosbags.interfaces", "ros"), import_optional("rosbags.typesys", "ros")

IMAGE, COMPRESSED, LABELS = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "vision_msgs/msg/LabelInfo"
# The encodings of sensor_msgs/image_encodings.hpp that are read: the order of the channels, "" for gray.
ENCODINGS = {"rgb8": "RGB", "bgr8": "BGR", "8UC3": "BGR", "rgba8": "RGBA", "bgra8": "BGRA", "mono8": "", "8UC1": ""}
# https://github.com/ros-perception/vision_msgs/tree/ros2/vision_msgs/msg, which rosbags does not have.
VISION_MSGS = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    LABELS: "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n",
}
METADATA = "metadata.yaml"


@dataclass(frozen=True)
class BagResult:
    """The outcome of `predict_bag`.

    Attributes:
        folder: the bag that was written, a folder.
        images: how many images were predicted.
        broken: a message for each image that could not be read or predicted.
        seconds: how long it took.
    """

    folder: Path
    images: int
    broken: Sequence[str]
    seconds: float

    def __str__(self) -> str:
        return f"{self.images} images, {self.images / self.seconds:.1f} a second: {self.folder}"


def predict_bag(
    engine: Engine,
    source: Path,
    folder: Path,
    topics: Sequence[str] = (),
    overlays: bool = True,
    opacity: float = 0.5,
    below: float | None = None,
    progress: Progress | None = None,
) -> BagResult:
    """Write a bag (MCAP, ROS 2) with predictions of the images of another, complete or not at all.

    For each topic of images, `TOPIC`, there are `TOPIC/segmentation/mask` (mono8, the recipe's class ids),
    `.../confidence` (mono8, 255 is certain), `.../label_info` (once, first) and `.../overlay/compressed` (JPEG), with
    the stamps, frames and recording times of the images. A bag is read and written message by message.

    Args:
        engine: the model; of one without confidence there is no such topic.
        source: an `.mcap`, a `.db3`, a folder of rosbag2, or a ROS 1 `.bag`.
        folder: the folder to write.
        topics: which topics to predict; all of images by default.
        overlays: whether to write overlays.
        opacity: opacity of the colors in overlays, 0 to 1.
        below: pixels with a lower confidence than this, 0 to 1, become void.
        progress: called with what is done, the number of images done and of all.

    Raises:
        UsageError: there is no such topic, or the folder is not a bag that a prediction wrote.
        UserError: the bag cannot be read, has no images, or the folder cannot be written.

    Example::

        result = predict_bag(open_engine(Path("runs/camvid")), Path("drive.mcap"), Path("predicted/drive"))
        print(result.images)
    """
    if below is not None:
        engine.require_confidence()
    check_own_bag(folder)
    started = time.perf_counter()
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    for name, text in VISION_MSGS.items():
        store.register(typesys.get_types_from_msg(text, name))
    with _as_user_errors(source), highlevel.AnyReader([source], default_typestore=store) as reader:
        chosen = _image_connections(reader, source, topics)
        total = sum(connection.msgcount for connection in chosen)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            unfinished = Path(temporary) / folder.name
            writer = rosbag2.Writer(unfinished, version=8, storage_plugin=rosbag2.StoragePlugin.MCAP)
            writer.set_custom_data(METADATA_KEY, engine.card.recipe)
            with writer:
                outputs = _Outputs(writer, store, engine, overlays, opacity, below)

                def predict(message: tuple[Any, int, bytes]) -> tuple[Any, int, dict[str, Any] | str]:
                    connection, recorded, data = message
                    try:
                        return (
                            connection,
                            recorded,
                            outputs.of(reader.deserialize(data, connection.msgtype), connection),
                        )
                    except UserError as error:
                        return connection, recorded, f"{source}: {connection.topic} at {recorded} ns: {error}"

                broken = []
                messages = reader.messages(connections=chosen)
                for done, (connection, recorded, predicted) in enumerate(
                    map_in_threads(predict, messages, frame_threads(engine)), 1
                ):
                    if isinstance(predicted, str):
                        broken.append(predicted)
                    else:
                        outputs.write(connection.topic, recorded, predicted)
                    if progress:
                        progress(f"predicting {source.name}", done, total)
            if len(broken) == total:
                raise UserError(f"none of its images can be predicted; the first: {broken[0]}")
            if folder.exists():
                shutil.rmtree(folder)
            unfinished.rename(folder)
    return BagResult(folder, total - len(broken), broken, time.perf_counter() - started)


def check_own_bag(folder: Path) -> None:
    """Raise UsageError unless a folder is missing, or a bag that a prediction wrote."""
    metadata = folder / METADATA
    if folder.exists() and not (metadata.is_file() and METADATA_KEY in metadata.read_text(errors="replace")):
        raise UsageError(f"--out: {folder} would be overwritten, and no prediction wrote it")


def _image_connections(reader: Any, source: Path, topics: Sequence[str]) -> list[Any]:
    found = [each for each in reader.connections if each.msgtype in (IMAGE, COMPRESSED) and each.msgcount]
    names = sorted({connection.topic for connection in found})
    if not found:
        raise UserError("no messages of type sensor_msgs Image or CompressedImage")
    if missing := sorted({*topics} - {*names}):
        raise UsageError(f"--topic: {missing[0]} has no images in {source}; these have: {', '.join(names)}")
    return [connection for connection in found if not topics or connection.topic in topics]


@contextmanager
def _as_user_errors(source: Path) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except UserError as error:
        message = str(error)
        raise UserError(message if str(source) in message else f"{source}: {message}") from error.__cause__
    except Exception as error:  # rosbags raises a dozen types of several modules at damaged bags
        raise UserError(f"{source}: cannot be read as a ROS bag, or not written ({reason(error)})") from error


class _Outputs:
    """The topics of the written bag: their messages, and their connections, made at the first image of a topic."""

    def __init__(
        self, writer: Any, store: Any, engine: Engine, overlays: bool, opacity: float, below: float | None
    ) -> None:
        self.writer, self.store, self.types = writer, store, store.types
        self.engine, self.overlays, self.opacity, self.below = engine, overlays, opacity, below
        self.ids = np.full(256, engine.card.void.id, np.uint8)
        self.ids[: len(engine.class_ids)] = engine.class_ids
        self.connections: dict[str, Any] = {}

    def of(self, message: Any, connection: Any) -> dict[str, Any]:
        """The messages for an image, by the last part of their topic."""
        image = decode(message, connection.msgtype)
        confidence = None
        if self.engine.has_confidence:
            channels, confidence = self.engine.predict_with_confidence(image)
            channels = without_uncertain(channels, confidence, self.below)
        else:
            channels = self.engine.predict_channels(image)
        header = self._header(message.header)
        messages = {"label_info": self._labels(header), "mask": self._mono8(self.ids[channels], header)}
        if confidence is not None:
            messages["confidence"] = self._mono8(confidence, header)
        if self.overlays:
            buffer = io.BytesIO()
            overlay(image, channels, self.engine.card, self.opacity).save(buffer, "JPEG", quality=90)
            data = np.frombuffer(buffer.getvalue(), np.uint8)
            messages["overlay/compressed"] = self.types[COMPRESSED](header, "jpeg", data)
        return messages

    def write(self, topic: str, recorded: int, messages: dict[str, Any]) -> None:
        """Write the messages for an image; the labels only with the first of a topic."""
        for name, message in messages.items():
            target = f"{topic}/segmentation/{name}"
            if name == "label_info" and target in self.connections:
                continue
            kind = message.__msgtype__
            if target not in self.connections:
                latched = [_latched()] if name == "label_info" else []
                self.connections[target] = self.writer.add_connection(
                    target, kind, typestore=self.store, offered_qos_profiles=latched
                )
            self.writer.write(self.connections[target], recorded, self.store.serialize_cdr(message, kind))

    def _header(self, header: Any) -> Any:
        """A ROS 2 header with the stamp and frame of one of any ROS."""
        stamp = self.types["builtin_interfaces/msg/Time"](header.stamp.sec, header.stamp.nanosec)
        return self.types["std_msgs/msg/Header"](stamp, header.frame_id)

    def _labels(self, header: Any) -> Any:
        entry = self.types["vision_msgs/msg/VisionClass"]
        classes = [entry(each.id, each.name) for each in self.engine.card.classes]
        return self.types[LABELS](header, classes, self.below or 0.0)

    def _mono8(self, values: np.ndarray, header: Any) -> Any:
        height, width = values.shape
        return self.types[IMAGE](header, height, width, "mono8", 0, width, np.ascontiguousarray(values).ravel())


def _latched() -> Any:
    """The quality of service of a topic whose last message a later subscriber gets too."""
    none = interfaces.QosTime(0, 0)
    return interfaces.Qos(
        history=interfaces.QosHistory.KEEP_LAST,
        depth=1,
        reliability=interfaces.QosReliability.RELIABLE,
        durability=interfaces.QosDurability.TRANSIENT_LOCAL,
        deadline=none,
        lifespan=none,
        liveliness=interfaces.QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=none,
        avoid_ros_namespace_conventions=False,
    )


def decode(message: Any, kind: str) -> Image.Image:
    """The RGB image of a message.

    Args:
        message: a deserialized `sensor_msgs` Image or CompressedImage.
        kind: its type.

    Raises:
        UserError: its encoding is not one of `ENCODINGS`, or its data are damaged.

    Example::

        image = decode(reader.deserialize(data, connection.msgtype), connection.msgtype)
    """
    try:
        if kind == COMPRESSED:
            return to_rgb(Image.open(io.BytesIO(message.data.tobytes())))
        if message.encoding not in ENCODINGS:
            raise UserError(
                f"the encoding {message.encoding} is not read; convert it to rgb8, for which ROS has image_proc"
            )
        order = ENCODINGS[message.encoding]
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        pixels = rows[:, : message.width * max(len(order), 1)]
        if not order:
            return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
        channels = pixels.reshape(message.height, message.width, len(order))
        return Image.fromarray(np.ascontiguousarray(channels[..., [order.index(name) for name in "RGB"]]))
    except UserError:
        raise
    except Exception as error:  # data that are too short, or that Pillow cannot decode
        raise UserError(f"this image cannot be decoded ({reason(error)})") from error
