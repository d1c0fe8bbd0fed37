"""The frozen features of every image of a data set as a Parquet table: id, label and a column per feature."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from volssl.data import Sources
from volssl.data.archive import label_columns
from volssl.data.image_config import ImageConfig
from volssl.data.items import PreparedSource, Readers, Report
from volssl.data.seen import key_at
from volssl.data.table import class_names, is_table
from volssl.errors import ConfigError, DataError, RunError
from volssl.evaluation.card import Card, versions
from volssl.evaluation.encoder import Encoder
from volssl.evaluation.features import extract
from volssl.evaluation.mrnet import Rows
from volssl.evaluation.target import Ints
from volssl.names import shown_id, use, visible
from volssl.whole import whole

GROUP = 4096  # rows that are held and written at a time
TOLD = {"method", "step", "seed", "region", "size", "sha256", "versions"}  # of the card


@dataclass(frozen=True, slots=True)
class Embedded:
    """items: rows of the table. left_out: why the others could not be read."""

    items: int
    left_out: tuple[DataError, ...]


def embed(
    encoder: Encoder,
    root: str | Path,
    out: str | Path,
    *,
    cache: str = "runs/cache",
    workers: int = 0,
    batch: int = 8,
    device: str | torch.device = "cpu",
    report: Report | None = None,
    key: bytes | None = None,
) -> Embedded:
    """Write the features of all images under ``root``, prepared as the encoder's were, to the Parquet file ``out``.

    ``id`` is what ``volssl.names.identifier`` makes of an image's path below the root (``train/000123`` in an archive),
    or that path itself where names are shown. ``label``, a string, is what the table
    says of it, or an archive that has one label an image; null where unknown. ``feature_0000`` and on, float32, are
    what ``extract`` gives. Whose an image is, is not written. The schema's metadata say under ``volssl`` which encoder
    it was. The file is there whole or not at all, and takes the place of one that was there. Images that cannot be read
    are left out.

    Args:
        root: a folder, a ``labels.csv`` (all of its splits) or an ``.npz``. cache, workers: as ``data.cache`` and
            ``loop.workers``. batch, device: as in ``extract``. report: (images done, in all, a line or "").
        key: of the ids; without one ``key_of`` the output.

    Raises:
        ConfigError: ``out`` is a folder. DataError: nothing can be read. RunError: ``out`` cannot be written.
    """
    out = Path(out)
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name the file to write, such as {out / 'features.parquet'}")
    if not visible():
        use(key or key_at(key_of(out)))
    tell = report or _silent
    source = _open(encoder.card, str(root), cache, workers, tell)
    ids, labels, written = source.ids, source.labels, _label_in_words(Path(root))
    items, left_out = 0, list(source.bad)
    with _writer(out, encoder) as writer:
        for start, rows in _groups(len(source), batch):
            good, features, bad = _readable(encoder, source, rows, batch, device, _shifted(tell, start, len(source)))
            columns = [
                [shown_id(ids[i]) for i in good],
                [written(labels[i]) for i in good],
                *np.ascontiguousarray(features.T),
            ]
            arrays = [pa.array(column, kind) for column, kind in zip(columns, writer.schema.types, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=writer.schema))
            items, left_out = items + len(good), left_out + bad
        if not items:
            raise left_out[0]
    return Embedded(items, tuple(left_out))


def key_of(out: Path) -> Path:
    """Where the key of a table's ids is kept, beside it, if the encoder's run has none."""
    return out.with_name(f"{out.name}.key")


def _silent(done: int, total: int, line: str) -> None:
    del done, total, line


def _open(card: Card, root: str, cache: str, workers: int, report: Report) -> PreparedSource:
    """All that can be read; an encoder of slices, frames or tiles takes pictures where there is nothing else."""

    def build(config: Sources) -> PreparedSource:
        update: dict[str, object] = {"max_bad": 1.0}
        if isinstance(config, ImageConfig) and config.archive:
            update["label_column"] = 0  # of several, none is written
        return config.model_copy(update=update).build(card.region, readers=Readers(workers), report=report)

    try:
        return build(card.source(root, cache))
    except DataError as error:
        if card.dims != 2 or error.code not in ("kind", "empty"):
            raise
        try:
            return build(card.pictures(root, cache))
        except DataError:
            raise error from None


def _label_in_words(root: Path) -> Callable[[int], str | None]:
    """From a class to what is written of it."""
    if is_table(root):
        return class_names(root).get
    numbered = root.suffix.lower() == ".npz" and label_columns(root) == 1
    return lambda label: str(label) if numbered and label >= 0 else None


def _groups(total: int, batch: int) -> Iterator[tuple[int, Ints]]:
    """The first row of each group and all of them, in whole batches, so that they are cut as ``extract`` cuts them."""
    step = max(batch, GROUP // batch * batch)
    for start in range(0, total, step):
        yield start, np.arange(start, min(start + step, total))


def _shifted(report: Report, start: int, total: int) -> Report:
    return lambda done, _all, line: report(start + done, total, line)


def _readable(
    encoder: Encoder, source: PreparedSource, rows: Ints, batch: int, device: str | torch.device, report: Report
) -> tuple[Ints, NDArray[np.float32], list[DataError]]:
    """The rows that can be read, their features (n, D), and what is wrong with the others."""

    def features(rows: Ints) -> NDArray[np.float32]:
        return extract(encoder, Rows(source, rows), batch=batch, device=device, report=lambda n, m: report(n, m, ""))

    try:
        return rows, features(rows), []
    except DataError:
        bad = {row: error for row in rows.tolist() if (error := _fault(source, row))}
    good = np.array([row for row in rows.tolist() if row not in bad], dtype=np.int64)
    none = np.empty((0, encoder.width), dtype=np.float32)
    return good, features(good) if len(good) else none, list(bad.values())


def _fault(source: PreparedSource, row: int) -> DataError | None:
    try:
        source[row]
    except DataError as error:
        return error
    return None


@contextmanager
def _writer(out: Path, encoder: Encoder) -> Iterator[pq.ParquetWriter]:
    """Writes beside ``out``, which takes its place when the block is left without an error."""
    about = {"compression": "zstd", "use_dictionary": ["label"]}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole(out, shared=True) as fresh, pq.ParquetWriter(fresh, _schema(encoder), **about) as writer:
            yield writer
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error}): make room, or name another file") from error


def _schema(encoder: Encoder) -> pa.Schema:
    card = encoder.card.model_dump(
        mode="json", include={"method", "step", "seed", "region", "size", "sha256", "versions"}
    )
    about = {"encoder": card, "features": encoder.width, "versions": versions()}
    features = [(f"feature_{i:04}", pa.float32()) for i in range(encoder.width)]
    columns = [("id", pa.string()), ("label", pa.string()), *features]
    return pa.schema(columns, metadata={"volssl": json.dumps(about)})
