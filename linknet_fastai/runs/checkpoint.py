"""Checkpoints: the state of a training in a file with its digest in the name. The last two are kept."""

import io
from collections.abc import Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from fastai.learner import Learner
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from linknet_fastai.config.settings import MOST_EPOCHS
from linknet_fastai.core.errors import UserError, explain, reason
from linknet_fastai.core.files import atomic_write, check_regular

CHECKPOINTS = "checkpoints"


def _check_row(row: dict[str, float]) -> dict[str, float]:
    if missing := {"epoch", "miou", "seconds"} - row.keys():  # what is read of it; the others are only written again
        raise ValueError(f"no {min(missing)}")
    return row


def _check_rng(state: torch.Tensor) -> torch.Tensor:
    if (state.dtype, state.shape) != (torch.uint8, torch.get_rng_state().shape):
        raise ValueError("not the state of a random generator")
    return state


class _Checkpoint(BaseModel):
    """The content of a checkpoint. What depends on network and optimizer is checked by `restore_learner`."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)

    epochs_done: int = Field(ge=0, le=MOST_EPOCHS)
    batches_done: int = Field(ge=0)
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    rows: list[Annotated[dict[str, float], AfterValidator(_check_row)]]
    classes: list[str]
    data: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    smooth_loss: tuple[int, torch.Tensor | float]
    scaler: dict[str, float] | None
    torch_rng: Annotated[torch.Tensor, AfterValidator(_check_rng)]
    cuda_rng: torch.Tensor | None = None
    seconds: float

    @model_validator(mode="after")
    def _check_epochs(self) -> Self:
        if len(self.rows) != self.epochs_done:
            raise ValueError(f"{self.epochs_done} epochs, but {len(self.rows)} rows")
        return self


def write_checkpoint(folder: Path, epochs_done: int, batches_done: int, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, with the digest of its content in the file name. All but the last two are deleted.

    Args:
        folder: the run folder.
        epochs_done: how many epochs are complete.
        batches_done: how many batches of the next epoch are done.
        state: the other keys of `_Checkpoint`: tensors, numbers and strings, in nested dicts and lists.

    Raises:
        UserError: the file cannot be written.

    Example:
        ::

            write_checkpoint(Path("runs/first"), 3, 0, state)
            state, damaged = read_checkpoint(Path("runs/first"))
    """
    unnamed = folder / CHECKPOINTS / "unnamed.pt"
    with atomic_write(unnamed) as partial:
        torch.save({"epochs_done": epochs_done, "batches_done": batches_done, **state}, partial)
        with partial.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()[:16]
    name = f"epoch-{epochs_done:06d}-batch-{batches_done:08d}-{digest}.pt"
    with atomic_write(folder / CHECKPOINTS / name, durable=True) as partial:
        unnamed.replace(partial)
    for old in _checkpoints(folder)[2:]:
        old.unlink()


def read_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Read the newest checkpoint that is not damaged. Code in the file is never run.

    Args:
        folder: the run folder.

    Returns:
        The state, None if there is no checkpoint yet; a message for each newer checkpoint that is damaged.

    Raises:
        UserError: all checkpoints are damaged.

    Example:
        See `write_checkpoint`.
    """
    damaged: list[str] = []
    for file in _checkpoints(folder):
        try:
            check_regular(file)
            content = file.read_bytes()
            if sha256(content).hexdigest()[:16] != file.stem.rpartition("-")[2]:
                raise ValueError("the digest in its name does not match")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            _Checkpoint.model_validate(state)
            return state, [f"{message}; continuing from the checkpoint before it" for message in damaged]
        except ValidationError as error:
            damaged.append(f"{file}: not a checkpoint of this version ({explain(error)})")
        except Exception as error:  # torch raises many types of errors for damaged files
            damaged.append(f"{file}: damaged ({reason(error)})")
    if damaged:
        raise UserError(
            f"{damaged[0]}; every checkpoint is damaged or of another version: start a new run, from the best "
            f"weights with --init-from {folder}"
        )
    return None, []


def restore_learner(learn: Learner, state: Mapping[str, Any], folder: Path) -> None:
    """Load network and optimizer of a checkpoint into a learner.

    Args:
        learn: the learner that the run's settings describe.
        state: what `read_checkpoint` returned.
        folder: the run folder, for the message.

    Raises:
        UserError: the checkpoint is of another network or optimizer.
    """
    try:
        for name, before in state.get("settings", {}).items():
            if (now := getattr(learn.settings, name, None)) != before:
                raise ValueError(f"{name} is {now}, and was {before}")
        learn.model.load_state_dict(state["model"])
        learn.model.to(learn.dls.device)
        learn.create_opt()
        learn.opt.load_state_dict(state["optimizer"])
        for weight, values in learn.opt.opt.state.items():  # torch does not compare shapes
            if any(getattr(value, "shape", ()) not in ((), weight.shape) for value in values.values()):
                raise ValueError("optimizer: its state has other shapes than the weights")
    except Exception as error:  # torch raises many types of errors
        raise UserError(
            f"{folder}: the checkpoint does not fit the network and optimizer of run.toml ({reason(error)}); start a "
            f"new run, from the best weights with --init-from {folder}"
        ) from None


def _checkpoints(folder: Path) -> list[Path]:
    """The files of all checkpoints, newest first."""
    return sorted((folder / CHECKPOINTS).glob("epoch-*.pt"), reverse=True)


def plain_numbers(value: Any) -> Any:
    """Copy nested dicts and lists with numpy scalars as Python numbers.

    fastai's schedules leave numpy floats in the state of the optimizer: `torch.load(weights_only=True)` refuses them.

    Example:
        >>> import numpy as np
        >>> plain_numbers({"mom": [np.float64(0.9)], "step": np.int64(3)})
        {'mom': [0.9], 'step': 3}
    """
    if isinstance(value, dict):
        return {key: plain_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain_numbers(item) for item in value)
    return value.item() if hasattr(value, "item") and not isinstance(value, torch.Tensor) else value
