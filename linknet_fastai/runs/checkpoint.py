"""Checkpoints: the state of a training in a file with its digest in the name. The last two are kept."""

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
    """Write a checkpoint, with the digest of its content in the file name. All but the last two are deleted.

    Args:
        folder: the run folder.
        epochs_done: how many epochs are complete.
        batches_done: how many batches of the next epoch are done.
        state: tensors, numbers and strings, in nested dicts and lists.

    Raises:
        UserError: the file cannot be written.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> write_checkpoint(folder, 3, 0, {"weight": torch.ones(2)})
        >>> state, damaged = read_checkpoint(folder)
        >>> state["epochs_done"], state["weight"].tolist(), damaged
        (3, [1.0, 1.0], [])
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
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), damaged
        except Exception as error:  # torch raises many types of errors for damaged files
            damaged.append(f"{file}: damaged ({reason(error)}); continuing from the checkpoint before it")
    if damaged:
        raise UserError(
            f"{folder / CHECKPOINTS}: every checkpoint is damaged; start a new run, from the best weights with "
            f"--init-from {folder}"
        )
    return None, []


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
