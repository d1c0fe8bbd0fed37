"""What a pickle names and how much it unfolds to, found by disassembling it: nothing in it is made or called."""

from __future__ import annotations

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass, field
from typing import IO, Any

ALLOWED, TIMES = 10**6, 10  # what a pickle may unfold to, and how much more for each of its bytes
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS")
_HASHES = ("SETITEM", "SETITEMS", "REDUCE", "NEWOBJ", "BINPERSID")  # or shows, in a message


class RefusedError(Exception):
    """What is wrong with a file, in words."""


def names(pickle: IO[bytes]) -> set[str]:
    """The classes and functions that it names.

    Raises:
        RefusedError: it unfolds to much more than its bytes, as lists do that hold a list ten times, which holds
            another ten times: whoever hashes, compares or shows such a value never ends.
    """
    found: set[str] = set()
    stack = _Stack()
    for operation, argument, place in pickletools.genops(pickle):
        if operation.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            # torch.save writes the names of Python 2, and torch.load knows today's name of some of them
            today = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            found |= {f"{module}.{name}", ".".join(today)}
        stack.do(operation, argument)
        if stack.largest > ALLOWED + TIMES * (place or 0):
            raise RefusedError("what it holds repeats itself without end: save its state dict alone")
    return found


@dataclass(eq=False, slots=True)
class _Value:
    """size: of the values in it, each as often as it stands there. taken: it stands in several places."""

    size: int = 1
    taken: bool = False


@dataclass(slots=True)
class _Stack:
    """What an unpickler would have, as sizes. largest: of one value, or of all that were hashed or shown so far."""

    largest: int = 0
    _values: list[_Value] = field(default_factory=list)
    _marks: list[int] = field(default_factory=list)
    _memo: dict[Any, _Value] = field(default_factory=dict)
    _hashed: int = 0

    def do(self, operation: pickletools.OpcodeInfo, argument: Any) -> None:
        """One step."""
        name = operation.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._values[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._memo[argument].taken = True
            self._values.append(self._memo[argument])
        elif name == "MARK":
            self._marks.append(len(self._values))
        else:
            self._change(operation)

    def _change(self, operation: pickletools.OpcodeInfo) -> None:
        name, taken = operation.name, self._take(operation.stack_before)
        added = sum(value.size for value in taken)
        if name in _HASHES:
            self._hashed += added - taken[0].size * (name in _FILLS)
        if name in _FILLS or name == "BUILD":
            made = taken[0]
            if name in _FILLS and made.taken:
                raise RefusedError("a list in it holds itself: save its state dict alone")
            made.size = added
            self._values.append(made)
        else:
            made = _Value(1 + added)
            self._values += [made] * len(operation.stack_after)
        self.largest = max(self.largest, made.size, self._hashed)

    def _take(self, wanted: list[pickletools.StackObject]) -> list[_Value]:
        """Off the stack, from the lowest; down to the mark, and what is wanted below, where one is."""
        marked = pickletools.markobject in wanted
        at = self._marks.pop() - wanted.index(pickletools.markobject) if marked else len(self._values) - len(wanted)
        taken = self._values[at:]
        del self._values[at:]
        return taken
