"""The cache: made once, stale never, damaged noticed, killed resumed, bounded, the same however it is made."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from volssl.data import PhantomConfig, StackConfig, VolumeConfig, left_out
from volssl.data.cache import CachedSource
from volssl.data.cache_build import build_cache
from volssl.data.cache_file import HEADER
from volssl.data.door import Found, load
from volssl.data.image_config import ImageConfig
from volssl.data.items import Items, Keep, PreparedSource, Readers, Window
from volssl.data.recipe import SHAPING, Entry
from volssl.data.video_config import VideoConfig
from volssl.errors import DataError, RunError

REGION = (2, 4, 4)
BYTES = 2 * 4 * 4 * 2 + HEADER  # of an item in float16


def read(entry: Entry) -> MetaTensor:
    """The door's reader, which also tells the folder above what was read, and can be made to hang or crash."""
    file = entry.parts[0].files[0]
    with (file.parent.parent / "read.txt").open("a") as f:
        f.write(f"{entry.id}\n")
    if file.with_suffix(".crash").exists():
        os.kill(os.getpid(), signal.SIGSEGV)
    if file.with_suffix(".slow").exists():
        time.sleep(60)
    for once in ("SIGKILL", "SIGSTOP"):
        if (mark := file.with_suffix(f".{once}")).exists():
            mark.unlink()
            os.kill(os.getpid(), signal.Signals[once])
    if (mark := file.with_suffix(".codec")).exists() and (strikes := mark.stat().st_size):
        os.truncate(mark, strikes - 1)
        raise DataError("crashed", "the codec died", str(file))
    return load(entry.parts[0])


class Cohort:
    """A few arrays on disk and the cache made of them."""

    def __init__(self, folder: Path, count: int = 4) -> None:
        self.folder, self.cache = folder, folder / "cache"
        (folder / "scans").mkdir()
        for i in range(count):
            self.write(f"{i}.npy", i)

    def write(self, name: str, seed: int) -> Path:
        path = self.folder / "scans" / name
        np.save(path, np.random.default_rng(seed).integers(0, 255, REGION).astype(np.uint8))
        return path

    def path(self, name: str) -> Path:
        return self.folder / "scans" / name

    def entries(self) -> list[Entry]:
        files = sorted((self.folder / "scans").glob("*.npy"), reverse=True)
        return [Entry(file.name, (Found(file.name, "npy", (file,)),), label=int(file.stem)) for file in files]

    def build(
        self,
        *,
        workers: int = 0,
        timeout: float = 60.0,
        without: frozenset[tuple[int, str]] = frozenset(),
        region: tuple[int, ...] = REGION,
        bad: tuple[DataError, ...] = (),
        **fields: Any,
    ) -> CachedSource:
        (self.folder / "read.txt").write_text("")
        settings = {"intensity": Window(centre=127.5, width=255.0), **fields}
        config = StackConfig(root=str(self.folder), cache=str(self.cache), **settings)
        readers = Readers(workers, timeout, without)
        return build_cache(self.entries(), read, config, region, readers=readers, bad=bad)

    def read(self) -> list[str]:
        """The items read since the last build began."""
        return sorted((self.folder / "read.txt").read_text().split())

    def files(self) -> list[Path]:
        return sorted(self.cache.glob("*.safetensors"))


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path)


def images(source: CachedSource) -> torch.Tensor:
    return torch.stack([source[i].image for i in range(len(source))])


def test_items_are_what_preprocessing_says(cohort: Cohort) -> None:
    """Bytes 0..255 under a window of 255 are x / 255, rounded to float16."""
    source = cohort.build()
    assert source.ids == ("0.npy", "1.npy", "2.npy", "3.npy")
    assert source.labels == (0, 1, 2, 3)
    item = source[2]
    expected = torch.from_numpy(np.load(cohort.path("2.npy"))).float() / 255
    assert torch.equal(item.image[0], expected.half().float())
    assert (item.id, item.label, item.spacing) == ("2.npy", 2, (1, 1, 1))
    assert (source.channels, source.region, source.bad) == (1, REGION, ())


