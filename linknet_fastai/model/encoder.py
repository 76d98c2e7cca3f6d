"""The encoder of LinkNet: a timm network that returns its features, with weights from timm or a local file."""

import os
from pathlib import Path
from typing import Any

import timm
from timm.layers import make_divisible
from timm.models import is_model_in_modules, load_state_dict
from torch import nn

from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.model.card import IMAGENET_MEAN, IMAGENET_STD, Normalization

STRIDES = (4, 8, 16, 32)
RESNET_CHANNELS, RESNET_STEM = (64, 128, 256, 512), 32  # of the stages, and of the first layer of a deep stem


def encoder_normalization(name: str) -> Normalization:
    """The mean and standard deviation that timm's weights of an encoder expect images to be normalized with.

    683 of the 1826 weights of timm 1.0.31 expect others than ImageNet's.

    Args:
        name: the timm model.

    Returns:
        Mean and standard deviation of the three channels, whose values range from 0 to 1. ImageNet's if timm has no
        weights of this model.

    Example:
        >>> encoder_normalization("tf_efficientnet_lite0")
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    weights = timm.get_pretrained_cfg(name)
    return (weights.mean, weights.std) if weights else (IMAGENET_MEAN, IMAGENET_STD)


def encoder_options(name: str, width: float) -> dict[str, Any]:
    """The arguments by which timm creates a narrower or wider ResNet.

    Its stem is ResNet-D's, three 3x3 convolutions (He et al., "Bag of Tricks for Image Classification", 2019). The
    7x7 convolution to 64 channels, which timm does not narrow, would be nearly half of a network of width 0.25.

    Args:
        name: the timm model.
        width: the factor of the number of channels; 1 is the model as timm has it.

    Returns:
        The arguments for `timm.create_model`.

    Raises:
        UsageError: the model is not a ResNet.

    Example:
        >>> encoder_options("resnet18", 0.25)
        {'channels': (16, 32, 64, 128), 'stem_type': 'deep', 'stem_width': 8}
    """
    if width == 1:
        return {}
    if not is_model_in_modules(name.split(".")[0], {"resnet"}):
        raise UsageError(f"--width: timm's {name} has a single width; only ResNets, as resnet18, have others")
    channels = tuple(make_divisible(width * channels) for channels in RESNET_CHANNELS)
    return {"channels": channels, "stem_type": "deep", "stem_width": make_divisible(width * RESNET_STEM)}


def create_encoder(name: str, pretrained: bool, weights: str | Path | None = None, width: float = 1.0) -> nn.Module:
    """Create a timm encoder that returns its features.

    Args:
        name: the timm model.
        pretrained: whether to load timm's ImageNet weights, downloaded once into timm's cache.
        weights: a local checkpoint of the same timm model (.pth, .safetensors) to load instead.
        width: the factor of the number of channels, see `encoder_options`.

    Returns:
        A network that takes Bx3xHxW floats and returns a list of features, BxCxhxw.

    Raises:
        UsageError: timm has no such model, the model cannot return features, or there are no weights of this width.
        UserError: the weights are not available, or do not fit the encoder.

    Example:
        >>> create_encoder("resnet18", pretrained=False).feature_info.channels()
        [64, 64, 128, 256, 512]
    """
    if not timm.is_model(name.split(".")[0]):
        similar = timm.list_models(f"*{name[:6]}*")[:3]
        hint = f"; similar names: {', '.join(similar)}" if similar else ""
        raise UsageError(f"--encoder: timm has no model {name!r}{hint}")
    options = encoder_options(name, width)
    if options and (pretrained or weights is not None):
        raise UsageError(f"--width: timm's weights of {name} are of width 1: train from scratch with --no-pretrained")
    overlay = None
    if weights is not None:
        _check_encoder_weights(name, Path(weights))
        pretrained, overlay = True, {"file": str(weights)}
    try:
        encoder = timm.create_model(
            name, features_only=True, pretrained=pretrained, pretrained_cfg_overlay=overlay, **options
        )
    except Exception as error:  # the hub, the network and timm raise a dozen kinds of errors
        if not pretrained or overlay:
            raise unsuitable_encoder(name, error) from error
        raise UserError(
            f"--pretrained: the ImageNet weights of {name} could not be downloaded ({type(error).__name__}); go "
            "online, train from scratch with --no-pretrained, or name a local checkpoint with --encoder-weights FILE"
        ) from error
    if not pretrained:
        _activate_residual_branches(encoder)
    return encoder


def unsuitable_encoder(name: str, why: object) -> UsageError:
    """The error for an encoder that LinkNet cannot use.

    Args:
        name: the timm model.
        why: what it does instead, or the error that it raises, of which the first line is quoted.
    """
    why = str(why).split("\n")[0]
    return UsageError(f"--encoder: {name!r} does not return NCHW features at strides 4, 8, 16, 32 ({why})")


def _activate_residual_branches(encoder: nn.Module) -> None:
    """Set the weights of batch norms that timm initializes to 0, the last one of each residual branch, to 1.

    Branches that start at 0 keep very deep networks stable. A shallow network with few training frames only loses
    steps until they contribute.
    """
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)


def _check_encoder_weights(name: str, weights: Path) -> None:
    """Raise UserError for a checkpoint of which timm would silently load only a part."""
    if not os.path.isfile(weights):
        raise UserError(f"--encoder-weights: {weights}: no such file")
    try:
        state = load_state_dict(str(weights), use_ema=False, weights_only=True)
    except Exception as error:  # torch, pickle and safetensors raise half a dozen kinds of errors
        raise UserError(
            f"--encoder-weights: {weights} has no weights that can be read without running code ({reason(error)})"
        ) from error
    expected = timm.create_model(name, num_classes=0).state_dict()
    missing = [key for key, value in expected.items() if getattr(state.get(key), "shape", None) != value.shape]
    if missing:
        raise UserError(
            f"--encoder-weights: {weights} lacks {len(missing)} of {len(expected)} tensors of {name} "
            f"(first {missing[0]!r}); it must be a checkpoint of that timm model"
        )
