"""Files of weights and checkpoints, as somebody would write them who means harm."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import safetensors.numpy
import torch


def callables(canary: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Twenty ways to leave a mark, as ``module.name`` and what it is called with."""
    touch = f"open({canary!r}, 'w').close()"
    shell = f"touch {canary}"
    return [
        ("os.system", (shell,)),
        ("posix.system", (shell,)),
        ("nt.system", (shell,)),
        ("os.popen", (shell,)),
        ("os.mkdir", (canary,)),
        ("os.execv", ("/bin/sh", ["sh", "-c", shell])),
        ("subprocess.Popen", (["touch", canary],)),
        ("subprocess.check_output", (["touch", canary],)),
        ("subprocess.getoutput", (shell,)),
        ("pty.spawn", (["touch", canary],)),
        ("builtins.exec", (touch,)),
        ("builtins.eval", (touch,)),
        ("builtins.open", (canary, "w")),
        ("builtins.__import__", ("antigravity",)),
        ("timeit.timeit", (touch, "pass")),
        ("runpy.run_path", (canary,)),
        ("pathlib.Path.touch", (canary,)),
        ("shutil.copyfile", ("/etc/hostname", canary)),
        ("torch.load", (canary,)),
        ("torch.hub.load_state_dict_from_url", ("http://127.0.0.1:9/x",)),
    ]


def reduce(name: str, arguments: tuple[Any, ...], protocol: int) -> bytes:
    """A pickle that calls it; the name is written by hand, so nothing of it is imported here."""
    module, _, function = name.rpartition(".")
    packed = pickle.dumps(arguments, protocol)[2 if protocol >= 2 else 0 : -1]
    if protocol >= 4:
        packed = pickle.dumps(arguments, 3)[2:-1]
        words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, function))
        return b"\x80\x04" + words + b"\x93" + packed + b"R."
    return b"\x80\x02" + f"c{module}\n{function}\n".encode() + packed + b"R."


def instance(name: str, arguments: tuple[Any, ...]) -> bytes:
    """The same by INST, of the oldest pickles."""
    module, _, function = name.rpartition(".")
    items = b"".join(pickle.dumps(one, 0)[:-1] for one in arguments)
    return b"(" + items + f"i{module}\n{function}\n".encode() + b"."


def build(name: str, arguments: tuple[Any, ...]) -> bytes:
    """Inside a dictionary of weights, and with a state to set."""
    inside = reduce(name, arguments, 2)[2:-1]
    return b"\x80\x02}(X\x05\x00\x00\x00state" + inside + b"}(X\x01\x00\x00\x00aK\x01ub" + b"u."


def zipped(data: bytes, packed: int = zipfile.ZIP_STORED) -> bytes:
    """What ``torch.save`` writes, with this pickle in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packed) as archive:
        for name, content in (("data.pkl", data), ("byteorder", b"little"), ("version", b"3\n"), ("data/0", bytes(64))):
            archive.writestr(f"archive/{name}", content)
    return out.getvalue()


def legacy(data: bytes) -> bytes:
    """What torch wrote before 1.6."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    return b"".join(pickle.dumps(one, 2) for one in head) + data + pickle.dumps([], 2)


def tarred(data: bytes) -> bytes:
    """What it wrote before 0.1.10."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in (
            ("sys_info", pickle.dumps({}, 2)),
            ("pickle", data),
            ("storages", data),
            ("tensors", data),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def objects(data: bytes) -> bytes:
    """An array of objects, which numpy reads by unpickling."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return out.getvalue() + data


def pickled(canary: str) -> Iterator[tuple[str, bytes]]:
    """Every callable in one of the forms, so that each form holds several."""
    forms: list[tuple[str, Callable[[str, tuple[Any, ...]], bytes]]] = [
        ("raw 2", lambda n, a: reduce(n, a, 2)),
        ("raw 4", lambda n, a: reduce(n, a, 4)),
        ("raw inst", instance),
        ("raw build", build),
        ("zip", lambda n, a: zipped(reduce(n, a, 2))),
        ("zip build", lambda n, a: zipped(build(n, a))),
        ("zip packed", lambda n, a: zipped(reduce(n, a, 2), zipfile.ZIP_DEFLATED)),
        ("legacy", lambda n, a: legacy(reduce(n, a, 2))),
        ("legacy 4", lambda n, a: legacy(reduce(n, a, 4))),
        ("tar", lambda n, a: tarred(reduce(n, a, 2))),
        ("npy", lambda n, a: objects(reduce(n, a, 2))),
    ]
    for i, (name, arguments) in enumerate(callables(canary)):
        for k in range(3):  # each of the twenty in three forms
            form, make = forms[(i + 4 * k) % len(forms)]
            yield f"{form}: {name}", make(name, arguments)