def test_the_second_time_nothing_is_read(cohort: Cohort) -> None:
    first = images(cohort.build())
    assert cohort.read() == ["0.npy", "1.npy", "2.npy", "3.npy"]
    second = cohort.build()
    assert torch.equal(first, images(second))
    assert cohort.read() == []


def test_fingerprints_are_those_of_the_files(cohort: Cohort) -> None:
    one = subprocess.run(["sha256sum", cohort.path("1.npy")], capture_output=True, text=True, check=True)
    assert cohort.build().fingerprints[1] == one.stdout.split()[0]


def test_a_replaced_file_of_the_same_size_and_mtime_is_noticed(cohort: Cohort) -> None:
    before = cohort.build()
    old = cohort.path("1.npy").stat()
    cohort.write("1.npy", 99)
    os.utime(cohort.path("1.npy"), ns=(old.st_atime_ns, old.st_mtime_ns))
    now = cohort.path("1.npy").stat()
    assert (now.st_size, now.st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    after = cohort.build()
    assert cohort.read() == ["1.npy"]
    assert after.fingerprints[1] != before.fingerprints[1]
    expected = torch.from_numpy(np.load(cohort.path("1.npy"))).float() / 255
    assert torch.equal(after[1].image[0], expected.half().float())


def test_a_touched_file_is_not_read_again(cohort: Cohort) -> None:
    cohort.build()
    os.utime(cohort.path("1.npy"))
    cohort.build()
    assert cohort.read() == []


@pytest.mark.parametrize(
    "change",
    [
        {"intensity": Keep()},
        {"fit": "resize"},
        {"crop_foreground": True},
        {"cache_dtype": "float32"},
        {"non_finite": "zero"},
        {"region": (2, 3, 3)},
    ],
)
def test_changed_preprocessing_makes_other_items(cohort: Cohort, change: dict[str, Any]) -> None:
    cohort.build()
    cohort.build(**change)
    assert len(cohort.read()) == 4
    cohort.build()
    assert cohort.read() == []  # the first ones are still there


def test_what_does_not_change_items_makes_none_anew(cohort: Cohort) -> None:
    cohort.build()
    cohort.build(max_bad=0.5, cache_gb=1.0)
    assert cohort.read() == []


@pytest.mark.parametrize("damage", ["bit", "short", "empty", "header"])
def test_a_damaged_file_is_made_anew(cohort: Cohort, damage: str) -> None:
    source = cohort.build()
    whole = images(source)
    for file in cohort.files():
        content = bytearray(file.read_bytes())
        if damage in ("bit", "header"):
            content[-1 if damage == "bit" else 20] ^= 1
        file.write_bytes(content[: {"short": -1, "empty": 0}.get(damage)])
    assert torch.equal(images(source), whole)  # mended while reading
    assert torch.equal(images(cohort.build()), whole)
    assert cohort.read() == []


@pytest.mark.parametrize(("number", "code"), [(errno.EACCES, "permission"), (errno.EIO, "unreadable")])
def test_a_file_that_the_disk_does_not_give_is_one_line(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    source = cohort.build()
    monkeypatch.setattr("volssl.data.cache_file.safe_open", failing)
    with pytest.raises(DataError, match=f"safetensors: {code}: .*{os.strerror(number)}") as caught:
        source[0]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [-1, 0])
def test_a_truncated_file_is_made_anew_at_the_start(cohort: Cohort, keep: int) -> None:
    whole = images(cohort.build())
    cohort.files()[0].write_bytes(cohort.files()[0].read_bytes()[:keep])
    again = cohort.build()
    assert len(cohort.read()) == 1
    assert torch.equal(images(again), whole)


def test_damage_to_an_item_whose_file_has_changed_stops_the_run(cohort: Cohort) -> None:
    source = cohort.build()
    for file in cohort.files():
        file.unlink()
    cohort.write("2.npy", 5)
    assert source[1].id == "1.npy"
    with pytest.raises(DataError, match=r"2.npy: changed"):
        source[2]


def test_workers_change_nothing(cohort: Cohort) -> None:
    here = cohort.build()
    bits = [file.read_bytes() for file in cohort.files()]
    names = cohort.files()
    for file in names:
        file.unlink()
    there = cohort.build(workers=2)
    assert len(cohort.read()) == 4
    assert cohort.files() == names
    assert [file.read_bytes() for file in names] == bits
    assert (there.ids, there.fingerprints) == (here.ids, here.fingerprints)


def test_a_crash_costs_one_item(cohort: Cohort) -> None:
    cohort.path("2.crash").touch()
    source = cohort.build(workers=2, max_bad=0.5)
    assert source.ids == ("0.npy", "1.npy", "3.npy")
    assert [error.code for error in source.bad] == ["crashed"]
    assert "2.npy" in str(source.bad[0])


@pytest.mark.parametrize("once", ["SIGKILL", "SIGSTOP"])
def test_what_happens_to_a_reader_once_leaves_no_trace(cohort: Cohort, once: str) -> None:
    """As the kernel does it where memory is short: to every item a process, and each is read in another."""
    for i in range(4):
        cohort.path(f"{i}.{once}").touch()
    source = cohort.build(workers=2, timeout=2.0)
    assert cohort.read() == sorted(2 * [f"{i}.npy" for i in range(4)])
    assert source.bad == ()
    assert torch.equal(images(source), images(cohort.build()))


def test_what_a_run_left_out_for_a_crash_is_not_tried_when_it_goes_on(cohort: Cohort) -> None:
    cohort.path("2.crash").touch()
    source = cohort.build(workers=1, max_bad=0.5)
    left_out.remember(cohort.folder, source)
    cohort.path("2.crash").unlink()
    cohort.build()  # by another run, in the same cache
    again = cohort.build(without=left_out.recall(cohort.folder), max_bad=0.5)
    assert (again.ids, again.fingerprints) == (source.ids, source.fingerprints)
    assert [(error.code, error.where) for error in again.bad] == [("crashed", "2.npy")]


def test_what_a_run_left_out_for_what_a_file_holds_is_not_on_the_list(cohort: Cohort) -> None:
    cohort.path("1.npy").write_bytes(b"")
    left_out.remember(cohort.folder, cohort.build(max_bad=0.5))
    assert left_out.recall(cohort.folder) == frozenset()


@pytest.mark.parametrize("line", ["{", "[]", "null", '{"id": "c"}', '{"part": "x", "id": "c"}', 99999 * "["])
def test_a_damaged_line_of_the_list_is_none(tmp_path: Path, line: str) -> None:
    (tmp_path / left_out.FILE).write_text(f'{line}\n{{"part": 1, "id": "a"}}\n\0')
    assert left_out.recall(tmp_path) == {(1, "a")}


def test_a_codec_that_is_lost_once_leaves_no_trace_either(cohort: Cohort) -> None:
    """Without workers it is the codec's own process; twice, and the item is left out."""
    cohort.path("1.codec").write_text("x")
    cohort.path("2.codec").write_text("xx")
    source = cohort.build(max_bad=0.5)
    assert source.ids == ("0.npy", "1.npy", "3.npy")
    assert [(error.code, error.where) for error in source.bad] == [("crashed", "2.npy")]


def test_a_hanging_reader_costs_one_item(cohort: Cohort) -> None:
    cohort.path("2.slow").touch()
    source = cohort.build(workers=2, timeout=2.0, max_bad=0.5)
    assert [error.code for error in source.bad] == ["timeout"]
    assert source.ids == ("0.npy", "1.npy", "3.npy")


def test_what_cannot_be_read_is_left_out_with_its_reason(cohort: Cohort) -> None:
    cohort.path("1.npy").write_bytes(b"\x93NUMPY but not really")
    source = cohort.build(max_bad=0.25)
    assert source.ids == ("0.npy", "2.npy", "3.npy")
    assert source.labels == (0, 2, 3)
    assert source[1].label == 2
    assert len(source.bad) == 1
    assert "1.npy" in str(source.bad[0])


def test_over_max_bad_the_run_stops_with_a_list(cohort: Cohort) -> None:
    """12 of 16 cannot be read: ten lines and "2 more"; what was good is kept."""
    for i in range(4, 16):
        cohort.path(f"{i}.npy").write_bytes(b"nothing")
    with pytest.raises(DataError) as caught:
        cohort.build()
    head, *lines = str(caught.value).splitlines()
    assert "12 of 16 items cannot be read (data.max_bad is 0.01)" in head
    assert "raise data.max_bad" in head
    assert len(lines) == 11
    assert all(".npy" in line for line in lines[:10])
    assert lines[-1] == "  and 2 more"
    assert len(cohort.files()) == 4


def test_what_could_not_be_found_counts(cohort: Cohort) -> None:
    """1 of 5 is 20 %: allowed at 0.2, not at 0.19."""
    lost = DataError("gap", "slices are missing", "series 7")
    assert cohort.build(bad=(lost,), max_bad=0.2).bad == (lost,)
    with pytest.raises(DataError, match="series 7: gap"):
        cohort.build(bad=(lost,), max_bad=0.19)


def test_nothing_readable_is_an_error_at_any_max_bad(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        Cohort(tmp_path, count=0).build(max_bad=1.0)


def test_all_unreadable_is_an_error_at_any_max_bad(cohort: Cohort) -> None:
    for i in range(4):
        cohort.path(f"{i}.npy").write_bytes(b"")
    with pytest.raises(DataError, match="4 of 4"):
        cohort.build(max_bad=1.0)


def test_beyond_the_ceiling_items_are_read_each_time_with_the_same_bits(cohort: Cohort) -> None:
    whole = images(cohort.build(cache_dtype="float16"))
    for file in cohort.files():
        file.unlink()
    source = cohort.build(cache_gb=2.5 * BYTES / 1e9)
    assert len(cohort.files()) == 2
    assert len(cohort.read()) == 4  # each is tried once
    assert torch.equal(images(source), whole)
    assert len(cohort.read()) == 6
    cohort.build(cache_gb=2.5 * BYTES / 1e9)
    assert cohort.read() == []  # and not tried again


def test_no_cache_at_all(cohort: Cohort) -> None:
    source = cohort.build(cache_gb=0.0)
    assert cohort.files() == []
    assert len(images(source)) == 4


def test_the_longest_unused_files_make_room(cohort: Cohort) -> None:
    cohort.build(region=(1, 4, 4))
    old = cohort.files()
    for i, file in enumerate(old):
        os.utime(file, (1000 + i, 1000 + i))
    small, large = old[0].stat().st_size, 4 * BYTES
    cohort.build(cache_gb=(large + 1.5 * small) / 1e9)
    left = [file.exists() for file in old]
    assert left == sorted(left)
    assert 0 < sum(left) < 4
    assert len(cohort.files()) == 4 + sum(left)


def test_float16_that_would_overflow_is_refused(cohort: Cohort) -> None:
    np.save(cohort.path("1.npy"), np.arange(32.0).reshape(REGION) * 1e4)
    assert "cache_dtype: float32" in str(cohort.build(intensity=Keep(), max_bad=0.3).bad[0])
    assert cohort.build(intensity=Keep(), cache_dtype="float32")[1].image.max() == 310_000


def test_killed_in_the_middle_it_keeps_what_is_done(cohort: Cohort) -> None:
    """The third of four items hangs; the process is killed there, and the next one finds two items done."""
    cohort.path("2.slow").touch()
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + (
        "from pathlib import Path; import test_cache as t\n"
        "cohort = t.Cohort.__new__(t.Cohort)\n"
        f"cohort.folder = Path({str(cohort.folder)!r}); cohort.cache = cohort.folder / 'cache'\n"
        "cohort.build()"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        deadline = time.monotonic() + 60
        while not cohort.cache.exists() or len(cohort.files()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    cohort.path("2.slow").unlink()
    source = cohort.build()
    assert cohort.read() == ["2.npy", "3.npy"]
    assert source.ids == ("0.npy", "1.npy", "2.npy", "3.npy")


def test_a_cut_line_in_the_memory_of_fingerprints_is_no_line(cohort: Cohort) -> None:
    for i in range(4):
        os.utime(cohort.path(f"{i}.npy"))
    time.sleep(2.1)  # files younger than that are not remembered
    cohort.build()
    memory = cohort.cache / "fingerprints.txt"
    lines = memory.read_text().split("\n\n")
    assert len(lines) == 4
    memory.write_text(memory.read_text()[:-60])
    again = cohort.build()
    assert len(memory.read_text().split()) >= 2 * 4
    assert cohort.read() == []
    assert len(again) == 4


def test_progress_is_told(cohort: Cohort) -> None:
    cohort.path("1.npy").write_bytes(b"")
    told: list[tuple[int, int, str]] = []
    config = StackConfig(root="", cache=str(cohort.cache), intensity=Keep(), max_bad=0.5)
    build_cache(cohort.entries(), read, config, REGION, report=lambda *what: told.append(what))
    assert [(done, total) for done, total, _ in told] == [(i, 4) for i in range(5)]
    lines = [line for *_, line in told if line]
    assert len(lines) == 1
    assert "1.npy" in lines[0]


def test_a_source_pickles(cohort: Cohort) -> None:
    source = cohort.build()
    assert torch.equal(images(pickle.loads(pickle.dumps(source))), images(source))


def test_a_loader_process_that_finds_all_cached_needs_no_monai(cohort: Cohort) -> None:
    source = cohort.build()
    file = cohort.folder / "source.pickle"
    file.write_bytes(pickle.dumps(source))
    script = (
        "import pickle, sys; from pathlib import Path\n"
        f"source = pickle.loads(Path({str(file)!r}).read_bytes())\n"
        "print(source[1].image.sum().item(), 'monai' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(source[1].image.sum().item()), "False"]


def test_a_cache_folder_that_cannot_be_is_one_line(cohort: Cohort) -> None:
    cohort.cache.write_text("a file")
    with pytest.raises(RunError, match=r"data.cache.*name another folder"):
        cohort.build()


def test_no_temporary_file_stays_behind(cohort: Cohort) -> None:
    cohort.build()
    assert {file.suffix for file in cohort.cache.iterdir()} <= {".safetensors", ".txt"}


CHOOSING = {  # fields on which no item's numbers depend, or only through its entry, its channels or its region
    *("name", "root", "split", "label_column", "region", "max_bad", "cache", "cache_gb"),
    *("sequences", "sequences_as", "time", "time_points", "stride", "clips", "frames"),
    *("train", "valid", "pixels", "phantom_seed", "prevalence", "plane"),
}


@pytest.mark.parametrize("kind", [VolumeConfig, StackConfig, PhantomConfig, ImageConfig, VideoConfig])
def test_every_field_is_in_the_key_or_said_not_to_be(kind: type[Items]) -> None:
    assert set(kind.model_fields) - SHAPING - CHOOSING == set()
    assert set() == SHAPING & CHOOSING


def test_another_number_of_channels_is_another_item(tmp_path: Path) -> None:
    """A file of three time points, cached as three channels, is not served where two are expected."""
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((4, 4, 4, 3)), np.eye(4)), tmp_path / "a.nii")

    def build(points: int) -> PreparedSource:
        fields: dict[str, Any] = {"root": str(tmp_path / "a.nii"), "cache": str(tmp_path / "cache")}
        return VolumeConfig(time="channels", time_points=points, **fields).build((4, 4, 4))

    assert build(3)[0].image.shape == (3, 4, 4, 4)
    with pytest.raises(DataError, match="has 3 channels, data says 2"):
        build(2)
