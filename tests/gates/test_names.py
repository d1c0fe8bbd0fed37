"""No planted name, id, date, UID, header text, file or folder name reaches any output, whatever happens to the run."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import json
import logging
import lzma
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
import weakref
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.gates.forked import REPOSITORY, Forks
from tests.gates.planted import CODEC, COUNT, USER, WORD, WORDS, folder_of, texts
from tests.gates.record import record
from tests.gates.scan import Scanner
from tests.gates.sizes import size

FLAT: dict[str, dict[str, Any]] = {  # of each kind, how it is read as pictures of three channels
    "png": {"name": "image", "colour": "rgb"},
    "still": {"name": "image", "colour": "rgb", "intensity": {"name": "percentile"}},
    "video": {"name": "video", "colour": "rgb", "frames": 2},
    "slide": {"name": "slide", "tissue": 0.0},
}
DEEP: dict[str, dict[str, Any]] = {"dicom": {"name": "volume"}, "nifti": {"name": "volume"}}
NEEDS = {"video": "av", "slide": "openslide"}
FORMATS = ("torchscript", "onnx", "monai-bundle")


def kinds(wanted: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those for which there is a reader; the others are told."""
    found = {}
    for kind, how in wanted.items():
        try:
            __import__(NEEDS.get(kind, "csv"))
        except (ImportError, OSError) as error:
            print(f"skipped, for there is no reader: {kind} ({error})")
            continue
        found[kind] = how
    return found