def laugh(where: str, times: int) -> bytes:
    """A pickle of ten of ten of ten ... ones: as a value, as a key, or called, so that a message shows it."""
    first, last = (b"(", b"t") if where == "key" else (b"](", b"e")
    packs = (first + bytes((ord("h"), i)) * 10 + last + bytes((ord("q"), i + 1)) for i in range(times))
    largest = bytes((ord("h"), times))
    end = {"value": b"}K\x01" + largest + b"s.", "key": b"}" + largest + b"K\x01s.", "called": largest + b")R."}
    return b"\x80\x02](K\x01q\x00" + b"".join(packs) + b"e" + end[where]


def claims() -> Iterator[tuple[str, bytes]]:
    """Files that claim more than they hold, or what cannot be."""
    big = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(1).expand(10**10)}, big)
    yield "expanded to 10**10", big.getvalue()
    for where in ("value", "key", "called"):
        yield f"10**19 in 300 bytes: {where}", zipped(laugh(where, 19))
        yield f"10**19 in 300 bytes, legacy: {where}", legacy(laugh(where, 19))
    yield "packed zeros", zipped(bytes(10**6), zipfile.ZIP_DEFLATED)
    yield "bytearray(10**11)", zipped(reduce("builtins.bytearray", (10**11,), 2))
    yield "deep pickle", b"\x80\x02" + b"(" * 100_000 + b"."
    for name, header, data in (
        ("header of 1 GB", None, b""),
        ("overlapping", {"a": _tensor([4], 0, 16), "b": _tensor([4], 8, 24)}, bytes(24)),
        ("too long", {"a": _tensor([10**12], 0, 4 * 10**12)}, b""),
        ("wrong type", {"a": {**_tensor([4], 0, 16), "dtype": "OBJECT"}}, bytes(16)),
        ("negative", {"a": _tensor([-4], 0, 16)}, bytes(16)),
        ("product overflows", {"a": _tensor([2**33, 2**33], 0, 16)}, bytes(16)),
        ("reversed", {"a": _tensor([4], 16, 0)}, bytes(16)),
        ("nothing", {}, b""),
        ("no mapping", [], b""),
    ):
        text = json.dumps(header).encode()
        length = 2**30 if header is None else len(text)
        yield f"safetensors: {name}", struct.pack("<Q", length) + (b"{" if header is None else text) + data
    deep = b"[" * 100_000
    yield "safetensors: deep", struct.pack("<Q", len(deep) + 5) + b'{"a":' + deep
    yield "safetensors: not text", struct.pack("<Q", 8) + b"{\xff\xfe\xfd\xfc\xfb\xfa}"
    yield "empty", b""
    yield "zeros", bytes(1000)
    yield "text", b"state_dict: everything\n"


def _tensor(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def checkpoints() -> Iterator[tuple[str, bytes]]:
    """Sound files, signed as the run signs them, whose header is not what it should be."""
    tensors = {"method.x": np.zeros(4, np.float32)}
    for name, meta in (
        ("no step", {"meta": "{}"}),
        ("step of words", {"step": "os.system", "meta": "{}"}),
        ("step of 10**4 digits", {"step": "9" * 10_000, "meta": "{}"}),
        ("meta no JSON", {"step": "2", "meta": "!!python/object/apply:os.system [true]"}),
        ("meta a list", {"step": "2", "meta": "[1, 2]"}),
        ("meta deep", {"step": "2", "meta": "[" * 100_000}),
        ("data a word", {"step": "2", "meta": '{"data": "x", "environment": "y", "config": 3}'}),
        ("other data", {"step": "2", "meta": '{"data": {"count": "\\u001b[2J", "sha256": []}}'}),
    ):
        yield f"checkpoint: {name}", safetensors.numpy.save(tensors, meta | {"sha256": digest(tensors, meta)})


def digest(tensors: dict[str, np.ndarray[Any, Any]], header: dict[str, str]) -> str:
    """As ``volssl.engine.checkpoint`` makes it: anybody can."""
    sha = hashlib.sha256()
    for key, value in sorted(header.items()):
        sha.update(json.dumps([key, value]).encode())
    for name, array in sorted(tensors.items()):
        sha.update(json.dumps([name, "torch.float32", list(array.shape)]).encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
