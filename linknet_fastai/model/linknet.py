"""LinkNet (Chaurasia and Culurciello, 2017): a timm encoder, a light decoder, skips by addition."""

import os
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from fastai.layers import PixelShuffle_ICNR
from timm.models import load_state_dict
from torch import Tensor, nn

from linknet_fastai.core.errors import UsageError, UserError, reason

STRIDES = [4, 8, 16, 32]
HEAD_WIDTH = 32


class DecoderBlock(nn.Sequential):
    """1x1 convolution to a quarter of the width, x2 upsampling, 1x1 convolution to the new width.

    Takes Bx`in_channels`xHxW to Bx`out_channels`x2Hx2W, or to HxW where `upsample` is False; batch norm and
    ReLU follow each of the three layers.
    """

    def __init__(self, in_channels: int, out_channels: int, decoder: str, upsample: bool = True) -> None:
        width = max(in_channels // 4, 1)
        if upsample:
            middle = upsampling(width, width, decoder)
        else:
            middle = nn.Conv2d(width, width, 3, padding=1, bias=False)
        super().__init__(
            nn.Conv2d(in_channels, width, 1, bias=False),
            *norm_relu(width),
            middle,
            *norm_relu(width),
            nn.Conv2d(width, out_channels, 1, bias=False),
            *norm_relu(out_channels),
        )


class Head(nn.Sequential):
    """Takes Bx`in_channels`xHxW at stride 4 to logits Bx`n_classes`x4Hx4W at the size of the input."""

    def __init__(self, in_channels: int, n_classes: int, decoder: str) -> None:
        if decoder == "deconv":
            last = nn.ConvTranspose2d(HEAD_WIDTH, n_classes, 2, stride=2)
        else:
            last = upsampling(HEAD_WIDTH, n_classes, decoder)
        super().__init__(
            upsampling(in_channels, HEAD_WIDTH, decoder),
            *norm_relu(HEAD_WIDTH),
            nn.Conv2d(HEAD_WIDTH, HEAD_WIDTH, 3, padding=1, bias=False),
            *norm_relu(HEAD_WIDTH),
            last,
        )


def upsampling(in_channels: int, out_channels: int, decoder: str) -> nn.Module:
    """A bare x2 upsampling: a 3x3 full convolution or a sub-pixel convolution, without norm and activation."""
    if decoder == "deconv":
        return nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False)
    # fastai's defaults are weight norm and a ReLU before the shuffle; the latter would leave no logit below 0.
    return PixelShuffle_ICNR(in_channels, out_channels, norm_type=None, act_cls=None)


def norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    """Batch norm and ReLU."""
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


