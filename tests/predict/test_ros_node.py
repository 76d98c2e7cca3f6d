"""The node in examples/ros2, with stand-ins for rclpy that give it rosbags' messages: no ROS is installed here."""

import importlib.util
import sys
from array import array
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.predict.bags import VISION_MSGS

NODE = Path(__file__).parents[2] / "examples/ros2/segmentation_node.py"
STORE = get_typestore(Stores.ROS2_JAZZY)
for name, text in VISION_MSGS.items():
    STORE.register(get_types_from_msg(text, name))


def message_class(name: str) -> Any:
    """A class of rclpy's: fields by keyword alone, uint8[] as array('B'), which is rosbags' own otherwise."""

    def build(**fields: Any) -> Any:
        if "data" in fields:
            assert isinstance(fields["data"], array)
            assert fields["data"].typecode == "B"  # all else is checked byte by byte, which takes seconds
            fields["data"] = np.frombuffer(fields["data"], np.uint8)
        return STORE.types[name](**fields)

    return build


class Publisher:
    def __init__(self, kind: Any, topic: str, profile: Any) -> None:
        self.topic, self.profile, self.subscribers = topic, profile, 0

    def publish(self, message: Any) -> None:
        STORE.serialize_cdr(message, message.__msgtype__)  # every field has its type and range
        Node.published.append((self.topic, message))

    def get_subscription_count(self) -> int:
        return self.subscribers


class Node:
    parameters: dict[str, Any]
    published: list[tuple[str, Any]]
    errors: list[str]

    def __init__(self, name: str) -> None:
        self.publishers_by_topic: dict[str, Publisher] = {}

    def declare_parameter(self, name: str, default: Any) -> Any:
        return SimpleNamespace(value=self.parameters.get(name, default))

    def create_publisher(self, kind: Any, topic: str, profile: Any) -> Publisher:
        return self.publishers_by_topic.setdefault(topic, Publisher(kind, topic, profile))

    def create_subscription(self, kind: Any, topic: str, callback: Any, profile: Any) -> None:
        self.subscription = (topic, callback, profile)

    def get_logger(self) -> Any:
        return SimpleNamespace(error=lambda text, **_: self.errors.append(text))


@pytest.fixture
def node(model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    modules = {
        "rclpy": {},
        "rclpy.executors": {"ExternalShutdownException": RuntimeError},
        "rclpy.node": {"Node": Node},
        "rclpy.qos": {
            "DurabilityPolicy": SimpleNamespace(TRANSIENT_LOCAL="transient local"),
            "ReliabilityPolicy": SimpleNamespace(BEST_EFFORT="best effort"),
            "QoSProfile": SimpleNamespace,
        },
        "sensor_msgs.msg": {name: message_class(f"sensor_msgs/msg/{name}") for name in ("Image", "CompressedImage")},
        "vision_msgs.msg": {name: message_class(f"vision_msgs/msg/{name}") for name in ("LabelInfo", "VisionClass")},
    }
    for name, contents in modules.items():
        (module := ModuleType(name)).__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    Node.parameters = {"model": str(model), "topic": "/front", "below": 0.3}
    Node.published, Node.errors = [], []
    spec = importlib.util.spec_from_file_location("segmentation_node", NODE)
    assert spec
    assert spec.loader
    spec.loader.exec_module(loaded := importlib.util.module_from_spec(spec))
    return loaded.SegmentationNode()


def camera_image(pixels: np.ndarray, encoding: str = "rgb8") -> Any:
    stamp = STORE.types["builtin_interfaces/msg/Time"](sec=7, nanosec=9)
    header = STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
    height, width, _ = pixels.shape
    data = array("B", pixels.tobytes())
    return SimpleNamespace(header=header, height=height, width=width, encoding=encoding, step=3 * width, data=data)


def test_the_node_publishes_labels_once_and_the_maps_of_each_image(node: Any, model: Path) -> None:
    topic, on_image, profile = node.subscription
    assert (topic, profile.depth, profile.reliability) == ("/front", 1, "best effort")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    on_image(camera_image(pixels))
    node.publishers_by_topic["/front/segmentation/overlay/compressed"].subscribers = 1
    on_image(camera_image(pixels))
    on_image(camera_image(pixels, "bayer_rggb8"))
    names = [topic.removeprefix("/front/segmentation/") for topic, _ in Node.published]
    assert names == ["label_info", "mask", "confidence", "mask", "confidence", "overlay/compressed"]
    assert node.publishers_by_topic["/front/segmentation/label_info"].profile.durability == "transient local"
    (error,) = Node.errors
    assert error.startswith("its encoding is bayer_rggb8")

    labels, mask, certain = (message for _, message in Node.published[:3])
    engine = open_engine(model)
    assert [(each.class_id, each.class_name) for each in labels.class_map] == [
        (each.id, each.name) for each in engine.card.classes
    ]
    channels, confidence = engine.predict_with_confidence(pixels)
    expected = np.where(confidence < 0.3 * 255, engine.card.void.id, engine.class_ids[channels])
    assert np.array_equal(mask.data.reshape(48, 64), expected)
    assert np.array_equal(certain.data.reshape(48, 64), confidence)
    assert [(each.header.stamp.sec, each.header.stamp.nanosec, each.header.frame_id) for each in (mask, certain)] == [
        (7, 9, "camera")
    ] * 2
    assert (mask.encoding, mask.step) == ("mono8", 64)
