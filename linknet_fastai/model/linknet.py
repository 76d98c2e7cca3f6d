"""LinkNet (Chaurasia and Culurciello, 2017): a timm encoder, a light decoder, skip connections that add."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from fastai.layers import PixelShuffle_ICNR
from timm.layers import make_divisible
from torch import Tensor, nn

from linknet_fastai.config.settings import Decoder
from linknet_fastai.core.errors import UsageError
from linknet_fastai.model.encoder import STRIDES, create_encoder, unsuitable_encoder

HEAD_WIDTH = 32  # channels, at a width of 1


class Upsampling(NamedTuple):
    """How a decoder doubles width and height: each field builds a layer from its input and output channels."""

    inner: Callable[[int, int], nn.Module]  # in the blocks and the head; batch norm and ReLU follow
    last: Callable[[int, int], nn.Module]  # the last layer of the network, which returns logits


# fastai's defaults are weight norm, and a ReLU before the shuffle that would leave no logit below 0.
_sub_pixel_convolution = partial(PixelShuffle_ICNR, norm_type=None, act_cls=None)

# A new decoder is a line here and its name in `linknet_fastai.config.settings.Decoder`.
DECODERS: dict[str, Upsampling] = {
    "deconv": Upsampling(
        inner=partial(nn.ConvTranspose2d, kernel_size=3, stride=2, padding=1, output_padding=1, bias=False),
        last=partial(nn.ConvTranspose2d, kernel_size=2, stride=2),
    ),
    "pixelshuffle": Upsampling(inner=_sub_pixel_convolution, last=_sub_pixel_convolution),
}


class DecoderBlock(nn.Sequential):
    """1x1 convolution to a quarter of the channels, upsampling, 1x1 convolution to the new number of channels.

    Batch norm and ReLU follow each of the three layers. Takes BxCxHxW and returns Bx`out_channels`x2Hx2W.

    Args:
        in_channels: C.
        out_channels: of the result.
        upsampling: doubles height and width; None keeps them, with a 3x3 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, upsampling: Upsampling | None) -> None:
        width = max(in_channels // 4, 1)
        # Created first: the order in which layers draw their initial weights decides what a seed gives.
        middle = upsampling.inner(width, width) if upsampling else nn.Conv2d(width, width, 3, padding=1, bias=False)
        super().__init__(
            *norm_relu(nn.Conv2d(in_channels, width, 1, bias=False), width),
            *norm_relu(middle, width),
            *norm_relu(nn.Conv2d(width, out_channels, 1, bias=False), out_channels),
        )


class Head(nn.Sequential):
    """Upsampling, 3x3 convolution, upsampling to logits. Takes BxCxHxW and returns Bx`n_classes`x4Hx4W.

    Batch norm and ReLU follow the first two layers.

    Args:
        in_channels: C.
        n_classes: channels of the logits.
        upsampling: doubles height and width, twice.
        hidden: channels in between.
    """

    def __init__(self, in_channels: int, n_classes: int, upsampling: Upsampling, hidden: int = HEAD_WIDTH) -> None:
        last = upsampling.last(hidden, n_classes)  # created first, as in `DecoderBlock`
        super().__init__(
            *norm_relu(upsampling.inner(in_channels, hidden), hidden),
            *norm_relu(nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), hidden),
            last,
        )


def norm_relu(layer: nn.Module, channels: int) -> tuple[nn.Module, ...]:
    """A layer, the batch norm of its output channels, and ReLU."""
    return layer, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