class LinkNet(nn.Module):
    """LinkNet for images of any size.

    The output of decoder block i is added to the encoder's feature of the same size, that of block 1 to the
    encoder's pooled stem, where it has one. Any input size works: where a feature has an odd side, what is
    upsampled to it is one pixel too large and loses its last row or column. An encoder whose features are not
    of the size ceil(side / stride) gets its input padded with zeros at the right and bottom to multiples of 32.

    Args:
        n_classes: how many classes are scored; there is no channel for void.
        encoder: the name of a timm model with features at strides 4, 8, 16 and 32, NCHW.
        decoder: "deconv" upsamples with ConvTranspose2d, "pixelshuffle" with fastai's PixelShuffle_ICNR.
        pretrained: whether the encoder starts from timm's ImageNet weights.
        encoder_weights: a local checkpoint of the timm model to start the encoder from instead.

    Raises:
        UsageError: the encoder is unknown or does not fit.
        UserError: the weights could not be had, or do not fit the encoder.
    """

    def __init__(
        self,
        n_classes: int,
        encoder: str = "resnet18",
        decoder: str = "deconv",
        pretrained: bool = True,
        encoder_weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if decoder not in ("deconv", "pixelshuffle"):
            raise UsageError(f"--decoder: {decoder!r} is neither 'deconv' nor 'pixelshuffle'")
        self.encoder_name, self.n_classes = encoder, n_classes
        self.encoder = create_encoder(encoder, pretrained, encoder_weights)
        # ResNets keep the pooled stem to themselves: timm's feature list starts before the pooling and goes on
        # behind the first stage, so that layer's output is picked up on the way (see `encode`).
        self.has_pooled_stem = "maxpool" in dict(self.encoder.named_children())
        stem_channels, channels, self.input_multiple = self._probe_encoder()
        finer = [stem_channels or channels[0], *channels[:-1]]
        self.blocks = nn.ModuleList(
            DecoderBlock(channels[i], finer[i], decoder, upsample=i > 0) for i in range(len(channels))
        )
        self.head = Head(finer[0], n_classes, decoder)

    def encode(self, images: Tensor) -> tuple[Tensor | None, Sequence[Tensor]]:
        """Run the encoder.

        Args:
            images: BxCxHxW floats, H and W multiples of `input_multiple`.

        Returns:
            The pooled stem (None where the encoder has none) and the features at strides 4, 8, 16, 32.
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
        """Score every pixel.

        Args:
            images: Bx3xHxW floats, normalised with ImageNet's mean and standard deviation.

        Returns:
            Logits, Bx`n_classes`xHxW, of any sign, unbounded.
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
            The channels of the pooled stem and of the features, and what multiple the sides of an input must be.
        """
        self.encoder.eval()  # the probe must leave no trace in the batch norms' running statistics
        pooled, features, fitting = self._probe(96, 64)
        if not fitting:
            shapes = [tuple(feature.shape[-2:]) for feature in features]
            raise _misfit(self.encoder_name, f"its features of a 96x64 image are {shapes}")
        try:
            _, _, takes_any_size = self._probe(65, 97)
        except UsageError:
            takes_any_size = False
        self.encoder.train()
        channels = [feature.shape[1] for feature in features]
        return (None if pooled is None else pooled.shape[1]), channels, 1 if takes_any_size else STRIDES[-1]

    def _probe(self, height: int, width: int) -> tuple[Tensor | None, Sequence[Tensor], bool]:
        """What `encode` gives for a blank image, and whether the features have the sizes that the decoder needs."""
        try:
            pooled, features = self.encode(torch.zeros(1, 3, height, width))
            shapes = [tuple(feature.shape[-2:]) for feature in features]
        except Exception as error:  # any encoder of timm may fail in its own way; it does not fit then
            raise _misfit(self.encoder_name, str(error).split("\n")[0]) from error
        return pooled, features, shapes == [(-(-height // stride), -(-width // stride)) for stride in STRIDES]


def crop(images: Tensor, height: int, width: int) -> Tensor:
    """Cut BxCxHxW at the right and bottom to BxCx`height`x`width`; as it is where it has that size."""
    return images if tuple(images.shape[-2:]) == (height, width) else images[..., :height, :width]


def create_encoder(name: str, pretrained: bool, weights: str | Path | None = None) -> nn.Module:
    """Create a timm encoder that returns its features.

    Args:
        name: the timm model.
        pretrained: whether to load timm's ImageNet weights, fetched once into its cache.
        weights: a local checkpoint of the same timm model (.pth, .safetensors), used instead.

    Raises:
        UsageError: timm has no such model, or none with features.
        UserError: the weights could not be had, or do not fit the encoder.
    """
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name[:6]}*")[:3]
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise UsageError(f"--encoder: timm has no model {name!r}{hint}")
    overlay = None
    if weights is not None:
        _check_encoder_weights(name, Path(weights))
        pretrained, overlay = True, {"file": str(weights)}
    try:
        encoder = timm.create_model(name, features_only=True, pretrained=pretrained, pretrained_cfg_overlay=overlay)
    except Exception as error:  # the hub, the network and timm raise a dozen kinds
        if not pretrained or overlay:
            raise _misfit(name, str(error).split("\n")[0]) from error
        raise UserError(
            f"--pretrained: the ImageNet weights of {name} could not be had "
            f"({type(error).__name__}); go online, name a local checkpoint with --encoder-weights FILE, "
            "or train from scratch with --no-pretrained"
        ) from error
    if not pretrained:
        _open_residual_branches(encoder)
    return encoder


def _open_residual_branches(encoder: nn.Module) -> None:
    """Set batch norms that timm starts at 0, the last of each residual branch, to 1.

    A branch at 0 keeps very deep networks stable. A shallow one with few frames to learn from only loses steps by it.
    """
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)


def _check_encoder_weights(name: str, weights: Path) -> None:
    """Refuse a checkpoint that timm would load in part only and say nothing."""
    if not os.path.isfile(weights):
        raise UserError(f"--encoder-weights: {weights}: no such file")
    try:
        state = load_state_dict(str(weights), use_ema=False, weights_only=True)
    except Exception as error:  # torch, pickle and safetensors raise half a dozen kinds
        raise UserError(
            f"--encoder-weights: {weights} holds no weights that can be read without running code ({reason(error)})"
        ) from error
    wanted = timm.create_model(name, num_classes=0).state_dict()
    missing = [key for key, value in wanted.items() if getattr(state.get(key), "shape", None) != value.shape]
    if missing:
        raise UserError(
            f"--encoder-weights: {weights} lacks {len(missing)} of {len(wanted)} tensors of {name} "
            f"(first {missing[0]!r}); it must be a checkpoint of that timm model"
        )


def _misfit(name: str, why: str) -> UsageError:
    return UsageError(f"--encoder: {name!r} does not give features at strides 4, 8, 16, 32 as NCHW ({why})")


def resample_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample logits BxCxHxW bilinearly to `size`, (height, width); floats in, floats out."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
