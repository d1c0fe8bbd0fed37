"""Exports without the paths of the source files that they came from, which name whoever installed them."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

HEADER = 30  # bytes of a member before its name
ALIGNED = 64  # bytes: where torch lays tensors, so that they can be mapped
SOURCES = ".debug_pkl"  # file and line of each operation, for tracebacks alone
_EXTRA = 0x4246  # of a field that pads


def script(content: bytes) -> bytes:
    """A file of TorchScript as ``torch.jit.save`` writes it, without its debugging files."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for member in old.infolist():
            if member.filename.endswith(SOURCES):
                continue
            fresh = zipfile.ZipInfo(member.filename, (1980, 1, 1, 0, 0, 0))
            start = out.tell() + HEADER + len(fresh.filename.encode())
            pad = -(start + 4) % ALIGNED
            fresh.extra = struct.pack("<HH", _EXTRA, pad) + bytes(pad)
            new.writestr(fresh, old.read(member))
    return out.getvalue()


def graph(model: Any) -> None:
    """Take from every node of an ONNX program's model what tells where in the source it was made."""
    for node in [*model.graph.all_nodes(), *(node for one in model.functions.values() for node in one.all_nodes())]:
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
