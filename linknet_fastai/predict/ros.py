"""ROS messages of predictions, for bags and for a live node. Imports no ROS: it is given the classes of messages.

The messages are those that nav2's semantic_segmentation_layer takes (README of
github.com/kiwicampus/semantic_segmentation_layer): mask and confidence are mono8 with the stamp of the image, names
and ids of the classes are a `vision_msgs/LabelInfo` without void, whose pixels the layer then skips.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.images import MAX_PIXELS, READERS, to_rgb
from linknet_fastai.engines.engine import Engine
from linknet_fastai.predict.images import without_uncertain
from linknet_fastai.predict.overlay import overlay

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
LABEL_INFO, VISION_CLASS = "vision_msgs/msg/LabelInfo", "vision_msgs/msg/VisionClass"
# The encodings of sensor_msgs/image_encodings.hpp that are read, with Pillow's names of the same order of bytes.
# Not 8UC3, whose order of colors is not defined.
ENCODINGS = {"rgb8": "RGB", "bgr8": "BGR", "rgba8": "RGBX", "bgra8": "BGRX", "mono8": "L"}


@dataclass(frozen=True)
class Segmenter:
    """Predicts the images in ROS messages and builds the messages of the results.

    Args:
        engine: the model.
        types: the classes of messages by their names, as in "sensor_msgs/msg/Image", which take fields by keyword.
        array: converts bytes to what these classes have as uint8[].
        below: pixels with a lower confidence than this, 0 to 1, become void; None keeps all.
        opacity: opacity of the colors in overlays, 0 to 1.

    Example:
        Of rosbags, whose arrays are numpy's::

            store = get_typestore(Stores.ROS2_JAZZY)
            segmenter = Segmenter(engine, store.types, lambda data: np.frombuffer(data, np.uint8))
            messages = segmenter.messages(image, image.header)
            print(messages["mask"].encoding)
    """

    engine: Engine
    types: Mapping[str, Callable[..., Any]]
    array: Callable[[bytes], Any]
    below: float | None = None
    opacity: float = 0.5

    def messages(self, message: Any, header: Any, overlays: bool = True) -> dict[str, Any]:
        """Predict the image in a message.

        Args:
            message: a `sensor_msgs` Image or CompressedImage of any ROS.
            header: the header of the results, with the stamp and frame of the image.
            overlays: whether to draw an overlay.

        Returns:
            By the last part of their topic: `mask`, mono8 with the recipe's class ids; `confidence`, mono8 with 255
            for certain, if the engine has it; `overlay/compressed`, a JPEG.

        Raises:
            UserError: the image is damaged, or its encoding is not one of `ENCODINGS`, or the network fails.
        """
        image = decode(message)
        if self.engine.has_confidence:
            channels, confidence = self.engine.predict_with_confidence(image)
            channels = without_uncertain(channels, confidence, self.below)
        else:
            channels, confidence = self.engine.predict_channels(image), None
        ids = np.full(256, self.engine.card.void.id, np.uint8)
        ids[: len(self.engine.class_ids)] = self.engine.class_ids
        messages = {"mask": self._mono8(ids[channels], header)}
        if confidence is not None:
            messages["confidence"] = self._mono8(confidence, header)
        if overlays:
            drawn = io.BytesIO()
            overlay(image, channels, self.engine.card, self.opacity).save(drawn, "JPEG", quality=90)
            data = self.array(drawn.getvalue())
            messages["overlay/compressed"] = self.types[COMPRESSED](header=header, format="jpeg", data=data)
        return messages

    def label_info(self, header: Any) -> Any:
        """The message with the names and ids of the classes, to be published once, latched, before the first mask."""
        entries = [
            self.types[VISION_CLASS](class_id=entry.id, class_name=entry.name) for entry in self.engine.card.classes
        ]
        return self.types[LABEL_INFO](header=header, class_map=entries, threshold=float(self.below or 0))

    def _mono8(self, values: np.ndarray, header: Any) -> Any:
        height, width = values.shape
        return self.types[IMAGE](
            header=header,
            height=height,
            width=width,
            encoding="mono8",
            is_bigendian=0,
            step=width,
            data=self.array(values.tobytes()),
        )


def decode(message: Any) -> Image.Image:
    """The image in a message as RGB, as the camera gave it: an EXIF orientation does not turn it.

    Args:
        message: a `sensor_msgs` Image or CompressedImage.

    Raises:
        UserError: its encoding is not one of `ENCODINGS`, or its data are damaged.

    Example:
        >>> from types import SimpleNamespace as Message
        >>> blue = np.frombuffer(bytes([255, 0, 0]), np.uint8)
        >>> decode(Message(height=1, width=1, encoding="bgr8", step=3, data=blue)).getpixel((0, 0))
        (0, 0, 255)
    """
    data = message.data.tobytes()
    if not hasattr(message, "encoding"):
        return _decompress(data, message.format)
    if (order := ENCODINGS.get(message.encoding)) is None:
        raise UserError(
            f"its encoding is {message.encoding}, not one of {', '.join(ENCODINGS)}; ROS's image_proc converts it"
        )
    width, height, step = message.width, message.height, message.step
    # Before Pillow allocates what a damaged header says.
    if not (0 < width * len(order) <= step and 0 < height * step <= len(data)):
        raise UserError(f"it has {len(data)} bytes, which are not {width}x{height} pixels of {message.encoding}")
    mode = "L" if order == "L" else "RGB"
    return to_rgb(Image.frombytes(mode, (width, height), data, "raw", order, step, 1))


def _decompress(data: bytes, named: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=READERS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} is more than {MAX_PIXELS / 1e6:g} million pixels")
            image.load()
            if image.mode.startswith(("I", "F")):  # of a depth camera, as in 16UC1; png compressed
                raise ValueError(f"its pixels have the mode {image.mode} of depths, not of colors")
            return to_rgb(image)
    except Exception as error:  # Pillow's readers raise a dozen kinds of errors for damaged files
        raise UserError(f"its data of format {named[:50]!r} cannot be decoded ({reason(error)})") from None
