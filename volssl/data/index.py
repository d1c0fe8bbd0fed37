"""``volssl index``: folders are walked, every file is read once, and one manifest says what there is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from volssl import names
from volssl.data.index_row import Row
from volssl.data.index_summary import Summary
from volssl.data.index_work import Indexing
from volssl.data.items import Report
from volssl.data.journal import Journal
from volssl.data.manifest import ROWS, SUFFIX, Ids, Seal, about, key_path, open_manifest, schema
from volssl.data.seen import key_at, key_mark
from volssl.errors import ConfigError, DataError, RunError
from volssl.whole import whole

WIDE = 2**16  # files that the rows of a group name, about


def index(roots: Sequence[Path], out: Path, *, workers: int = 0, report: Report | None = None) -> Summary:
    """Read all that lies under the roots, and write ``out`` whole at the end. Interrupted, it goes on when run again.

    Beside it ``out.key``, which its ids are made with, and ``out.journal``, by which files that have not changed are
    not read again. The rows do not depend on ``workers``; the memory does not depend on how many files there are,
    beyond those of one folder.

    Args:
        workers: processes that read, of which one may crash or hang alone; 0 reads here.
        report: (files done, files in all, "").

    Raises:
        ConfigError: a root is missing, or ``out`` is something else than a manifest.
        DataError: ``key``, or ``empty`` where there is nothing to list.
        RunError: ``out`` cannot be written.
    """
    kept = [_kept(root, out) for root in roots]
    roots = [Path(names.typed(os.path.abspath(root))) for root in roots]
    _check(roots, out)
    known, journal_path = key_path(out).exists(), out.with_name(out.name + ".journal")
    ids = Ids(key_at(key_path(out)))
    names.use(ids.key)  # messages and manifest call a file the same
    own = frozenset(Path(os.path.abspath(path)) for path in (out, key_path(out), journal_path))
    journal = Journal(journal_path, ids.key)
    summary = Summary()
    try:
        indexing = Indexing(roots, ids, journal, own=own, report=report)
        rows = summary.counted(_reading(indexing.rows(workers)))
        _write(_some(rows, roots), out, kept, key_mark(ids.key))
    except DataError:
        if not known:  # nothing is made with it
            for path in (key_path(out), journal_path):
                path.unlink(missing_ok=True)
        raise
    finally:
        journal.close()
    summary.passed = indexing.passed
    return summary


def _kept(root: Path, out: Path) -> str:
    """As it was typed; where that is relative, the way to it from the manifest's folder, for both may move together."""
    if root.is_absolute():
        return str(root)
    place = root.absolute()
    return os.path.relpath(os.path.join(os.path.realpath(place.parent), place.name), os.path.realpath(out.parent))


def _check(roots: Sequence[Path], out: Path) -> None:
    for root in roots:
        if not root.exists():
            raise ConfigError(f"ROOT: {root} does not exist: name a folder")
    real = [Path(os.path.realpath(root)) for root in roots]
    for root, a in zip(roots, real, strict=True):
        if any(a != b and a.is_relative_to(b) for b in real) or real.count(a) > 1:
            raise ConfigError(f"ROOT: {root} would be walked twice: name it once")
    if out.suffix.lower() != SUFFIX:
        raise ConfigError(f"--out: {out} is not called {SUFFIX}, by which training knows a manifest: call it so")
    if os.path.lexists(out):
        try:
            open_manifest(out)
        except DataError as error:
            raise ConfigError(f"--out: {out} is there and is no manifest: name another file ({error.code})") from error
    elif not out.parent.is_dir():
        raise ConfigError(f"--out: {out.parent} is no folder: make it")


def _reading(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows; what keeps them from being made is not what keeps them from being written."""
    try:
        yield from rows
    except OSError as error:
        what = f"ROOT: the reading of files stopped ({error.strerror or type(error).__name__})"
        raise RunError(f"{what}: run again, it goes on from there, perhaps with fewer --workers") from error


def _some(rows: Iterator[Row], roots: Sequence[Path]) -> Iterator[Row]:
    if (first := next(rows, None)) is None:
        raise DataError("empty", "no images and nothing that is called so: name another folder", str(roots[0]))
    yield first
    yield from rows


def _write_group(writer: pq.ParquetWriter, rows: Sequence[Row], seal: Seal) -> None:
    table = pa.Table.from_pylist(rows, schema())
    seal.add(table.to_pylist())
    writer.write_table(table)


def _write(rows: Iterable[Row], out: Path, roots: Sequence[str], key: int) -> None:
    """All rows or, where anything fails, no change."""
    seal = Seal()
    try:
        with (
            whole(out) as fresh,
            pq.ParquetWriter(fresh, schema(), compression="zstd", write_page_checksum=True) as writer,
        ):
            group: list[Row] = []
            named = 0
            for row in rows:
                group.append(row)
                named += len(row["files"])
                if len(group) == ROWS or named > WIDE:
                    _write_group(writer, group, seal)
                    group, named = [], 0
            _write_group(writer, group, seal)
            writer.add_key_value_metadata(about(roots, key, seal))
    except OSError as error:
        raise RunError(f"--out: {out} cannot be written ({error.strerror or error}): make room, run again") from error
