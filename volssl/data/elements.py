"""What a DICOM header costs to parse, from its tags and lengths alone: they are walked as pydicom walks them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import lru_cache
from io import BufferedReader
from struct import Struct

from pydicom.datadict import dictionary_VR
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from volssl.data.preflight import MAX_SIDE
from volssl.errors import DataError

MAX_ELEMENTS = 2**16  # of a header, with the items of its sequences and the fragments of its pixels ...
PER_FRAME = 2**9  # ... and so many more for each frame, of which Philips takes 140 ...
PER_BYTES = 2**5  # ... but no more than one in so many bytes of the file
MAX_HEADER = 2**26  # bytes of the elements that are held, unless the pixels are more

_UNDEFINED = 2**32 - 1
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CHARSET, _ROWS, _FRAMES, _PIXELS = 0x00080005, 0x00280010, 0x00280008, (0x7FE00008, 0x7FE00009, 0x7FE00010)
_META, _DESCRIBED, _PIXEL_GROUP = 0x0002, 0x0028, 0x7FE0
_LOOKED_AT = (_META, _DESCRIBED, _PIXEL_GROUP)  # groups that pydicom itself looks at
_VRS = {vr.encode() for vr in STANDARD_VR}
_LONG = {vr.encode() for vr in EXPLICIT_VR_LENGTH_32}
_BYTES = {None, b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UN"}
_CHUNK = 2**20
_ITEM_COST = 4  # elements, for the time that pydicom takes to make a data set
_LITTLE = 64  # bytes of a value that are not worth a look


class End:
    """Whether the header of an image ends before a tag; asked of one after the other.

    That of an object without rows ends where an image would be described: reports and contours may follow.
    """

    def __init__(self) -> None:
        self._image = False

    def __call__(self, tag: int, _vr: str | None = None, _length: int = 0) -> bool:
        self._image |= tag == _ROWS
        return tag in _PIXELS or (tag >> 16 > _DESCRIBED and not self._image)


def check_cost(file: BufferedReader, where: str, read: Collection[int], *, whole: bool) -> None:
    """Refuse what takes more to parse than an image is worth; the file is at its beginning afterwards.

    Args:
        read: tags that are looked at. whole: all elements are held, and those behind the pixels, too.

    Raises:
        DataError: ``header``, or ``deflated``.
    """
    walk = _Walk(file, where, read, whole=whole)
    walk.meta()
    syntax = read_file_meta_info(f"/dev/fd/{file.fileno()}").get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        raise DataError("deflated", "deflated DICOM is not read: convert it, e.g. with dcmconv +te", where)
    walk.rest(syntax)
    file.seek(0)


class _Walk:
    def __init__(self, file: BufferedReader, where: str, read: Collection[int], *, whole: bool) -> None:
        self._file, self._where, self._read_tags, self._whole = file, where, read, whole
        self._size = os.fstat(file.fileno()).st_size
        self._count = self._held = 0
        self._limit = MAX_ELEMENTS
        self._order("<")

    def meta(self) -> None:
        """Past the file meta information: it says how the rest is encoded."""
        self._file.seek(132)
        if (vr := self._peeked()[1]).isalpha() and vr not in _VRS:  # pydicom would begin again and read it otherwise
            raise DataError("header", "an unknown value representation: export the file again", self._where)
        self._elements(lambda tag: tag >> 16 != _META)

    def rest(self, syntax: UID | None) -> None:
        """Past the header, or the whole file."""
        self._elements(lambda tag: bool(tag >> 16))  # a command set
        group, vr = self._peeked()
        if syntax == ExplicitVRBigEndian or (syntax is None and vr in _VRS and group >= 1024):
            self._order(">")
        self._elements((lambda _: False) if self._whole else End())
        if self._held > max(MAX_HEADER, self._size - self._held):
            raise self._error(f"{self._held:,} bytes beside the pixels")

    def _order(self, order: str) -> None:
        self._implicit_head = Struct(f"{order}HHL").unpack
        self._explicit_head = Struct(f"{order}HH2sH").unpack
        self._long_length = Struct(f"{order}L").unpack
        self._end_of_value = Struct(f"{order}HH").pack(_SEQUENCE_END >> 16, _SEQUENCE_END & 0xFFFF)

    def _peeked(self) -> tuple[int, bytes]:
        """The group of the next element, and its value representation if it has one."""
        head = self._file.read(6)
        self._file.seek(-len(head), os.SEEK_CUR)
        return int.from_bytes(head[:2], "little"), head[4:]

    def _implicit(self) -> bool:
        """Whether a data set has no value representations: its first element says so."""
        vr = self._peeked()[1]
        return len(vr) == 2 and not (0x40 < vr[0] < 0x5B and 0x40 < vr[1] < 0x5B)

    def _head(self, implicit: bool) -> tuple[int, bytes | None, int] | None:
        """Tag, value representation and length of the next element; None at the end of the file."""
        head = self._file.read(8)
        if len(head) < 8:
            return None
        if not implicit:
            group, element, vr, length = self._explicit_head(head)
            if vr in _LONG:
                more = self._file.read(4)
                return (group << 16 | element, vr, *self._long_length(more)) if len(more) == 4 else None
            if vr in _VRS or b"AA" <= vr <= b"ZZ":
                return group << 16 | element, vr, length
        group, element, length = self._implicit_head(head)
        return group << 16 | element, None, length

    def _elements(self, end: Callable[[int], bool]) -> None:
        """Those of the top, up to one that is an end."""
        implicit = self._implicit()
        while True:
            at = self._file.tell()
            head = self._head(implicit)
            if head is None or head[0] == _ITEM_END:
                return
            tag, vr, length = head
            if end(tag):
                self._file.seek(at)
                return
            if tag == _FRAMES and length < _LITTLE:
                text = self._file.read(length)
                self._file.seek(-len(text), os.SEEK_CUR)
                self._frames(text)
            looked_at = self._looked_at(tag)
            self._element(tag, vr, length, implicit, looked_at)
            if tag >> 16 != _PIXEL_GROUP and (self._whole or looked_at or length == _UNDEFINED):
                self._held += self._file.tell() - at

    def _frames(self, text: bytes) -> None:
        if (text := text.strip(b" \0")).isdigit():
            self._limit = MAX_ELEMENTS + min(PER_FRAME * min(int(text), MAX_SIDE), self._size // PER_BYTES)

    def _looked_at(self, tag: int) -> bool:
        return tag in self._read_tags or tag >> 16 in _LOOKED_AT

    def _element(self, tag: int, vr: bytes | None, length: int, implicit: bool, looked_at: bool) -> None:
        self._counted()
        if length == _UNDEFINED:
            if self._is_sequence(tag, vr):
                self._sequence(None, implicit)
            else:
                self._fragments()
            return
        if looked_at and (vr == b"SQ" or (vr in (None, b"UN") and _known(tag) == "SQ")):
            end = self._file.tell() + length
            self._sequence(end, implicit)
            self._file.seek(end)
            return
        if length > _LITTLE and self._looked_at(tag):
            self._counted(_objects(tag, vr, length))
        self._file.seek(length, os.SEEK_CUR)

    def _sequence(self, end: int | None, implicit: bool) -> None:
        while end is None or self._file.tell() < end:
            head = self._file.read(8)
            if len(head) < 8:
                return
            group, element, length = self._implicit_head(head)
            if group << 16 | element == _SEQUENCE_END:
                return
            self._counted(_ITEM_COST)
            inside = implicit or self._implicit()
            self._item(None if length == _UNDEFINED else self._file.tell() + length, inside)

    def _item(self, end: int | None, implicit: bool) -> None:
        while end is None or self._file.tell() < end:
            head = self._head(implicit)
            if head is None or head[0] == _ITEM_END:
                return
            self._element(*head, implicit, looked_at=True)

    def _fragments(self) -> None:
        """Bytes in items, as packed pixels are; or, where they are not, up to what ends them."""
        start = self._file.tell()
        while len(head := self._file.read(8)) == 8:
            group, element, length = self._implicit_head(head)
            if group << 16 | element == _SEQUENCE_END:
                return
            if group << 16 | element != _ITEM or length == _UNDEFINED:
                break
            self._counted()
            self._file.seek(length, os.SEEK_CUR)
        self._file.seek(start)
        seen = b""
        while more := self._file.read(_CHUNK):
            seen = seen[-3:] + more
            if (at := seen.find(self._end_of_value)) >= 0:
                self._file.seek(at + 8 - len(seen), os.SEEK_CUR)
                return

    def _is_sequence(self, tag: int, vr: bytes | None) -> bool:
        """Whether a value of unknown length is: what no dictionary knows is one if it begins with an item."""
        if vr is not None:
            return vr in (b"SQ", b"UN")
        if known := _known(tag):
            return known == "SQ"
        head = self._file.read(4)
        self._file.seek(-len(head), os.SEEK_CUR)
        return len(head) == 4 and self._implicit_head(head + bytes(4))[:2] == (_ITEM >> 16, _ITEM & 0xFFFF)

    def _counted(self, more: int = 1) -> None:
        self._count += more
        if self._count > self._limit:
            raise self._error(f"over {self._limit:,} elements, items and values")

    def _error(self, what: str) -> DataError:
        return DataError("header", f"{what} are more than an image needs: export the file again", self._where)


def _objects(tag: int, vr: bytes | None, length: int) -> int:
    """What a value counts: text and numbers become an object each, and what is that, file and dictionary say."""
    if tag == _CHARSET:
        return length * _LITTLE  # time and again
    known = _known(tag)
    if vr in _BYTES and known.startswith("O"):
        return 0
    return length // (16 if "OW" in known else 4)  # a table of 16 bits may have 65,536 entries


@lru_cache(maxsize=4096)
def _known(tag: int) -> str:
    """The value representation that the dictionary has, which may be ``US or OW``; empty where it has none."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""
