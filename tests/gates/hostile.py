"""Configurations, files of weights and cards, and paths, as somebody would write them who means harm."""

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

Files = dict[str, bytes]  # name in a folder to content


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


def claims() -> Iterator[tuple[str, bytes]]:
    """Files that claim more than they hold, or what cannot be."""
    big = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(1).expand(10**10)}, big)
    yield "expanded to 10**10", big.getvalue()
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


def cards(card: dict[str, Any], weights: bytes) -> Iterator[tuple[str, Files]]:
    """Folders of encoders whose card is not what it should be."""

    def folder(**changed: Any) -> Files:
        return {"card.json": json.dumps({**card, **changed}).encode(), "model.safetensors": weights}

    backbone, data = card["backbone"], card["data"]
    yield "no card", {"model.safetensors": weights}
    yield "deep card", {"card.json": b"[" * 100_000, "model.safetensors": weights}
    yield "card of 40 MB", {"card.json": b'"' + b"a" * 40_000_000 + b'"', "model.safetensors": weights}
    yield "card a tag", {"card.json": b"!!python/object/apply:os.system [true]", "model.safetensors": weights}
    yield "another format", folder(format=2)
    yield "width of 10**9", folder(backbone=backbone | {"width": 10**9})
    yield "vit of 10**9 blocks", folder(backbone={"name": "vit", "dims": 2, "patch": [4, 4], "depth": 10**9})
    yield "channels of 10**9", folder(channels=10**9)
    yield "region of 10**9", folder(region=[10**9, 10**9])
    yield "size of 10**9", folder(size=[10**9, 10**9])
    yield "negative region", folder(region=[-4, 4])
    yield "target", folder(_target_="os.system")
    yield "target inside", folder(backbone=backbone | {"_target_": "os.system"})
    yield "timm from a hub", folder(backbone={"name": "timm", "model": "hf-hub:evil/model", "dims": 2})
    yield "weights elsewhere", folder(backbone=backbone | {"weights": {"path": "../../../etc/passwd"}})
    yield "data of another name", folder(data=data | {"name": "os.system"})
    yield "not a number", folder(seed=float("nan"), step=float("inf"))
    yield "items elsewhere", folder(fingerprint={"digest": "", "count": -1, "items": "../../x"})
    yield "damaged digest", folder(sha256="0" * 64)


def configurations(base: dict[str, Any], canary: str) -> Iterator[tuple[str, str]]:
    """Texts of configurations, none of which is one."""
    text = json.dumps(base)
    number: Any
    tags = (
        *("!!python/object/apply:os.system", "!!python/name:os.system", "!!python/module:os", "!include", "!!binary"),
        *("!!python/object/new:subprocess.Popen", "!!set", "!<tag:yaml.org,2002:python/object/apply:os.system>"),
    )
    for tag in tags:
        yield f"tag {tag}", f"seed: {tag} ['touch {canary}']\n"
    for where in ("", "data", "method", "optim", "views", "backbone", "loop"):
        for key in ("_target_", "__class__", "$expr", "_partial_", "class", "import"):
            yield f"{where}.{key}", _changed(base, where, key, "os.system")
    for word in (f"$__import__('os').system('touch {canary}')", "${oc.env:HOME}", "%os.system", "@data", "{{7*7}}"):
        yield f"expression {word[:9]}", _changed(base, "", "seed", word)
    yield (
        "bomb",
        "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
    )
    yield "alias to itself", "a: &a [*a]\n"
    yield "merge", "a: &a {x: 1}\nb: {<<: *a}\n"
    yield "twice", text[:-1] + ', "seed": 1}'
    for word in (
        ".nan",
        ".inf",
        "-.inf",
        "1e400",
        "-1",
        "1e-400",
        "0x10",
        "1_000",
        "9" * 5000,
        "-" + "9" * 30,
        "true",
        "null",
    ):
        yield f"seed {word[:9]}", text[:-1].replace('"seed": 0', f'"seed": {word}') + "}" if '"seed"' in text else ""
    for key in ("steps", "batch", "chunk", "workers", "save_every"):
        for number in (-1, 10**12, 10**30, 1.5, "x", [1], {"a": 1}, None, True):
            yield f"loop.{key} {number!r}", _changed(base, "loop", key, number)
    for key in ("depth", "width", "dims", "stem"):
        for number in (-1, 10**12, 1.5, "os.system", [1], None):
            yield f"backbone.{key} {number!r}", _changed(base, "backbone", key, number)
    for number in ([10**12], [-1], [[1]], ["x"], []):
        yield f"method.projector {number!r}", _changed(base, "method", "projector", number)
    for key in ("size", "crop", "noise"):
        for number in ([-4, -4], [10**9, -(10**9)], ["a"], "16", [[1]], [True, True], {"0": 1}, [1e308, -1.0]):
            yield f"views.{key} {number!r}", _changed(base, "views", key, number)
    for key in ("root", "output", "cache"):
        for number in (1, [], {}, None, True, "", 1.5):
            yield f"{key} {number!r}", _changed(base, "" if key == "output" else "data", key, number)
    yield "100,000 keys", "\n".join(f"k{i}: 1" for i in range(100_000))
    yield "100,000 entries", f"seed: [{'1,' * 100_000}]"
    yield "2 MB", "seed: " + "a" * 2_000_000
    yield "deep list", "seed: " + "[" * 50_000
    yield "deep map", "{a: " * 50_000
    yield "deep blocks", "".join(" " * i + f"k{i}:\n" for i in range(400))
    for name, odd in (
        ("NUL", "\\0"),
        ("right to left", "\\u202e"),
        ("escape", "\\e[2J"),
        ("bell", "\\a"),
        ("line", "\\u2028"),
    ):
        yield f"{name} in a word", f'output: "run{odd}x"\n'
        yield f"{name} in a key", f'"run{odd}x": 1\n'
    yield "surrogate", 'output: "\\ud800"\n'
    yield "raw NUL", "seed: 0\0\n"
    yield "raw bytes", "seed: \x01\x02\n"
    yield "two documents", f"{text}\n---\n{text}\n"
    for whole in (
        "",
        "[]",
        "1",
        "null",
        "'x'",
        "? [a, b]\n: c",
        "? {a: b}\n: c",
        "%YAML 9.9\n---\na",
        "a: b: c",
        "\t- a",
        "{",
        "}",
        "- - -",
    ):
        yield f"whole {whole!r}", whole


def _changed(base: dict[str, Any], where: str, key: str, value: Any) -> str:
    copy = json.loads(json.dumps(base))
    (copy[where] if where else copy)[key] = value
    return json.dumps(copy)


def paths(canary: str) -> list[str]:
    """Names of files as nobody should write them."""
    return [
        "../../../../../../etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
        "a\0b",
        "a\nb",
        "-rf",
        "--help",
        f"; touch {canary}",
        f"$(touch {canary})",
        f"`touch {canary}`",
        f"|touch {canary}",
        "a" * 4096,
        "/".join(["a"] * 2000),
        "~root/.ssh/id_rsa",
        "file:///etc/passwd",
        "http://127.0.0.1:9/x",
        "\\\\127.0.0.1\\share",
        "\u202egnp.exe",
    ]
