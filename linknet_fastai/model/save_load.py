"""Models as files: a `.safetensors` that says in its metadata all that prediction needs, or a trusted `.pkl`."""

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
from linknet_fastai.model.card import METADATA_KEY, ModelCard, parse_card
from linknet_fastai.model.linknet import LinkNet

RUN_MODEL = "model.safetensors"


def save_model(model: LinkNet, card: ModelCard, file: Path) -> None:
    """Write weights and card, whole or not at all."""
    # safetensors refuses channels_last tensors, and metadata that are not strings.
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_write(file, durable=True) as partial:
        # Not by its `save_file`, whose files their owner alone may read.
        partial.write_bytes(save(tensors, {"format": "pt", METADATA_KEY: card.model_dump_json()}))


def load_model(path: str | Path, trust_pickle: bool = False) -> tuple[LinkNet, ModelCard]:
    """Read a model.

    Args:
        path: a run folder, a `.safetensors` of ours, or a `.pkl` of ours.
        trust_pickle: whether a `.pkl` may be loaded: unpickling runs whatever code the file holds.

    Returns:
        The network on the CPU in evaluation mode, and its card.

    Raises:
        UsageError: no model file, or a pickle without trust.
        UserError: the file is missing, damaged or not ours.
    """
    file = Path(path)
    if os.path.isdir(file):
        file = file / RUN_MODEL
        if not os.path.isfile(file):
            raise UserError(f"{path}: no {RUN_MODEL} here; is it a run folder, and has an epoch ended?")
    if not os.path.isfile(file):
        raise UserError(f"{file}: no such model")
    if file.suffix == ".pkl":
        return _load_pickle(file, trust_pickle)
    if file.suffix != ".safetensors":
        raise UsageError(f"{file}: a model is a run folder, a .safetensors or a .pkl")
    try:
        with safe_open(file, framework="pt") as opened:
            card = parse_card((opened.metadata() or {}).get(METADATA_KEY), file)
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - no mapping
            _check_encoder(card, shapes)
            tensors = {name: opened.get_tensor(name) for name in shapes}
        model = LinkNet(len(card.classes), card.encoder, card.decoder, pretrained=False)
        model.load_state_dict(tensors)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: damaged, or no safetensors file ({reason(error)})") from None
    except UsageError as error:  # of an option that nobody gave: the metadata ask for it
        raise UserError(f"{file}: metadata: {error}") from None
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{file}: weights and metadata do not fit ({reason(error)})") from None
    return model.eval(), card


def _check_encoder(card: ModelCard, shapes: Mapping[str, list[int]]) -> None:
    """Raise ValueError unless the file has the weights of its encoder.

    Checked before a network is made: the metadata may name one of billions of weights, and the file have none.
    """
    if not timm.is_model(card.encoder.split(".")[0]):
        return  # refused, and with the nearest name, when the network is made
    try:
        with torch.device("meta"):
            wanted = timm.create_model(card.encoder, features_only=True).state_dict()
    except Exception:  # one that timm can make with its weights alone, or not at all; the network says which
        return
    for name, tensor in wanted.items():
        if shapes.get(f"encoder.{name}") != list(tensor.shape):
            raise ValueError(f"encoder {card.encoder}: {name} is not there, or of another shape")


def _load_pickle(file: Path, trust_pickle: bool) -> tuple[LinkNet, ModelCard]:
    if not trust_pickle:
        raise UsageError(
            f"{file}: loading a .pkl runs whatever code it holds; evaluate and predict take it with --trust-pickle, "
            "if you trust where it comes from; else use the .safetensors"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fastai's warning says what --trust-pickle has just acknowledged
            learn = load_learner(file)
        return learn.model.eval(), learn.card
    except Exception as error:  # whatever the code in it raises
        raise UserError(f"{file}: no learner exported by linknet-fastai ({reason(error)})") from None


def initialize_from(model: LinkNet, card: ModelCard, path: str | Path) -> None:
    """Copy the weights of another model into `model`; the head is left out where the classes differ.

    Args:
        model: the network to start, in place.
        card: its card.
        path: a run folder or a `.safetensors`.

    Raises:
        UsageError: the other model has another encoder or decoder.
    """
    source, source_card = load_model(path)
    for part in ("encoder", "decoder"):
        ours, theirs = getattr(card, part), getattr(source_card, part)
        if ours != theirs:
            raise UsageError(f"--init-from: {path} has the {part} {theirs}, this model {ours}")
    state = source.state_dict()
    if source_card.class_names != card.class_names:
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
    with torch.no_grad():
        model.load_state_dict(state, strict=False)
