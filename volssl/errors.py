"""What goes wrong through no fault of the program: one line for a person, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend. The message is one line: which key or file, what is wrong, what to do.

    The command line prints it and exits with ``exit_code``.
    """

    exit_code = 2


class ConfigError(UserError):
    """A configuration that cannot run. The message may hold several lines, one per fault."""


class DataError(UserError):
    """The only exception that leaves the data door.

    Args:
        code: a reason code from the table in ``docs/data.md``, for example ``gap``.
        message: what is wrong and what to do, for a person.
        where: the file or folder.
    """

    def __init__(self, code: str, message: str, where: str = "") -> None:
        super().__init__(code, message, where)
        self.code, self.message, self.where = code, message, where

    def __str__(self) -> str:
        return f"{self.where}: {self.code}: {self.message}" if self.where else f"{self.code}: {self.message}"


class RunError(UserError):
    """A run that cannot go on: a damaged checkpoint, a foreign output folder, a non-finite loss."""


class PeerError(RunError):
    """Another rank of the run has ended or is silent, so that this one ends, too, without waiting for it."""
