"""What an index found, counted while its rows pass and told in plain words."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from volssl.data.index_row import Row
from volssl.data.manifest import OK
from volssl.reasons import ReasonCode

BYTES = 8  # of a hash that are kept: a hundred thousand items, or files, take under a megabyte each of the four
UNITS = ("bytes", "kB", "MB", "GB", "TB")
UNIT = {"slide": (1e3, " microns")}  # of a spacing, which is in mm
FEW = 6  # modalities that a line names


class Summary:
    """Counts. passed: files that are no images and do not say that they are; examples: the first id of a reason."""

    def __init__(self) -> None:
        self.passed = self.size = 0
        self.items: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.files_left_out: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._modalities: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._ranges: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
        self._hashes = {name: array("Q") for name in ("content", "patient", "study", "file")}

    def counted(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows as they are."""
        for row in rows:
            self._add(row)
            yield row

    @property
    def copies(self) -> int:
        """Items that have the bytes, and the frames of them, of one that counts."""
        return len(self._hashes["content"]) - self._distinct("content")

    def lines(self, names: Mapping[str, str] = MappingProxyType({})) -> list[str]:
        """For a person. names: what the examples are called, where that may be told."""
        listed = sum(self.items.values())
        told = [f"{_count(listed, 'item')} of {_count(self._distinct('file'), 'file')}, {_size(self.size)}"]
        for kind in sorted(self.items):
            told.append(f"  {_count(self.items[kind], kind)}{self._about(kind)}")
        if patients := self._distinct("patient"):
            told.append(f"  {_count(patients, 'patient')}, {_count(self._distinct('study'), 'study', 'studies')}")
        if self.copies:
            told.append(f"  {_count(self.copies, 'copy', 'copies')} of other items (the same SHA-256)")
        if self.reasons:
            told.append(
                f"left out: {sum(self.reasons.values())}, of {_count(sum(self.files_left_out.values()), 'file')}"
            )
        for code, count in self.reasons.most_common():
            files = _count(self.files_left_out[code], "file")
            first = self.examples[code]
            told.append(f"  {count:,} {code} ({files}, such as {names.get(first, first)}): {ReasonCode(code).meaning}")
        if self.passed:
            told.append(f"passed by: {_count(self.passed, 'file')} that neither are images nor are called so")
        return told

    def _add(self, row: Row) -> None:
        files = len(row["files"])
        if row["status"] != OK:
            self.examples.setdefault(row["reason"], row["id"])
            self.reasons[row["reason"]] += 1
            self.files_left_out[row["reason"]] += files
            return
        kind = row["kind"]
        self.items[kind] += 1
        self.size += row["bytes"]
        self._modalities[kind][row.get("modality") or ""] += 1
        self._widen((kind, "shape"), row["shape"])
        self._widen((kind, "spacing"), [mm * UNIT.get(kind, (1.0, ""))[0] for mm in row.get("spacing") or []])
        content = hashlib.sha256(f"{row['sha256']} {row['frames']}".encode()).hexdigest()
        told = {name: [row[name]] for name in ("patient", "study") if row.get(name)}
        for name, ids in {**told, "content": [content], "file": row["files"]}.items():
            self._hashes[name].extend(int(digits[: 2 * BYTES], 16) for digits in ids)

    def _widen(self, which: tuple[str, str], numbers: Sequence[float]) -> None:
        low, high = self._ranges.get(which, (numbers, numbers))
        if len(low) == len(numbers) and numbers:
            self._ranges[which] = ([*map(min, low, numbers)], [*map(max, high, numbers)])

    def _about(self, kind: str) -> str:
        named = [(name, n) for name, n in self._modalities[kind].most_common(FEW) if name]
        parts = [", ".join(f"{n} {name}" for name, n in named)]
        for name, unit in (("shape", ""), ("spacing", UNIT.get(kind, (1.0, " mm"))[1])):
            if (kind, name) in self._ranges:
                low, high = self._ranges[kind, name]
                parts.append(" x ".join(map(_range, low, high)) + unit)
        return "".join(f"; {part}" if i else f": {part}" for i, part in enumerate(filter(None, parts)))

    def _distinct(self, name: str) -> int:
        return len(np.unique(np.frombuffer(self._hashes[name], np.uint64))) if self._hashes[name] else 0


def _range(low: float, high: float) -> str:
    return f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g}..{high:.4g}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one}" if number == 1 else f"{number:,} {many or one + 's'}"


def _size(size: float) -> str:
    for unit in UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {UNITS[-1]}"
