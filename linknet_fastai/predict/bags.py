"""Predicts the images of a ROS bag: reads one and writes one with masks, confidences and overlays, without ROS."""

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from linknet_fastai.core.errors import UsageError, UserError, import_optional, reason
from linknet_fastai.core.files import read_text
from linknet_fastai.core.parallel import Progress, map_in_threads
from linknet_fastai.engines.engine import Engine, frame_threads
from linknet_fastai.model.card import METADATA_KEY
from linknet_fastai.predict.ros import COMPRESSED, IMAGE, LABEL_INFO, VISION_CLASS, Segmenter

rosbag1, rosbag2 = import_optional("rosbags.rosbag1", "ros"), import_optional("rosbags.rosbag2", "ros")
interfaces, typesys = import_optional("rosbags.interfaces", "ros"), import_optional("rosbags.typesys", "ros")

# Of github.com/ros-perception/vision_msgs, branch ros2, which rosbags does not have.
VISION_MSGS = {
    VISION_CLASS: "uint16 class_id\nstring class_name\n",
    LABEL_INFO: "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n",
}
METADATA = "metadata.yaml"

Predicted = dict[str, tuple[str, Any]]  # by the last part of a topic: the type of a message and its bytes


@dataclass(frozen=True)
class BagResult:
    """The outcome of `predict_bag`.

    Attributes:
        folder: the bag that was written.
        images: how many images were predicted.
        problems: one line for each topic with images that could not be predicted.
        seconds: how long it took.
    """

    folder: Path
    images: int
    problems: Sequence[str]
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
    """Write a bag of ROS 2 (MCAP) with predictions of the images of another bag, complete or not at all.

    For each topic of images, `TOPIC`, there are `TOPIC/segmentation/label_info` (once, latched, before the masks),
    `.../mask`, `.../confidence` and `.../overlay/compressed`, see `Segmenter`, with the stamps, frames and recording
    times of the images. Memory does not grow with the length of the bag.

    Args:
        engine: the model; of one without confidence there is no such topic.
        source: an `.mcap` or `.db3` file, a folder of rosbag2, or a `.bag` of ROS 1.
        folder: the folder to write.
        topics: the topics to predict; by default all that have images.
        overlays: whether to write overlays.
        opacity: opacity of the colors in overlays, 0 to 1.
        below: pixels with a lower confidence than this, 0 to 1, become void.
        progress: called with what is done, the number of images done and of all.

    Raises:
        UsageError: there is no such topic.
        UserError: the bag cannot be read, none of its images can be predicted, or the folder cannot be written.

    Example::

        result = predict_bag(open_engine(Path("runs/camvid")), Path("drive.mcap"), Path("predicted/bags/drive"))
        print(result.images)
    """
    if below is not None:
        engine.require_confidence()
    started = time.perf_counter()
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    for name, text in VISION_MSGS.items():
        store.register(typesys.get_types_from_msg(text, name))
    segmenter = Segmenter(engine, store.types, partial(np.frombuffer, dtype=np.uint8), below, opacity)

    with _opened(source) as (reader, deserialize):
        chosen = _image_connections(reader.connections, source, topics)
        total, done, broken = sum(connection.msgcount for connection in chosen), 0, _Broken(source)

        def messages() -> Iterator[tuple[Any, int, bytes]]:
            with _reading(source):
                yield from reader.messages(connections=chosen)

        def predict(message: tuple[Any, int, bytes]) -> tuple[str, int, Predicted | str]:
            connection, recorded, data = message
            try:
                image = deserialize(data, connection.msgtype)
                stamp, types = image.header.stamp, store.types
                header = types["std_msgs/msg/Header"](
                    stamp=types["builtin_interfaces/msg/Time"](sec=stamp.sec, nanosec=stamp.nanosec),
                    frame_id=image.header.frame_id,
                )  # of ROS 1 it has one field more
                built = {"label_info": segmenter.label_info(header)} | segmenter.messages(image, header, overlays)
                kinds = {name: each.__msgtype__ for name, each in built.items()}
                predicted = {name: (kind, store.serialize_cdr(built[name], kind)) for name, kind in kinds.items()}
                return connection.topic, recorded, predicted
            except Exception as error:  # of rosbags at damaged messages; the others may succeed
                return connection.topic, recorded, reason(error)

        with _writer(folder, engine.card.recipe) as writer:
            outputs = _Outputs(writer, store)
            results = map_in_threads(predict, messages(), frame_threads(engine))
            for done, (topic, recorded, predicted) in enumerate(results, 1):
                if isinstance(predicted, str):
                    broken.add(topic, recorded, predicted)
                else:
                    outputs.write(topic, recorded, predicted)
                if progress:
                    progress(f"predicting {source.name}", done, max(done, total))
            if not outputs.connections:
                raise UserError(next(iter(broken.lines()), f"{source}: its topics of images have no messages"))
    return BagResult(folder, done - broken.count, broken.lines(), time.perf_counter() - started)


