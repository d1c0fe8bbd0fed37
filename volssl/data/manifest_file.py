"""What a Parquet file holds, as JSON: read where it does no harm that a hostile one makes its reader crash."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from volssl.data.manifest import ABOUT, AGAIN, BATCH, FORMAT, WIDEST, schema
from volssl.data.preflight import check_regular
from volssl.errors import DataError


def contents(path: Path, rows: bool) -> Iterator[np.ndarray]:
    """Bytes of JSON: what the file says of itself, and then, where wanted, its rows, a list for each batch.

    Raises:
        DataError: ``manifest``: not a file that ``volssl index`` of this version wrote. Whatever a reader of damaged
            files throws.
    """
    file = pq.ParquetFile(path, page_checksum_verification=True)
    yield _bytes(_about(file, check_regular(path), path))
    for batch in file.iter_batches(BATCH) if rows else ():
        yield _bytes(batch.to_pylist())


def _about(file: pq.ParquetFile, size: int, path: Path) -> dict[str, Any]:
    found, held = file.schema_arrow, file.metadata
    if ABOUT.encode() not in (held.metadata or {}):
        raise DataError("manifest", "a Parquet file, but no manifest: volssl index writes one", str(path))
    told: dict[str, Any] = json.loads(held.metadata[ABOUT.encode()])
    if told.get("format") != FORMAT or not found.remove_metadata().equals(schema()):
        raise DataError("manifest", f"of another version of volssl: {AGAIN}", str(path))
    groups = [held.row_group(i) for i in range(held.num_row_groups)]
    values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    if any(group.total_byte_size > WIDEST for group in groups) or values > 64 * size:
        raise DataError("manifest", f"{size} bytes claim to hold {values} values: {AGAIN}", str(path))
    return told


def _bytes(told: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(told).encode(), dtype=np.uint8)
