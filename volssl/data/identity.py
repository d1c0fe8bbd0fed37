"""What tells whether two items are one, or of one patient: hashes of files and images, and names to compare."""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from volssl.data.cache_file import DamagedError, fetch
from volssl.data.items import Origin, PreparedSource, Report
from volssl.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]
BYTES = 8  # of a SHA-256 that are kept: among n and m different items, n m / 2**64 pairs agree by chance

WHOSE = ["PatientID", "IssuerOfPatientID", "StudyInstanceUID"]
_WHOLE = re.compile(r"0*(\d+)(\.0+)?")
_COUNTER = re.compile(r"(sub|subject|subj|pat|patient|pt|case|exam|id|p|s)?[-_ ]?\d{1,4}")
_NOBODY = {
    *("", "0", "na", "nan", "none", "null", "unknown", "unspecified", "notavailable", "default", "test", "x", "xx"),
    *("anon", "anonym", "anonymous", "anonymized", "anonymised", "anonymize", "anonymise", "deidentified", "deid"),
    *("removed", "redacted", "hidden", "private", "noid", "id", "patient", "patientid", "subject", "pseudonym"),
}


@dataclass(frozen=True, slots=True)
class Marks:
    """Hashes of one kind. rows (M,): an item of the source; hashes (M,): one that it has."""

    rows: Ints
    hashes: Hashes


@dataclass(frozen=True, slots=True)
class Names:
    """Whose items are, in clear, so never to be written.

    names: each once. rows (M,): an item of the source; which (M,): the name that it has.
    """

    rows: Ints
    which: Ints
    names: tuple[str, ...]

    def under(self, key: bytes, kind: str) -> Marks:
        """HMAC-SHA-256 of each: without the key nobody can try names until one fits."""
        digests = [hmac.digest(key, f"{kind}\0{name}".encode(), "sha256")[:BYTES] for name in self.names]
        hashes = np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)
        return Marks(self.rows, hashes[self.which])


@dataclass(frozen=True, slots=True)
class Identity:
    """Of the items of a source, called ``ids``: what ``identify`` found."""

    ids: Sequence[str]
    file: Marks
    image: Marks
    patient: Names
    study: Names

    def marks(self, key: bytes | None) -> dict[str, Marks]:
        """By kind; patients and studies only under a key."""
        known = {"file": self.file, "image": self.image}
        if key is None:
            return known
        return {**known, "patient": self.patient.under(key, "patient"), "study": self.study.under(key, "study")}


def identify(
    source: PreparedSource, *, patients: Mapping[int, str] | None = None, report: Report | None = None
) -> Identity:
    """What tells the items of a source from others; nothing but cached images and DICOM headers is read.

    ``file``: SHA-256 of an item's files as they are, or of its row of an archive; of a tile that of its slide, whatever
    the grid. ``image``: of the preprocessed array as the cache holds it, so that a copy under another name or in
    another lossless format is found, where both are prepared alike by the same versions; of a slice or a frame that of
    all that are taken from its volume or video; none of tiles, items beyond ``data.cache_gb`` and images of one value.
    ``patient``: what a table and the DICOM header say. ``study``: the header's StudyInstanceUID. A header that cannot
    be read says nothing.

    Args:
        patients: row to patient, beside what the source says. report: (rows done, in all, "").
    """
    files, images, names, studies = _Hashes(), _Hashes(), _Names(), _Names()
    header = lru_cache(_header)  # many clips of one file follow one another
    row = 0
    for origin in source.origins:
        rows = range(row, row + origin.items)
        files.add(rows, int(origin.content[: 2 * BYTES], 16))
        images.add(rows, _image(origin))
        headers = [header(path) for path in origin.dicom]
        names.add(rows, [normal(origin.patient), *(patient for patient, _ in headers)])
        studies.add(rows, [study for _, study in headers])
        row = rows.stop
        if report:
            report(row, len(source), "")
    for row, patient in (patients or {}).items():
        names.add([row], [normal(str(patient))])
    return Identity(source.ids, files.made(), images.made(), names.made(), studies.made())


def normal(name: str) -> str:
    """A patient's id as it is compared: lower case, single blanks, whole numbers without leading zeros or ``.0``.

    What stands for nobody (nothing, ``0``, ``ANON``, ``unknown``, ``XXX``, ...) is empty: it would make all items one
    patient's.
    """
    name = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    name = " ".join(name.replace("\0", " ").split())
    if whole := _WHOLE.fullmatch(name):
        name = whole[1]
    bare = "".join(letter for letter in name if letter.isalnum())
    filler = len(bare) > 2 and len(set(bare)) == 1 and bare.isalpha()
    return "" if filler or bare in _NOBODY else name


def is_counter(name: str) -> bool:
    """Whether many data sets have such a patient: a number of up to four digits, perhaps after a word like ``sub``."""
    return _COUNTER.fullmatch(name) is not None


class _Hashes:
    """Marks in the making; None is no mark."""

    def __init__(self) -> None:
        self.rows, self.hashes = array("q"), array("Q")

    def add(self, rows: Sequence[int], value: int | None) -> None:
        if value is not None:
            self.rows.extend(rows)
            self.hashes.extend([value] * len(rows))

    def made(self) -> Marks:
        return Marks(np.array(self.rows, dtype=np.int64), np.array(self.hashes, dtype=np.uint64))


class _Names:
    """Names in the making; an empty one is none."""

    def __init__(self) -> None:
        self.rows, self.which = array("q"), array("q")
        self.names: dict[str, int] = {}

    def add(self, rows: Sequence[int], names: Iterable[str]) -> None:
        for name in dict.fromkeys(name for name in names if name):
            self.rows.extend(rows)
            self.which.extend([self.names.setdefault(name, len(self.names))] * len(rows))

    def made(self) -> Names:
        rows, which = (np.array(one, dtype=np.int64) for one in (self.rows, self.which))
        return Names(rows, which, tuple(self.names))


def _image(origin: Origin) -> int | None:
    if origin.cached is None:
        return None
    try:
        image, _ = fetch(origin.cached)
    except (FileNotFoundError, DamagedError, DataError):
        return None
    numbers = image.contiguous().numpy()
    if numbers.min() == numbers.max():
        return None
    digest = hashlib.sha256(f"{numbers.dtype} {numbers.shape}\0".encode())
    digest.update(numbers.data)
    return int.from_bytes(digest.digest()[:BYTES], "big")


def _header(path: Path) -> tuple[str, str]:
    """The patient, with who gave the id where that is said, and the study; empty where unknown."""
    from volssl.data.header import is_dicom, read_dataset
    from volssl.data.preflight import guard

    try:
        with guard("header", path):
            if not is_dicom(path):
                return "", ""
            return whose(read_dataset(path, tags=WHOSE))
    except DataError:
        return "", ""


def whose(ds: Dataset) -> tuple[str, str]:
    """The patient, with who gave the id where that is said, and the study, of a header with the tags ``WHOSE``."""
    patient, issuer, study = (str(ds.get(keyword) or "") for keyword in WHOSE)
    name, by = normal(patient), normal(issuer)
    return f"{by}\0{name}" if name and by else name, normal(study)
