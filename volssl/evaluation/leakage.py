"""Whether an encoder has seen in pre-training what it is evaluated on: files, images, studies, patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volssl.data.identity import Identity, is_counter
from volssl.data.seen import KEY, KINDS, SeenItems, key_mark, read_key
from volssl.evaluation.card import Card, read_card, versions
from volssl.evaluation.encoder import load_items
from volssl.evaluation.findings import Audit, Overlap
from volssl.evaluation.target import Ints
from volssl.names import shown_id

NAMED = 20  # ids that an overlap keeps
TOLD = 5  # ids that its sentence names
SAW = {
    "file": "{}",
    "image": "{} under other names or in other formats",
    "study": "the studies of {}",
    "patient": "the patients of {}",
}


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an encoder's pre-training.

    items: None where it keeps no list. key: of its run's patient ids, None where it is not here.
    """

    card: Card
    items: SeenItems | None = None
    key: bytes | None = None


def known_of(encoder: str | Path) -> Known:
    """Of the encoder in a folder.

    Raises:
        DataError: as ``load_items`` and ``key_beside``.
    """
    return Known(read_card(encoder), load_items(encoder), key_beside(encoder))


def key_beside(encoder: str | Path) -> bytes | None:
    """The key of the run whose folder an encoder lies in, alone or beside a second one.

    Raises:
        DataError: the file is no key.
    """
    here = Path(encoder).resolve()
    return next((key for folder in (here.parent, here.parent.parent) if (key := read_key(folder / KEY))), None)


def audit(data: str, encoder: str, known: Known, identity: Identity, *, test: Ints, train: Ints) -> Audit:
    """What an encoder's pre-training and the items of a data set share.

    Self-supervised pre-training on training items is usual. On test items it is a leak, though no label was there, and
    so is another image of a test patient. Each item counts once, under the first of ``KINDS`` that tells it.

    Args:
        data, encoder: what they are called. identity: of the items, prepared as the encoder wants them.
        test, train: rows of ``identity``; with folds every row is tested, and none is left to train.
    """
    if known.items is None:
        return Audit({encoder: ()}, (), (f"{encoder} keeps no list of its pre-training data: nothing was compared",))
    fits = known.key is not None and key_mark(known.key) == known.items.key
    marks, hashes = identity.marks(known.key if fits else None), known.items.hashes
    compared = tuple(kind for kind in KINDS if kind in marks and len(marks[kind].rows) and len(hashes[kind]))
    seen = {kind: np.unique(marks[kind].rows[np.isin(marks[kind].hashes, hashes[kind])]) for kind in compared}
    overlaps = tuple(_overlaps(data, encoder, identity, seen, test, train))
    notes = (
        *_patients_apart(data, encoder, known, fits, compared),
        *_images_apart(data, encoder, known, identity, seen),
        *_numbers_alone(data, encoder, identity, seen, overlaps),
    )
    return Audit({encoder: compared}, overlaps, notes)


def is_leak(found: Overlap) -> bool:
    """Whether scores may be too good for it: a training item that was seen in pre-training does no harm."""
    return found.test_count > 0


def in_words(found: Overlap) -> str:
    """A sentence for a reader of the results."""
    train = _count(found.train_count, "training item")
    if not is_leak(found):
        saw = SAW[found.kind].format(f"{train} of {found.data}")
        return f"pre-training of {found.encoder} saw {saw}, as is usual: {_first(found.train, found.train_count)}"
    beside = f" and {train}" if found.train_count else ""
    saw = SAW[found.kind].format(f"{_count(found.test_count, 'test item')}{beside} of {found.data}")
    told = f"pre-training of {found.encoder} saw {saw}; scores on test items seen before may be too good"
    return f"{told}: {_first(found.test, found.test_count)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _first(ids: tuple[str, ...], count: int) -> str:
    told = ids[:TOLD]
    return ", ".join(told) + (f" and {count - len(told)} more" if count > len(told) else "")


def _overlaps(
    data: str, encoder: str, identity: Identity, seen: Mapping[str, Ints], test: Ints, train: Ints
) -> Iterator[Overlap]:
    told = np.empty(0, dtype=np.int64)
    for kind, rows in seen.items():
        sides = [np.setdiff1d(np.intersect1d(rows, side), told) for side in (test, train)]
        told = np.union1d(told, rows)
        if len(sides[0]) or len(sides[1]):
            first = [tuple(shown_id(identity.ids[int(row)]) for row in side[:NAMED]) for side in sides]
            yield Overlap(data, encoder, kind, len(sides[0]), len(sides[1]), *first)


def _patients_apart(data: str, encoder: str, known: Known, fits: bool, compared: tuple[str, ...]) -> Iterator[str]:
    """Why patients and studies were not compared."""
    assert known.items is not None
    if {"study", "patient"} & set(compared):
        return
    without = "so patients were not compared"
    if not any(len(known.items.hashes[kind]) for kind in ("study", "patient")):
        yield f"{encoder}: its pre-training data named no patients, {without}"
    elif known.key is None:
        yield f"{encoder}: {KEY}, which stays in the folder of its run, is not here, {without}"
    elif not fits:
        yield f"{encoder}: the {KEY} beside it is another run's, {without}"
    else:
        yield f"{data} names no patients as the pre-training data of {encoder} did, {without}"


def _images_apart(data: str, encoder: str, known: Known, identity: Identity, seen: Mapping[str, Ints]) -> Iterator[str]:
    """Where an image has no hash, or a copy may have another one."""
    assert known.items is not None
    why = "blank ones, tiles and what the cache does not hold were compared as files alone"
    if (have := known.items.imaged) < (of := known.items.items):
        yield f"{encoder}: {have} of {of} pre-training items were compared as images; {why}"
    if (have := len(identity.image.rows)) < (of := len(identity.ids)):
        yield f"{data}: {have} of {of} items were compared as images; {why}"
    now = versions()
    then = [f"{name} {old}" for name, old in known.card.versions.items() if now.get(name, old) != old]
    other = np.setdiff1d(np.intersect1d(seen.get("file", ()), identity.image.rows), seen.get("image", ()))
    missed = "so that other copies of an image may have been missed"
    if len(other):
        told = f"{_count(len(other), 'item')} with the same file as for {encoder} had another image"
        yield f"{data}: {told}, {missed}"
    elif then and "image" in seen:
        yield f"{data}: for {encoder} items were prepared with {', '.join(then)}, {missed}"


def _numbers_alone(
    data: str, encoder: str, identity: Identity, seen: Mapping[str, Ints], overlaps: tuple[Overlap, ...]
) -> Iterator[str]:
    """Numbers such as every data set gives its patients are no proof where nothing else is shared."""
    if [one.kind for one in overlaps] != ["patient"]:
        return
    here = np.isin(identity.patient.rows, seen["patient"])
    names = {identity.patient.names[int(which)] for which in identity.patient.which[here]}
    if all(map(is_counter, names)):
        shared = f"{data} and the pre-training of {encoder} share numbers of patients and neither files nor images"
        yield f"{shared}: many data sets number theirs, so they may be other people"
