"""``volssl names``: which file an id is, found by making the ids of everything below the roots again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from volssl import config as configuration
from volssl.data.door import walk
from volssl.data.items import Readers
from volssl.data.manifest import Manifest, below, is_manifest, key_path, open_manifest
from volssl.data.mixture_config import MixtureConfig
from volssl.data.seen import KEY, read_key
from volssl.data.table import is_table, rows
from volssl.errors import ConfigError, DataError
from volssl.names import identifier, one_line

KINDS = ("item", "file", "folder")  # of paths, of which ids are made
NAMED = ("id", "series", "study", "patient")  # columns of a manifest whose ids are those of its rows' files


def look_up(place: Path, ids: Sequence[str], roots: Sequence[Path] = ()) -> dict[str, str]:
    """Id to what it is the id of: a path below a root; of a series, study or patient of a manifest, its files' paths.

    Args:
        place: the folder of a run or an evaluation, a manifest or other table, or the file of a key. roots: where to
            look, instead of where the run's configuration or the manifest says.

    Raises:
        ConfigError: there is no key, it is not known where to look, or an id is of nothing that is there.
        DataError: a manifest is damaged.
    """
    folder = place if place.is_dir() else place.parent
    path = place / KEY if place.is_dir() else key_path(place) if is_manifest(place) else place
    key = read_key(path)
    if key is None:
        raise ConfigError(f"{place}: no key ({path.name}) is here: give the folder of a run, or the file of its key")
    table = path.with_suffix("")
    manifest = _manifest(table)
    run = None if roots or manifest else _run(folder)
    where = list(roots) or ([table] if manifest else _roots(run) if run else _evaluated(folder))
    wanted = {one.rpartition("/")[2] for one in ids}
    files = _files(filter(None, [manifest, *map(_manifest, where)]), wanted)
    paths = _paths(key, wanted.union(*files.values()), _candidates(where, run))
    found = {one: told for one in wanted if (told := _told([paths[n] for n in (one, *files[one]) if n in paths]))}
    if lost := sorted(wanted - found.keys()):
        told = ", ".join(map(str, where))
        raise ConfigError(f"{lost[0]}: no file, folder or item below {told} has this id under this key: give --root")
    return {one: found[one.rpartition("/")[2]] for one in ids}


def _manifest(table: Path) -> Manifest | None:
    """None of what is something else."""
    try:
        return open_manifest(table) if is_manifest(table) else None
    except DataError:
        return None


def _files(manifests: Iterable[Manifest], wanted: Iterable[str]) -> dict[str, list[str]]:
    """Of each id that is wanted, the ids of the files of all rows that it is of."""
    files: dict[str, list[str]] = {one: [] for one in wanted}
    for manifest in manifests:
        own: list[str] = []
        for row in manifest:
            own = row["files"] or own  # a series with several reasons names its files in the first row
            for one in {row[column] for column in NAMED} & files.keys():
                files[one] += own
    return files


def _paths(key: bytes, sought: set[str], candidates: Iterable[str]) -> dict[str, str]:
    """Id to path, as far as the candidates have it."""
    paths: dict[str, str] = {}
    for name in candidates:
        paths |= {known: name for kind in KINDS if (known := identifier(key, name, kind)) in sought}
        if len(paths) == len(sought):
            break
    return paths


def _told(paths: Sequence[str]) -> str:
    """The first, and how many others there are; empty of none."""
    names = list(dict.fromkeys(map(one_line, paths)))
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else ""


def _run(folder: Path) -> configuration.Run | None:
    """The run whose folder it is; None where it is another's."""
    try:
        return configuration.load(folder / configuration.FILE)
    except ConfigError:
        return None


def _roots(run: configuration.Run) -> list[Path]:
    parts = run.data.members if isinstance(run.data, MixtureConfig) else (run.data,)
    return [Path(part.root) for part in parts]


def _evaluated(folder: Path) -> list[Path]:
    if not (folder / configuration.FILE).is_file():
        raise ConfigError(f"{folder}: no {configuration.FILE} here says where to look: give --root")
    return [Path(one.data.root) for one in configuration.load_evaluation(folder / configuration.FILE).sets.values()]


def _candidates(roots: Sequence[Path], run: configuration.Run | None) -> Iterator[str]:
    """What may have an id: paths, those that tables write, and last, for the data are opened for it, the run's items.

    An item of several data sets begins with the number of its own.
    """
    for i, root in enumerate(roots):
        for name in _below(root):
            yield name
            yield f"{i}/{name}"
    if run is not None:
        yield from run.data.build(run.region, readers=Readers(run.loop.workers, run.loop.timeout)).ids


def _below(root: Path) -> Iterator[str]:
    if manifest := _manifest(root):
        for number, part in enumerate(manifest.roots):
            yield from (below(len(manifest.roots), number, name) for name in _below(part))
        return
    base = root if root.is_dir() else root.parent
    if is_table(root):
        yield from (row.path for row in rows(root, "all"))
    errors: list[DataError] = []
    for folder, files in walk(base, errors):
        for path in (folder, *files):
            yield from (path.relative_to(base).as_posix(), str(path))
    yield from (Path(error.where).relative_to(base).as_posix() for error in errors)  # links that lead out