def is_own_bag(folder: Path) -> bool:
    """Whether `predict_bag` wrote a folder, and nothing was put into it since.

    Example:
        >>> is_own_bag(Path("/"))
        False
    """
    with suppress(OSError, ValueError):
        if {file.name for file in folder.iterdir()} == {METADATA, f"{folder.name}.mcap"}:
            return re.search(rf"(?m)^ +{METADATA_KEY}: ", read_text(folder / METADATA)) is not None
    return False


class _Broken:
    """The images that cannot be predicted: their number and the first of each topic."""

    def __init__(self, source: Path) -> None:
        self._source, self._first, self._counts = source, dict[str, tuple[int, str]](), dict[str, int]()

    def add(self, topic: str, recorded: int, why: str) -> None:
        self._first.setdefault(topic, (recorded, why))
        self._counts[topic] = self._counts.get(topic, 0) + 1

    @property
    def count(self) -> int:
        return sum(self._counts.values())

    def lines(self) -> list[str]:
        return [
            f"{self._source}: {self._counts[topic]} images of {topic} cannot be predicted, the first at "
            f"{recorded / 1e9:.3f} s: {why}"
            for topic, (recorded, why) in self._first.items()
        ]


class _Outputs:
    """The topics of the written bag, which are made at the first image of a topic."""

    def __init__(self, writer: Any, store: Any) -> None:
        self._writer, self._store = writer, store
        self.connections: dict[str, Any] = {}

    def write(self, topic: str, recorded: int, predicted: Predicted) -> None:
        """Write the messages of an image; the labels only with the first of a topic."""
        for name, (kind, data) in predicted.items():
            target, is_labels = f"{topic}/segmentation/{name}", kind == LABEL_INFO
            if is_labels and target in self.connections:
                continue
            if target not in self.connections:
                self.connections[target] = self._writer.add_connection(
                    target, kind, typestore=self._store, offered_qos_profiles=[LATCHED] if is_labels else []
                )
            self._writer.write(self.connections[target], recorded, data)


_UNLIMITED = interfaces.QosTime(0, 0)
# A player publishes the topic so that who subscribes later gets its last message too.
LATCHED = interfaces.Qos(
    history=interfaces.QosHistory.KEEP_LAST,
    depth=1,
    reliability=interfaces.QosReliability.RELIABLE,
    durability=interfaces.QosDurability.TRANSIENT_LOCAL,
    deadline=_UNLIMITED,
    lifespan=_UNLIMITED,
    liveliness=interfaces.QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=_UNLIMITED,
    avoid_ros_namespace_conventions=False,
)


@contextmanager
def _opened(source: Path) -> Iterator[tuple[Any, Callable[[bytes, str], Any]]]:
    """A bag's reader and what deserializes its messages.

    Not rosbags' `AnyReader`, which fails if the definition of any type in the bag is unusual; images' are known.
    """
    is_ros1 = source.suffix == ".bag" and source.is_file()
    stores = typesys.Stores
    store = typesys.get_typestore(stores.ROS1_NOETIC if is_ros1 else stores.ROS2_HUMBLE)
    with _reading(source):
        reader = (rosbag1 if is_ros1 else rosbag2).Reader(source)
        reader.open()
    try:
        yield reader, store.deserialize_ros1 if is_ros1 else store.deserialize_cdr
    finally:
        reader.close()


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # rosbags raises a dozen kinds of errors at damaged bags
        raise UserError(
            f"{source}: cannot be read as a ROS bag ({reason(error)}); if its recording was cut off, repair it with "
            "mcap recover, ros2 bag reindex or rosbag reindex"
        ) from error


def _image_connections(connections: Sequence[Any], source: Path, topics: Sequence[str]) -> list[Any]:
    found = [connection for connection in connections if connection.msgtype in (IMAGE, COMPRESSED)]
    names = sorted({connection.topic for connection in found})
    if not found:
        raise UserError(f"{source}: has no topic of type sensor_msgs Image or CompressedImage")
    if missing := sorted({*topics} - {*names}):
        raise UsageError(f"--topic: {missing[0]} has no images in {source}; these have: {', '.join(names)}")
    return [connection for connection in found if not topics or connection.topic in topics]


@contextmanager
def _writer(folder: Path, recipe: str) -> Iterator[Any]:
    """A writer of a bag that replaces the folder at the end."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
            unfinished = Path(temporary, folder.name)
            # The newest version that also ROS 2 Humble reads.
            writer = rosbag2.Writer(unfinished, version=8, storage_plugin=rosbag2.StoragePlugin.MCAP)
            writer.set_custom_data(METADATA_KEY, recipe)  # for `is_own_bag`
            with writer:
                yield writer
            if folder.exists():
                shutil.rmtree(folder)
            unfinished.rename(folder)
    except (OSError, OverflowError) as error:  # OverflowError: a time of recording before 1970
        raise UserError(f"{folder}: cannot be written ({reason(error)})") from error
