"""What ``data.root`` names: a folder of volumes, a manifest, or a ``labels.csv`` that lists them with their classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from volssl.data.door import Found, Kind, find
from volssl.data.located import located
from volssl.data.manifest import is_manifest
from volssl.data.preflight import guard
from volssl.data.table import is_table, rows
from volssl.errors import DataError
from volssl.names import private

Finder = Callable[[Path], tuple[list[Found], list[DataError]]]


@dataclass(frozen=True)
class Listed:
    """A volume and the index of its class, -1 where unknown. patient: as a table writes it, or keyed by a manifest."""

    found: Found
    label: int = -1
    patient: str = ""


def listing(
    root: str, name: str, kinds: frozenset[Kind], split: str | None = None
) -> tuple[list[Listed], list[DataError]]:
    """Every volume of these kinds that the root names: ``listing_by`` of the door's ``find``."""
    return listing_by(root, name, partial(find, kinds=kinds), split)


def listing_by(root: str, name: str, finder: Finder, split: str | None = None) -> tuple[list[Listed], list[DataError]]:
    """Everything that the finder sees where the root points, and one error for each that cannot be used.

    A manifest is believed: of what it lists, all that it says the source called ``name`` reads, and no errors.

    In a CSV (columns ``path,label``, ``split`` if there are several, and any others; paths relative to the file) a
    row names a file or a folder, all of whose volumes get its label. Classes are numbered over all splits, as
    ``table.classes`` says.

    Raises:
        DataError: the root is missing or holds nothing or only what another ``data.name`` reads, or the CSV is not
            such a table, names a file in two rows, or has splits of which none is asked for.
    """
    path = Path(root)
    with guard("unreadable", path):
        table, manifest = is_table(path), is_manifest(path)
    if table:
        listed, bad = _tabled(path, finder, split)
    elif manifest and split in (None, "all"):
        listed, bad = [Listed(one, patient=patient) for one, patient in located(path, name)], []
    elif split not in (None, "all"):
        raise DataError("labels", f"data.split ({split}) is a column of a labels.csv: make it data.root", root)
    else:
        found, bad = finder(path)
        listed = [Listed(one) for one in found]
    if bad and not listed and all(error.code == "kind" for error in bad):
        raise bad[0]
    return listed, bad


def _tabled(path: Path, finder: Finder, split: str | None) -> tuple[list[Listed], list[DataError]]:
    listed: list[Listed] = []
    bad: list[DataError] = []
    rows_of: dict[Path, str] = {}
    for row in rows(path, split):
        try:
            found, errors = _named(path, row.path, finder)
        except DataError as error:
            found, errors = [], [error]
        _only_once(found, row.path, rows_of, path)
        listed += [Listed(one, row.label, row.patient) for one in found]
        bad += errors
    return listed, bad


def _only_once(found: Sequence[Found], row: str, rows_of: dict[Path, str], table: Path) -> None:
    """Raises DataError where two rows name one file: it would be two items, perhaps of two classes."""
    for file in {file.resolve() for one in found for file in one.files}:
        if (other := rows_of.setdefault(file, row)) != row:
            what = f"the rows {private(other)} and {private(row)} both name {private(file.name)}"
            raise DataError("labels", f"{what}: leave one", str(table))


def _named(table: Path, name: str, finder: Finder) -> tuple[list[Found], list[DataError]]:
    """The volumes of one row, called by the row's path and what follows in it."""
    target = table.parent / name
    with guard("unreadable", target):
        if not target.exists():
            raise DataError("missing", f"{table.name} names it, but it is not there", str(target))
    found, bad = finder(target)
    if target.is_file():
        return [replace(one, id=name) for one in found], bad
    return [replace(one, id=_below(name, one.id)) for one in found], bad


def _below(folder: str, name: str) -> str:
    if name == "." or name.startswith(".#"):
        return folder + name[1:]
    return f"{folder}/{name}"
