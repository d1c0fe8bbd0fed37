"""``volssl names``: which file an id is, found by making the ids of everything below the roots again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from volssl import config as configuration
from volssl.data.door import walk
from volssl.data.items import Readers
from volssl.data.mixture_config import MixtureConfig
from volssl.data.seen import KEY, read_key
from volssl.data.table import is_table, rows
from volssl.errors import ConfigError
from volssl.names import identifier, one_line


def look_up(place: Path, ids: Sequence[str], roots: Sequence[Path] = ()) -> dict[str, str]:
    """Id to what it is the id of: a path below a root.

    Args:
        place: the folder of a run or an evaluation, or the file of a key. roots: where to look, instead of where the
            run's configuration says.

    Raises:
        ConfigError: there is no key, it is not known where to look, or an id is of nothing that is there.
    """
    folder = place if place.is_dir() else place.parent
    key = read_key(place / KEY if place.is_dir() else place)
    if key is None:
        raise ConfigError(f"{place}: no key ({KEY}) is here: give the folder of a run, or the file of its key")
    run = None if roots else _run(folder)
    where = list(roots) or (_roots(run) if run else _evaluated(folder))
    wanted, found = {one.rpartition("/")[2] for one in ids}, {}
    for name in _candidates(where, run):
        if (known := identifier(key, name)) in wanted:
            found[known] = one_line(name)
        if len(found) == len(wanted):
            break
    if lost := sorted(wanted - found.keys()):
        told = ", ".join(map(str, where))
        raise ConfigError(f"{lost[0]}: no file, folder or item below {told} has this id under this key: give --root")
    return {one: found[one.rpartition("/")[2]] for one in ids}


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
    base = root if root.is_dir() else root.parent
    if is_table(root):
        yield from (row.path for row in rows(root, "all"))
    for folder, files in walk(base, []):
        for path in (folder, *files):
            yield from (path.relative_to(base).as_posix(), str(path))
