"""Models as files: a `.safetensors` whose metadata is enough to predict with it, or a trusted `.pkl`."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from fastai.learner import load_learner
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.core.files import atomic_write
from linknet_fastai.model.card import METADATA_KEY, ModelCard, check_card, parse_card
from linknet_fastai.model.encoder import encoder_options
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.named import RUN_MODEL as RUN_MODEL
from linknet_fastai.model.named import find_model, no_such_model


def save_model(model: LinkNet, card: ModelCard, file: Path) -> None:
    """Write weights and card as a `.safetensors`, completely or not at all.

    Args:
        model: the network, on any device.
        card: its card.
        file: the file to write.

    Raises:
        UserError: the file cannot be written.

    Example:
        ::

            model = LinkNet(11, pretrained=False)
            save_model(model, ModelCard.of(load_recipe("camvid"), (480, 360)), Path("model.safetensors"))
    """
    # safetensors raises an error for channels_last tensors, and for metadata that are not strings.
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_write(file, durable=True) as partial:
        # Not with `save_file`, which writes files that only their owner can read.
        partial.write_bytes(save(tensors, {"format": "pt", METADATA_KEY: card.model_dump_json()}))


def load_model(path: str | Path, trust_pickle: bool = False) -> tuple[LinkNet, ModelCard]:
    """Load a model.

    Args:
        path: a run folder, or a `.safetensors` or `.pkl` written by this package; or what `find_model` finds by name.
        trust_pickle: whether a `.pkl` may be loaded: unpickling runs any code in the file.

    Returns:
        The network on the CPU in evaluation mode, and its card.

    Raises:
        UsageError: the file is not a model, or a pickle and `trust_pickle` is False.
        UserError: the file is missing, damaged, or was not written by this package.

    Example:
        ::

            model, card = load_model("runs/street")
            logits = model(torch.zeros(1, 3, 360, 480))  # 1xCx360x480, in the order of card.class_names
    """
    path = find_model(path)
    file = path
    if os.path.isdir(file):
        file = file / RUN_MODEL
        if not os.path.isfile(file):
            raise UserError(f"{path}: no {RUN_MODEL} in this folder; is it a run folder, and has an epoch ended?")
    if not os.path.isfile(file):
        raise no_such_model(file)
    if file.suffix == ".pkl":
        return _load_pickle(file, trust_pickle)
    if file.suffix != ".safetensors":
        raise UsageError(f"{file}: a model is a run folder, a .safetensors or a .pkl")
    try:
        file.open("rb").close()  # safetensors says of a file that may not be read that there is none
        with safe_open(file, framework="pt") as opened:
            card = parse_card((opened.metadata() or {}).get(METADATA_KEY), file)
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - not a dict
            _check_encoder(card, shapes)
            tensors = {name: opened.get_tensor(name) for name in shapes}
        model = LinkNet(len(card.classes), card.encoder, card.decoder, pretrained=False, width=card.width)
        model.load_state_dict(tensors)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: damaged, or not a safetensors file ({reason(error)})") from None
    except UsageError as error:  # names an option, but the value comes from the metadata
        raise UserError(f"{file}: metadata: {error}") from None
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{file}: weights and metadata do not fit ({reason(error)})") from None
    return model.eval(), card


def _check_encoder(card: ModelCard, shapes: Mapping[str, list[int]]) -> None:
    """Raise ValueError unless the file has the weights of its encoder.

    Checked before the network is created: the metadata may name one with billions of weights that the file lacks.
    """
    if not timm.is_model(card.encoder.split(".")[0]):
        return  # creating the network raises an error with similar names
    try:
        options = encoder_options(card.encoder, card.width)
        with torch.device("meta"):
            expected = timm.create_model(card.encoder, features_only=True, **options).state_dict()
    except Exception:  # some cannot be created on the meta device, or not at all, which creating the network reports
        return
    for name, tensor in expected.items():
        if shapes.get(f"encoder.{name}") != list(tensor.shape):
            raise ValueError(f"encoder {card.encoder}: {name} is missing or has another shape")


def _load_pickle(file: Path, trust_pickle: bool) -> tuple[LinkNet, ModelCard]:
    if not trust_pickle:
        raise UsageError(
            f"{file}: loading a .pkl runs any code in it; use the .safetensors, or, if you trust the origin of the "
            "file, give evaluate or predict --trust-pickle"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fastai warns of what --trust-pickle has just confirmed
            learn = load_learner(file)
        return learn.model.eval(), check_card(vars(learn.card), file)  # unpickling checks nothing
    except UserError:
        raise
    except Exception as error:  # any code in the file may raise any error
        raise UserError(f"{file}: not a learner exported by linknet-fastai ({reason(error)})") from None


def initialize_from(model: LinkNet, card: ModelCard, path: str | Path) -> ModelCard:
    """Copy the weights of another model into `model`, all but those of the head if the classes differ.

    Args:
        model: the network to initialize in place.
        card: its card.
        path: a run folder or a `.safetensors`.

    Returns:
        The card, with the mean and standard deviation that the other model expects images to be normalized with.

    Raises:
        UsageError: the other model has another encoder, decoder or width.
        UserError: the other model cannot be loaded.

    Example:
        ::

            card = initialize_from(model, card, "runs/cityscapes")
    """
    source, source_card = load_model(path)
    for part in ("encoder", "decoder", "width"):
        own, other = getattr(card, part), getattr(source_card, part)
        if own != other:
            raise UsageError(f"--init-from: {path} has the {part} {other}, this model {own}")
    state = source.state_dict()
    if source_card.class_names != card.class_names:
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
    model.load_state_dict(state, strict=False)
    return card.model_copy(update={"mean": source_card.mean, "std": source_card.std})
