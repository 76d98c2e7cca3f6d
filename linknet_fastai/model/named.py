"""Where a model that a user names is: a path, a model of this package, or one on Hugging Face. Imports no torch."""

import os
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from linknet_fastai.config.recipe import recipe_names
from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.text import did_you_mean
from linknet_fastai.model.card import METADATA_KEY, ModelCard, parse_card

RUN_MODEL = "model.safetensors"  # in a run folder, and in a repository on Hugging Face
ON_HUB = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)")  # a `Path` has a single slash there


def model_folder() -> Path:
    """The folder of the models in this package: NAME.safetensors, and NAME.md on its data, terms and scores."""
    return Path(__file__).parents[1] / "models"


def model_names() -> list[str]:
    """The names of the models in this package.

    Example:
        >>> "street" in model_names()
        False
    """
    return sorted(file.stem for file in model_folder().glob("*.safetensors"))


def find_model(model: str | os.PathLike[str]) -> Path:
    """The path of a model: an existing path comes first, then the name of a model in this package.

    Args:
        model: a path, a name, or hf://USER/NAME, whose model.safetensors is downloaded once.

    Returns:
        The path; `model` itself if there is nothing of that name, which `no_such_model` reports.

    Raises:
        UserError: it cannot be downloaded.

    Example:
        >>> find_model("runs/camvid").as_posix()
        'runs/camvid'
    """
    path = Path(model)
    if os.path.exists(path):
        return path
    if on_hub := ON_HUB.fullmatch(path.as_posix()):
        return _download(on_hub[1])
    return model_folder() / f"{path}.safetensors" if str(path) in model_names() else path


def folder_for(model: Path) -> Path:
    """Where files that are made of a model are written: its folder, for a model by name the current one.

    Example:
        >>> folder_for(Path("camvid-m")).as_posix()
        '.'
    """
    if model.is_dir():
        return model
    return model.parent if model.exists() else Path()


def no_such_model(model: str | os.PathLike[str]) -> UserError:
    """The error for a model that does not exist."""
    name = str(model)
    hint = f"; {name} is a recipe: `fit {name}` trains a model" if name in recipe_names() else ""
    return UserError(f"{name}: no such model{hint or did_you_mean(name, model_names())}")


def shipped_card(name: str) -> ModelCard:
    """The card of a model in this package.

    Raises:
        UserError: the file is damaged.
    """
    file = model_folder() / f"{name}.safetensors"
    try:
        with safe_open(file, framework="np") as opened:
            return parse_card((opened.metadata() or {}).get(METADATA_KEY), file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: damaged, or not a safetensors file ({reason(error)})") from None


def _download(repository: str) -> Path:
    import huggingface_hub  # installed with timm; slow to import

    try:
        return Path(huggingface_hub.hf_hub_download(repository, RUN_MODEL))
    except Exception as error:  # of the network, the server, the disk: a dozen types
        raise UserError(
            f"hf://{repository}: {RUN_MODEL} cannot be downloaded ({reason(error)}); without a network give the path "
            "of a file"
        ) from None