class Life:
    """What becomes of a run, from its first step to what is made of its encoder. All of it is written below ``place``.

    root: of the images, which lie elsewhere. found: what the scanner finds where a command was killed, and at the end.
    """

    def __init__(self, forks: Forks, place: Path, root: Path, data: dict[str, dict[str, Any]], **environ: str) -> None:
        self.forks, self.place, self.root, self.data = forks, place, root, data
        for name in ("tmp", "home", "work"):
            (place / name).mkdir(parents=True)
        short = Path(tempfile.mkdtemp(), "t")  # for sockets, which the name of the folder itself is too long for
        short.symlink_to(place / "tmp")
        weakref.finalize(self, shutil.rmtree, short.parent)
        own = {"TMPDIR": str(short), "HOME": str(place / "home"), "USER": USER, "LOGNAME": USER}
        self.environ = {"VOLSSL_NAMES": "", "MPLCONFIGDIR": "", "COLUMNS": "10000", **own, **environ}
        self.said, self.steps = place / "said.txt", 0
        for kind in data:
            folder_of(kind, root / kind)
        self.scanner = Scanner((*WORDS, CODEC, sys.prefix, str(REPOSITORY)), texts(root))
        self.found: list[str] = []
        self.moments = random.Random(len(data))

    def command(self, *arguments: str, code: int = 0, before: str = "", given: Any = None) -> None:
        """Run it to its end, and check the code that it ends with."""
        pid = self._start(*arguments, before=before, given=given)
        found = self.forks.wait(pid)
        assert found == code, (arguments, found, self.said.read_text()[-2000:])

    def _start(self, *arguments: str, **how: Any) -> int:
        with self.said.open("a") as file:
            file.write(f"$ volssl {' '.join(arguments[:2])}\n")
        return self.forks.start(arguments, cwd=self.place / "work", said=self.said, environ=self.environ, **how)

    def look(self) -> None:
        """Scan all that was written."""
        self.found += self.scanner.hits(self.place)

    def killed(self, *arguments: str) -> None:
        """Start it, end it at some early moment, look at what it leaves, and run it to its end."""
        pid = self._start(*arguments)
        while os.getpgid(pid) != pid:
            time.sleep(0.01)
        time.sleep(self.moments.uniform(0.1, 1.5))
        os.killpg(pid, signal.SIGKILL)
        assert self.forks.wait(pid) in (-signal.SIGKILL, 0)
        self.look()
        self.command(*arguments)

    def stopped(self, config: str, by: signal.Signals) -> int:
        """Train until some steps more are done, then send the signal; the code."""
        log = self.place / "work/run/metrics.jsonl"
        before = _lines(log)
        pid = self._start("train", config)
        while _lines(log) < before + 3:
            time.sleep(0.01)
            assert not _ended(pid), self.said.read_text()[-2000:]
        os.killpg(pid, by)
        return self.forks.wait(pid)

    def write(self, name: str, config: dict[str, Any]) -> str:
        """A configuration."""
        (self.place / "work" / name).write_text(json.dumps(config))
        return name

    def parts(self, **more: Any) -> list[dict[str, Any]]:
        return [{**how, "root": kind, **more} for kind, how in self.data.items()]

    def run(self, output: str = "run", **more: Any) -> dict[str, Any]:
        """A run that takes some seconds, on all kinds at once."""
        flat = "png" in self.data
        region = [16, 16] if flat else [8, 16, 16]
        data = {"name": "mixture", "root": str(self.root), "region": region, "parts": self.parts(max_bad=0.5)}
        return {
            "output": output,
            "data": data | {"cache": "cache"},
            "views": {"size": region, "crop": [0.5, 1.0], "noise": [0.0, 0.1]},
            "backbone": {"name": "resnet", "dims": len(region), "depth": 10, "stem": "small", "width": 4},
            "method": {"name": "byol", "projector": [16, 8], "predictor": [16, 8]},
            "optim": {"name": "sgd", "lr": 0.01},
            "loop": {"steps": 40, "batch": 4, "chunk": 4, "save_every": 2, "tensorboard": True, "log_every": 1}
            | {"workers": size(0, 2), "device": "cpu"},
            **more,
        }

    def study(self, kind: str, table: str = "labels.csv") -> dict[str, Any]:
        """An evaluation of the encoder on one kind."""
        region = [16, 16] if "png" in self.data else [8, 16, 16]
        data = {**self.data[kind], "root": str(self.root / kind / table), "region": region}
        part = list(self.data).index(kind)
        return {
            "sets": {
                "planted": {"data": data, "folds": 2, "encoders": {"mine": {"path": "run/encoder", "part": part}}}
            },
            "protocols": [{"name": "knn"}, {"name": "linear"}],
            "bootstrap": 100,
            "cache": "cache",
            "device": "cpu",
            "output": f"study-{kind}",
        }

    def of_voxels(self, **target: Any) -> dict[str, Any]:
        """An evaluation on the masks of the NIfTI files."""
        study = self.study("nifti") | {"protocols": [{"name": "voxels"}], "output": "study-masks"}
        study["sets"]["planted"]["target"] = {"name": "masks", "column": "mask", "classes": ["a", "b"], **target}
        return study

    def from_a_manifest(self, kind: str) -> None:
        """Indexed with a contact sheet, in full again by what is remembered, and trained on."""
        index = ["index", str(self.root / kind), "-o", f"{kind}-index.parquet", "--html", f"{kind}.html"]
        self.killed(*index)
        for _ in range(size(0, 1)):
            self.command(*index)
        run = self.run(f"run-{kind}")
        run["data"] = {**self.data[kind], "root": f"{kind}-index.parquet", "region": run["data"]["region"]}
        run["loop"] |= {"steps": 2}
        self.command("train", self.write("indexed.yaml", run))
        table = ["-o", f"{kind}-again.parquet"]
        self.command("embed", f"run-{kind}/encoder", f"{kind}-index.parquet", *table)

    def all_of_it(self) -> None:
        """Indexed, stopped, interrupted, killed, resumed, evaluated, embedded, exported, failed."""
        for kind in list(self.data)[: size(1, COUNT)]:
            self.from_a_manifest(kind)
        config = self.write("run.yaml", self.run())
        assert self.stopped(config, signal.SIGTERM) == 143
        assert self.stopped(config, signal.SIGINT) == 130
        assert self.stopped(config, signal.SIGKILL) == -signal.SIGKILL
        self.look()
        self.command("train", config)
        run = size(self.command, self.killed)
        for kind in self.data:
            run("evaluate", self.write(f"study-{kind}.yaml", self.study(kind)))
            part = ["--part", str(list(self.data).index(kind))]
            run("embed", "run/encoder", str(self.root / kind), "-o", f"{kind}.parquet", *part)
            self.command("embed", "run/encoder", str(self.root / kind / "all.csv"), "-o", f"{kind}-all.parquet", *part)
        if "nifti" in self.data:
            self.command("evaluate", self.write("study-masks.yaml", self.of_voxels()))
        for to in FORMATS:
            code = 2 if to == "monai-bundle" and len(self.data) > 2 else 0
            self.command("export", "run/encoder", "--to", to, code=code)
        self.failures(config)
        self.look()

    def failures(self, config: str) -> None:
        """Whatever can be said of images that cannot be used, and faults of the program."""
        self.command("train", self.write("bad.yaml", self.run("bad", nonsense=1)), code=2)
        strict = self.run("strict")
        strict["data"]["parts"] = self.parts(max_bad=0.0)
        self.command("train", self.write("strict.yaml", strict), code=2)
        for kind in self.data:
            wrong = self.study(kind, "all.csv") | {"output": "wrong"}
            self.command("evaluate", self.write("wrong.yaml", wrong), code=2)
            leak = self.study(kind) | {"output": "leak"}
            leak["sets"]["planted"]["target"] = {"name": "number", "column": "remark"}
            self.command("evaluate", self.write("leak.yaml", leak), code=2)
        if "nifti" in self.data:
            one = self.of_voxels(classes=["a"]) | {"output": "one"}
            self.command("evaluate", self.write("one.yaml", one), code=2)
        fresh = self.write("fails.yaml", self.run("fails"))
        before = f"{__name__}:break_something"
        self.command("train", fresh, code=1, before=before, given=str(next(self.root.rglob("*.*"))))
        self.command("check", config)


