"""Checkpoints: the state of a training, its digest in the file's name, the last two kept."""

import io
from collections.abc import Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch

from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.files import atomic_write, check_regular

CHECKPOINTS = "checkpoints"


def write_checkpoint(folder: Path, epochs_done: int, batches_done: int, state: Mapping[str, Any]) -> None:
    """Write the state of a training, the digest of the content in the file's name.

    The checkpoint before it is kept, older ones go.

    Args:
        folder: the run folder.
        epochs_done: how many epochs have ended.
        batches_done: how many batches of the next one are done.
        state: tensors, numbers and texts.
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
    """Read the newest checkpoint that is whole. No code in the file is run.

    Returns:
        The state, None where there is no checkpoint yet; a line for each newer one that is damaged.

    Raises:
        UserError: all are damaged.
    """
    damaged = []
    for file in _checkpoints(folder):
        try:
            check_regular(file)
            content = file.read_bytes()
            if sha256(content).hexdigest()[:16] != file.stem.rpartition("-")[2]:
                raise ValueError("its digest is not that in its name")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), damaged
        except Exception as error:  # torch's reader raises a dozen kinds at damaged files
            damaged.append(f"{file}: damaged ({reason(error)}); going on from the one before")
    if damaged:
        raise UserError(
            f"{folder / CHECKPOINTS}: every checkpoint is damaged; train anew, or from the best weights with "
            f"--init-from {folder}"
        )
    return None, []


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted((folder / CHECKPOINTS).glob("epoch-*.pt"), reverse=True)


def plain_numbers(value: Any) -> Any:
    """Copy a nest of dicts and lists with numpy scalars as Python numbers, so that it loads with weights_only.

    fastai's schedules leave numpy floats in the optimizer's state.
    """
    if isinstance(value, dict):
        return {key: plain_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain_numbers(item) for item in value)
    return value.item() if hasattr(value, "item") and not isinstance(value, torch.Tensor) else value
