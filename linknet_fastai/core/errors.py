"""Errors that a user can fix. Each message is one line that names the file or option and how to fix it."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """An error that the user can fix; the command line prints its message and exits with `exit_code`.

    Args:
        message: one line that names the file or option and how to fix it.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message  # not from `args`, which fastai rewrites when a callback raises


class UsageError(UserError):
    """An invalid argument, option or recipe."""

    exit_code = 2


class Note(UserWarning):
    """What a user should know although nothing failed; the command line prints it as one line."""


def import_optional(module: str, extra: str) -> ModuleType:
    """Import a package that is installed with an extra.

    Args:
        module: the name to import.
        extra: the extra of linknet-fastai that installs it.

    Raises:
        UserError: the module cannot be imported; the message names the extra.

    Example:
        >>> import_optional("no_such_module", "video")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        linknet_fastai.core.errors.UserError: no_such_module is needed and cannot be imported ...
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module} is needed and cannot be imported ({error}): pip install 'linknet-fastai[{extra}]'"
        ) from None


def reason(error: Exception) -> str:
    r"""The message of a library's error as one line of at most 200 characters, to be quoted in a `UserError`.

    Example:
        >>> reason(ValueError("two\n  lines"))
        'two lines'
    """
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]


def explain(error: "ValidationError") -> str:
    """The first error that pydantic found, in one line: where it is, and what is wrong.

    Example:
        >>> from linknet_fastai.config.settings import Settings
        >>> try:
        ...     Settings(bs=1)
        ... except ValueError as error:
        ...     print(explain(error))
        bs: Input should be greater than or equal to 2
    """
    return explain_details(error.errors()[0])


def explain_details(first: Mapping[str, Any]) -> str:
    """One of the errors that pydantic found, in one line; see `explain`."""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")[:200]
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}"
    message = first["msg"].removeprefix("Value error, ")[:500]
    if first["loc"][-1:] == ("[key]",):
        message += "; a key of the whole file is written above the first [table]"
    return f"{where}: {message}" if where else message
