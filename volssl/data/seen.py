"""The list of its data that an encoder keeps, and the key without which nobody can tell patients from it."""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from volssl.data.identity import BYTES, Hashes, Identity
from volssl.errors import DataError, RunError
from volssl.names import typed
from volssl.regular import open_regular
from volssl.whole import remove

KINDS = ("file", "image", "study", "patient")  # from the surest to the widest
KEY = "ids.key"


@dataclass(frozen=True, slots=True)
class SeenItems:
    """What an encoder has seen: nothing in it can be read, and a million items take at most 8 MB a kind.

    Whoever has a file can tell whether it was among them; of patients and studies only who has the run's key can.

    hashes: by kind, sorted, each once. items: how many there were, ``imaged`` of them with a hash of their image.
    key: which key it was, as ``key_mark`` tells.
    """

    hashes: Mapping[str, Hashes]
    items: int
    imaged: int
    key: int

    @classmethod
    def of(cls, identity: Identity, key: bytes) -> SeenItems:
        """Of the items of a run, under its key."""
        hashes = {kind: np.unique(marks.hashes) for kind, marks in identity.marks(key).items()}
        return cls(hashes, len(identity.ids), len(identity.image.rows), key_mark(key))

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        about = {"count": np.array([self.items, self.imaged]), "key": np.array([self.key], dtype=np.uint64)}
        return safetensors.numpy.save({**self.hashes, **about})

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> SeenItems:
        """What ``to_bytes`` gave.

        Raises:
            DataError: ``encoder``: it is something else.
        """
        try:
            arrays = safetensors.numpy.load(content)
            items, imaged = arrays["count"].tolist()
            return cls({kind: arrays[kind] for kind in KINDS}, items, imaged, int(arrays["key"][0]))
        except (SafetensorError, KeyError, ValueError, IndexError) as error:
            what = f"holds no list of pre-training items ({error})"
            raise DataError("encoder", f"{what}: save the encoder again", where) from None


def run_key(folder: Path) -> bytes:
    """The key of a run, made where there is none: 32 random bytes that its owner alone may read and that stay there.

    Raises:
        RunError: it cannot be written. DataError: as ``read_key``.
    """
    return key_at(folder / KEY)


def key_at(path: Path) -> bytes:
    """As ``run_key``, in a file of another name."""
    if (key := read_key(path)) is not None:
        return key
    key, fresh = secrets.token_bytes(32), path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(fresh)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(key.hex() + "\n")
            f.flush()
            os.fsync(f.fileno())
        os.replace(fresh, path)
    except OSError as error:
        raise RunError(f"output: {path} cannot be written ({error.strerror}): make room and run again") from error
    return key


def read_key(path: Path) -> bytes | None:
    """The key in a file, which is made its owner's alone; None where there is no file.

    Raises:
        DataError: ``key``: the file cannot be read or kept from others, or holds something else.
    """
    try:
        with open_regular(path) as file:
            _keep_from_others(file.fileno(), path)
            text = file.read(1024).decode("ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError("key", f"cannot be read ({reason}): mend it or move it away", typed(path)) from None
    if not re.fullmatch("[0-9a-f]{64}", text):
        what = "is no key (32 bytes in hexadecimal)"
        raise DataError("key", f"{what}: put the run's own back, or move it away", typed(path))
    return bytes.fromhex(text)


def _keep_from_others(descriptor: int, path: Path) -> None:
    """A copy of a run may have lost the mode of its key. Of a file of somebody else its owner decides."""
    status = os.fstat(descriptor)
    if status.st_mode & 0o077 == 0 or status.st_uid != os.geteuid():
        return
    try:
        os.fchmod(descriptor, 0o600)
    except OSError as error:
        what = f"others may read it, and that cannot be changed ({error.strerror})"
        raise DataError("key", f"{what}: chmod 600 it, or move it", typed(path)) from None


def key_mark(key: bytes) -> int:
    """Tells a key from others and says nothing of it."""
    return int.from_bytes(hmac.digest(key, b"volssl: which key", "sha256")[:BYTES], "big")
