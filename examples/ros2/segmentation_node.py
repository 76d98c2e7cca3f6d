"""A ROS 2 node that publishes class maps of a camera's images, with the topics of `linknet-fastai predict BAG`.

    python segmentation_node.py --ros-args -p model:=export.onnx -p topic:=/front/image_raw -p below:=0.5

Parameters: `model`, a run folder or an exported file; `topic`, of sensor_msgs Image, or of CompressedImage if its
name ends with /compressed; `below`, the lowest confidence of pixels that do not become void (ROS wants a decimal
point: 1.0, not 1). Published are TOPIC/segmentation/label_info (once, latched), mask, confidence, and
overlay/compressed while it has subscribers.
"""

from array import array
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import LabelInfo, VisionClass

from linknet_fastai.core.errors import UserError
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.predict import ros

TYPES = {ros.IMAGE: Image, ros.COMPRESSED: CompressedImage, ros.LABEL_INFO: LabelInfo, ros.VISION_CLASS: VisionClass}
# Of a camera only the newest image counts: what arrives during a prediction is dropped, except for the last.
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class SegmentationNode(Node):
    def __init__(self) -> None:
        super().__init__("linknet_segmentation")
        model = self.declare_parameter("model", "").value
        topic = self.declare_parameter("topic", "image").value
        below = self.declare_parameter("below", 0.0).value
        engine = open_engine(Path(model), frames=1)
        if below:
            engine.require_confidence()
        self.segmenter = ros.Segmenter(engine, TYPES, partial(array, "B"), below or None)
        self.labels = self.create_publisher(LabelInfo, f"{topic}/segmentation/label_info", LATCHED)
        kinds = {"mask": Image, "overlay/compressed": CompressedImage}
        if engine.has_confidence:
            kinds["confidence"] = Image
        # Reliable, which the layer's best-effort subscriptions take too.
        self.outputs = {
            name: self.create_publisher(kind, f"{topic}/segmentation/{name}", 1) for name, kind in kinds.items()
        }
        self.are_labels_published = False
        kind = CompressedImage if topic.endswith("/compressed") else Image
        self.create_subscription(kind, topic, self.on_image, NEWEST)

    def on_image(self, message: Any) -> None:
        overlays = self.outputs["overlay/compressed"].get_subscription_count() > 0
        try:
            messages = self.segmenter.messages(message, message.header, overlays)
        except UserError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        if not self.are_labels_published:
            self.labels.publish(self.segmenter.label_info(message.header))
            self.are_labels_published = True
        for name, each in messages.items():
            self.outputs[name].publish(each)


def main() -> None:
    rclpy.init()
    try:
        rclpy.spin(SegmentationNode())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except UserError as error:
        raise SystemExit(str(error)) from None
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