class LinkNet(nn.Module):
    """LinkNet: encoder, four decoder blocks and head, joined by skip connections that add.

    The output of each decoder block is added to the encoder feature of the same size, that of block 1 to the pooled
    stem if the encoder has one. The network has no channel for void.

    Any input size is accepted, and the logits have the size of the input. If a feature has an odd side, the output of
    the decoder block is one pixel larger and loses its last row or column. If an encoder rounds odd sizes down, its
    input is padded with zeros at the right and bottom to multiples of 32 and the logits are cropped.

    Args:
        n_classes: the number of classes, which is the number of output channels.
        encoder: name of a timm model that returns NCHW features at strides 4, 8, 16 and 32.
        decoder: how the decoder upsamples: "deconv" with transposed convolutions, "pixelshuffle" with sub-pixel
            convolutions (fastai's PixelShuffle_ICNR).
        pretrained: whether the encoder starts with timm's ImageNet weights.
        encoder_weights: a local checkpoint of the timm model to start the encoder with instead.
        width: the factor of all numbers of channels, of the encoder (a ResNet, see `encoder_options`) and the decoder

    Raises:
        UsageError: the decoder is unknown, or the encoder is unknown, does not fit, or does not have this width.
        UserError: the weights are not available, or do not fit the encoder.

    Example:
        >>> model = LinkNet(n_classes=11, encoder="resnet18", decoder="deconv", pretrained=False)
        >>> model(torch.zeros(2, 3, 65, 97)).shape
        torch.Size([2, 11, 65, 97])
    """

    def __init__(
        self,
        n_classes: int,
        encoder: str = "resnet18",
        decoder: str = "deconv",
        pretrained: bool = True,
        encoder_weights: str | Path | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if decoder not in DECODERS:
            raise UsageError(f"--decoder: {decoder!r} is not one of {', '.join(get_args(Decoder))}")
        upsampling = DECODERS[decoder]
        self.encoder_name, self.n_classes = encoder, n_classes
        self.encoder = create_encoder(encoder, pretrained, encoder_weights, width)
        # timm's features do not include the pooled stem of a ResNet, so `encode` runs the layers one by one.
        self.has_pooled_stem = "maxpool" in dict(self.encoder.named_children())
        stem_channels, channels, self.input_multiple = self._probe_encoder()
        finer = [stem_channels or channels[0], *channels[:-1]]
        self.blocks = nn.ModuleList(
            DecoderBlock(channels[i], finer[i], upsampling if i > 0 else None) for i in range(len(channels))
        )
        self.head = Head(finer[0], n_classes, upsampling, make_divisible(width * HEAD_WIDTH))

    def encode(self, images: Tensor) -> tuple[Tensor | None, Sequence[Tensor]]:
        """Run the encoder.

        Args:
            images: Bx3xHxW floats, H and W multiples of `input_multiple`.

        Returns:
            The pooled stem (None if the encoder has none) and the features at strides 4, 8, 16, 32.
        """
        if not self.has_pooled_stem:
            return None, self.encoder(images)[-len(STRIDES) :]
        pooled, features, feature = None, [], images
        for name, layer in self.encoder.named_children():
            feature = layer(feature)
            if name == "maxpool":
                pooled = feature
            elif pooled is not None:
                features.append(feature)
        return pooled, features

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of every pixel.

        Args:
            images: Bx3xHxW floats, normalized with the encoder's mean and standard deviation.

        Returns:
            Logits, Bx`n_classes`xHxW floats of any sign, unbounded.
        """
        height, width = images.shape[-2:]
        bottom, right = -height % self.input_multiple, -width % self.input_multiple
        if bottom or right:
            images = F.pad(images, (0, right, 0, bottom))
        pooled, features = self.encode(images)
        skips = [pooled, *features[:-1]]
        decoded = features[-1]
        for block, skip in zip(reversed(self.blocks), reversed(skips), strict=True):
            decoded = block(decoded)
            if skip is not None:
                decoded = crop(decoded, *skip.shape[-2:]) + skip
        return crop(self.head(decoded), height, width)

    @torch.no_grad()
    def _probe_encoder(self) -> tuple[int | None, list[int], int]:
        """Run the encoder on small images.

        Returns:
            The channels of the pooled stem and of the features, and the number that input sides must be multiples of.
        """
        self.encoder.eval()  # so that the running statistics of the batch norms stay as they are
        pooled, features = self._probe(96, 64)
        try:
            self._probe(65, 97)
            multiple = 1
        except UsageError:
            multiple = STRIDES[-1]
        self.encoder.train()
        return None if pooled is None else pooled.shape[1], [feature.shape[1] for feature in features], multiple

    def _probe(self, height: int, width: int) -> tuple[Tensor | None, Sequence[Tensor]]:
        """What `encode` returns for a blank image; raises UsageError unless the sizes are those the decoder needs."""
        try:
            pooled, features = self.encode(torch.zeros(1, 3, height, width))
            sizes = [tuple(feature.shape[-2:]) for feature in features]
        except Exception as error:  # timm's encoders fail in many ways
            raise unsuitable_encoder(self.encoder_name, error) from error
        if sizes != [(-(-height // stride), -(-width // stride)) for stride in STRIDES]:
            why = f"their (height, width) for a {width}x{height} image is {sizes}"
            raise unsuitable_encoder(self.encoder_name, why)
        return pooled, features


def crop(images: Tensor, height: int, width: int) -> Tensor:
    """Remove rows at the bottom and columns at the right: BxCxHxW to BxCx`height`x`width`.

    Example:
        >>> crop(torch.zeros(1, 3, 66, 98), 65, 97).shape
        torch.Size([1, 3, 65, 97])
    """
    return images if tuple(images.shape[-2:]) == (height, width) else images[..., :height, :width]


def resample_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits bilinearly.

    Args:
        logits: BxCxHxW floats.
        size: (height, width) of the result.

    Example:
        >>> resample_logits(torch.zeros(1, 11, 360, 480), (720, 960)).shape
        torch.Size([1, 11, 720, 960])
    """
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
