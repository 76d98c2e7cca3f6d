"""What a user can mend: every message is one line that names the file or option and the mend."""

import importlib
from types import ModuleType


class UserError(Exception):
    """Something on the user's side is off; the command line prints the message and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message  # fastai rewrites the arguments of what a callback raises


class UsageError(UserError):
    """A wrong argument, option or recipe."""

    exit_code = 2


def import_optional(module: str, extra: str) -> ModuleType:
    """Import an optional package.

    Raises:
        UserError: it is not installed; `extra` is what brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module} is needed and cannot be imported ({error}): pip install 'linknet-fastai[{extra}]'"
        ) from None


def reason(error: Exception) -> str:
    """What an error of some library says, in one line of bounded length."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(said.split())[:200]
