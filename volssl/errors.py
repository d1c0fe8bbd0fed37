"""What goes wrong through no fault of the program: one line for a person, no traceback."""

from __future__ import annotations

from volssl.names import private, shown
from volssl.reasons import ReasonCode


class UserError(Exception):
    """Something the user can mend. The message is one line: which key or file, what is wrong, what to do.

    The command line prints it and exits with ``exit_code``. Names in it that were marked by ``volssl.names.private``
    are shown as ids.
    """

    exit_code = 2

    @property
    def told(self) -> str:
        """The message with its marks, to be put into another."""
        return super().__str__()

    def __str__(self) -> str:
        return shown(self.told)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class ConfigError(UserError):
    """A configuration that cannot run. The message may hold several lines, one per fault."""


class DataError(UserError):
    """The only exception that leaves the data door.

    Args:
        code: a reason code, or its text, for example ``gap``; a text that is none is a fault of the program.
        message: what is wrong and what to do, for a person.
        where: the file or folder; shown as it is where the user wrote it, and else as an id.
    """

    def __init__(self, code: str, message: str, where: str = "") -> None:
        super().__init__(code, message, where)
        self.code, self.message, self.where = ReasonCode(code), message, where

    @property
    def told(self) -> str:
        return f"{private(self.where)}: {self.code}: {self.message}" if self.where else f"{self.code}: {self.message}"


class RunError(UserError):
    """A run that cannot go on: a damaged checkpoint, a foreign output folder, a non-finite loss."""


class PeerError(RunError):
    """Another rank of the run has ended or is silent, so that this one ends, too, without waiting for it."""