def break_something(name: str) -> None:
    """In the command: libraries that talk, and a fault of the program whose words hold a name, in every place."""
    from volssl.data import cache
    from volssl.data.loader import Loader

    def talk(*_: Any) -> Any:
        logging.getLogger("pydicom").warning("Invalid value %s", name)
        logging.getLogger("nibabel.global").critical(name)
        warnings.warn(f"cannot read {name}", UserWarning, stacklevel=1)

        def fail() -> None:
            raise ValueError(name)

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

        class Lost:
            def __del__(self) -> None:
                raise OSError(name)

        Lost()
        try:
            fail()
        except ValueError as error:
            raise KeyError(name) from error

    cache.CachedSource.__getitem__ = talk  # type: ignore[method-assign]
    Loader.__iter__ = talk  # type: ignore[method-assign]


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("wanted", [FLAT, DEEP], ids=["flat", "deep"])
def test_no_planted_word_is_in_any_output(wanted: dict[str, dict[str, Any]], forks: Forks, tmp_path: Path) -> None:
    """Forty words x every kind, and a life that has everything in it."""
    life = Life(forks, tmp_path / "out", tmp_path / "images", kinds(wanted))
    life.all_of_it()
    files = sum(path.is_file() for path in (tmp_path / "out").rglob("*"))
    record(
        f"{COUNT} planted words x {', '.join(life.data)}",
        f"{len(life.found)} hits in {files} files",
        "0 hits; the scanner finds all that is planted for it",
    )
    assert not life.found, "\n".join(life.found[:20])
    assert files > 30


def test_where_names_are_shown_they_are_found(forks: Forks, tmp_path: Path) -> None:
    """The twin: the same scan of the same life is not blind."""
    life = Life(forks, tmp_path / "out", tmp_path / "images", {"png": FLAT["png"]}, VOLSSL_NAMES="1")
    run: dict[str, Any] = life.run() | {
        "data": {**FLAT["png"], "root": str(tmp_path / "images/png"), "max_bad": 0.5, "cache": "cache"}
    }
    run["loop"] |= {"steps": 4}
    life.command("train", life.write("run.yaml", run))
    life.command("embed", "run/encoder", str(life.root / "png"), "-o", "png.parquet")
    found = Scanner(WORDS).hits(tmp_path / "out")
    assert any("said.txt" in hit for hit in found)
    assert any("png.parquet: parquet > raw" in hit for hit in found)


def packed(word: bytes) -> dict[str, bytes]:
    """A word as it may lie in a file."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("array.npy", b"numbers" + word)
    about = zlib.compress(b"Author" + word)
    chunk = len(about).to_bytes(4, "big") + b"zTXt" + about + bytes(4)
    png = b"\x89PNG\r\n\x1a\n" + chunk
    text = word.decode()
    listed = io.BytesIO()
    pq.write_table(pa.table({"files": [["a", text]]}), listed, compression="zstd")
    long = os.urandom(5000)
    digests = [hashlib.new(name, word).digest() for name in ("md5", "sha1", "sha256")]
    return {
        "raw": b"\xff\x00" + word + b"\xfe",
        "utf-16": b"a" + text.encode("utf-16-le") + text.encode("utf-16-be"),
        "utf-32": b"a" + text.encode("utf-32-le"),
        "hexadecimal": b"0x" + word.hex().encode(),
        "base64": b" ".join(base64.b64encode(bytes(before) + word + b"x") for before in range(3)),
        "percent": b"file:///a%20b/%5" + f"{word[0]:x}"[1:].encode() + word[1:],
        "zip and gzip": gzip.compress(archive.getvalue()),
        "a cut zip": archive.getvalue()[:-30],
        "a cut gzip": gzip.compress(word + long)[:-2000],
        "a damaged gzip": gzip.compress(word + long)[:-2000] + bytes(2000),
        "zlib": b"header" + zlib.compress(word),
        "xz": b"header" + lzma.compress(word),
        "bzip2": bz2.compress(word),
        "a list in a Parquet file": listed.getvalue(),
        "a cut Parquet file": listed.getvalue()[:-20],
        "a picture in a page": b"<img src='data:image/png;base64," + base64.b64encode(png) + b"'>",
        **{f"a hash of {len(one)} bytes": b"digest" + one for one in digests},
        **{f"a hash of {len(one)} bytes in digits": one.hex().upper().encode() for one in digests},
        **{f"{len(one)} bytes of a hash, cut": f'"{one.hex()[:16]}"'.encode() for one in digests},
    }


def test_the_scanner_finds_what_was_planted_for_it() -> None:
    word = f"{WORD}12"
    scanner = Scanner((WORD,), (word,))
    found = {how: scanner.in_bytes(content) for how, content in packed(word.encode()).items()}
    assert all(found.values()), found
    assert not any(scanner.in_bytes(content) for content in packed(b"sound asleep").values())
    for before in range(3):
        assert scanner.in_bytes(base64.b64encode(bytes(before) + word.encode() + b"x")) == ["base64"]
    planted = len(found)
    record(
        "the scanner of planted words", f"{sum(map(bool, found.values()))}/{planted} encodings", f"{planted}/{planted}"
    )
