"""Configurations, cards of encoders and paths, as somebody would write them who means harm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Files = dict[str, bytes]  # name in a folder to content


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
    for digits in ("\u00b2", "\u0663", "9" * 5000):
        yield f"key {digits[:3]}", f"? {digits}\n: 1\n"
        yield f"method.{digits[:3]}", _changed(base, "method", digits, 1)
        yield f"data.{digits[:3]} as a key", f'"data.{digits}": 1\n'
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
