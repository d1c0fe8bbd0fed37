"""Names of people, files and folders stay inside: marked where a message is made, replaced where it is shown."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import unicodedata
from pathlib import Path

SHOW = "VOLSSL_NAMES"  # =1: true names, for the person at the machine
WITHHELD = "[withheld]"
LENGTH = 16  # hexadecimal digits of an id

# A mark is OPEN, its kind, a colon, the text, CLOSE: characters for private use, which survive pickling and f-strings.
_OPEN, _CLOSE = "\U000f5e1f", "\U000f5e20"
_MARK = re.compile(f"{_OPEN}([a-z]+):(.*?){_CLOSE}", re.DOTALL)
_TEXT = "text"  # not a name but words that may hold one: of a library, or of a table

_typed: set[str] = set()
_key: bytes = secrets.token_bytes(32)  # until a folder gives another


def visible() -> bool:
    """Whether true names are shown."""
    return os.environ.get(SHOW, "") not in ("", "0")


def private(name: object, kind: str = "item") -> str:
    """``name``, marked for ``shown``, to be put into a message.

    Args:
        kind: ``item``, a file, a folder or what is called by its path below a root; ``patient``.
    """
    return f"{_OPEN}{kind}:{_bare(str(name))}{_CLOSE}"


def withheld(text: object) -> str:
    """Words that are not our own and may hold a name, marked: a library's message, a cell of a table."""
    return private(text, _TEXT)


def typed(path: object) -> str:
    """Take note of what the user wrote, such as ``data.root``: it is shown, and what is below it by id."""
    text = str(path)
    _typed.update({text, str(Path(text))} - {""})
    return text


def use(key: bytes) -> None:
    """From now on ids are under this key."""
    global _key
    _key = key


def identifier(key: bytes, name: str, kind: str = "item") -> str:
    """16 hexadecimal digits of HMAC-SHA-256: without the key nobody can try names until one fits.

    Args:
        name: of an item, its path relative to the root.
    """
    text = f"{kind}\0{name}"
    try:
        content = os.fsencode(text)
    except UnicodeEncodeError:  # of no file system
        content = text.encode("utf-8", "surrogatepass")
    return hmac.digest(key, content, "sha256").hex()[:LENGTH]


def shown(text: str) -> str:
    """A marked text as people may read it."""
    return _MARK.sub(lambda mark: _shown(mark[1], mark[2]), text) if _OPEN in text else text


def shown_id(name: object, kind: str = "item") -> str:
    """A name by itself as it may be written: its id, or the name where names are shown."""
    return shown(private(name, kind))


def keyed(name: str, kind: str = "item") -> str:
    """The id of an item under the key in use, whether or not true names are shown."""
    return identifier(_key, name, kind)


def cause(error: BaseException) -> BaseException | None:
    """What ``raise ... from`` may tell of a library's error, whose words may hold names."""
    return error if visible() else None


def _bare(text: str) -> str:
    """Without marks: of what was marked before, the text. A name may itself hold the characters."""
    return _MARK.sub(lambda mark: mark[2], text).replace(_OPEN, "\ufffd").replace(_CLOSE, "\ufffd")


def _shown(kind: str, text: str) -> str:
    if visible() or text in _typed:
        return one_line(text)
    if kind == _TEXT:
        return WITHHELD
    base = _base(text) if kind == "item" else ""
    below = text.removeprefix(base).lstrip("/") if base else text
    return (f"{one_line(base)}/" if base else "") + identifier(_key, below, kind)


def _base(text: str) -> str:
    """The longest folder that the user wrote above ``text``; that of a table or an archive is the one it lies in."""
    folders = {root.rpartition("/")[0] for root in _typed if Path(root).suffix} - {""}
    return max((one for one in _typed | folders if text.startswith(f"{one}/")), key=len, default="")


def one_line(text: str) -> str:
    """With what would break a line, or turn its direction, written as an escape."""
    return "".join(c if c == " " or unicodedata.category(c)[0] not in "CZ" else ascii(c)[1:-1] for c in text)
