"""Each bomb and special file is refused with its reason, in under a second and under 200 MB over the base."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from tests.gates.bombs import BOMBS, deflated, pipe, png
from tests.gates.bombs_packed import BLOCK, nifti
from tests.gates.record import record
from tests.gates.watched import Outcome, watched
from volssl.data import child
from volssl.data.archive import read_row, rows
from volssl.data.child import disposable
from volssl.data.dicom_pixels import read_frames
from volssl.data.door import Found, find, kind_of, load
from volssl.data.image_config import ImageConfig
from volssl.data.picture import read_picture
from volssl.data.slide_file import Slide
from volssl.data.suffixes import VIDEOS
from volssl.errors import DataError

SECONDS, MEGABYTES, HANG = 1.0, 200.0, 20.0


def read(path: Path) -> None:
    """As the source that reads such files would, by way of the listing and directly."""
    if path.suffix in VIDEOS:
        from volssl.data.video_file import count

        count(path)
    elif path.suffix == ".svs":
        Slide(path, 0.5).overview(8.0)
    elif kind_of(path) == "npz":
        for entry in rows(ImageConfig(root=str(path)))[:1]:
            read_row(entry)
    elif kind_of(path) == "images":
        read_picture(path)
    else:
        _volume(path)


def _volume(path: Path) -> None:
    kind = kind_of(path)
    if kind == "dicom":
        next(read_frames(path, [0]))
    found, errors = find(path)
    if errors:
        raise errors[0]
    for one in found or [Found(path.name, kind, (path,))]:
        load(one)


def outcome(reader: Callable[[Path], object], path: Path) -> str:
    """The reason, or what else came of it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(path)
    except DataError as error:
        return error.code
    except BaseException as error:
        return type(error).__name__
    return "read"


def measured(reader: Callable[[Path], object], paths: list[Path], limit: float = HANG) -> list[Outcome]:
    """Each in a fork of its own, so that its peak is its own; codecs decode in it, as where the cache is filled."""

    def work(path: Path) -> str:
        with disposable():
            return outcome(reader, path)

    return [next(iter(watched([partial(work, path)], limit))) for path in paths]


def failures(outcomes: list[Outcome], expected: list[tuple[str, ...]]) -> list[tuple[int, Outcome]]:
    """Those that were not refused as they should be, took a second, or 200 MB."""
    return [
        (i, one)
        for i, (one, codes) in enumerate(zip(outcomes, expected, strict=True))
        if one.said not in codes or one.seconds > SECONDS or one.megabytes > MEGABYTES
    ]


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All of them, and every library that reads them loaded."""
    for module in ("av", "openslide"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("bombs")
    warm = folder / "warm.png"
    png(warm, 16)
    with disposable():
        for name in ("warm.png", "warm.mp4", "warm.svs", "warm.jpg"):
            outcome(read, folder / name)
    for job in ("slide_decoder", "video_decoder", "picture_file"):
        __import__(f"volssl.data.{job}")
    return [make(folder / name) for name, make, _ in BOMBS]


def test_bombs_and_special_files(bombs: list[Path]) -> None:
    outcomes = measured(read, bombs)
    slowest, largest = max(one.seconds for one in outcomes), max(one.megabytes for one in outcomes)
    expected = [codes for *_, codes in BOMBS]
    bad = failures(outcomes, expected)
    result = f"{len(bombs) - len(bad)} of {len(bombs)} refused; slowest {slowest:.2f} s, largest {largest:.0f} MB"
    record("bombs and special files", result, "each refused in under 1 s and 200 MB over the base, no hang")
    assert not [(bombs[i].name, one) for i, one in bad]


def test_bombs_for_codecs_harm_no_decoding_process(bombs: list[Path]) -> None:
    """The same in the process that decodes for others: refused by what their heads say, and it is no larger."""
    child._end()
    read_picture(bombs[0].parent / "warm.png")
    (idle,) = child._idle
    before = _peak(idle)
    for path, (*_, codes) in zip(bombs, BOMBS, strict=True):
        if path.suffix in (".png", ".tif", ".bmp", ".jpg", ".dcm"):
            assert outcome(read, path) in codes, path.name
    assert child._idle == [idle]
    assert _peak(idle) - before < MEGABYTES


def _peak(one: child._Child) -> float:
    """Megabytes."""
    status = Path(f"/proc/{one._process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def test_links_and_pipes_in_a_folder_stop_nothing(tmp_path: Path) -> None:
    """Beside one good volume, each is one refusal; what leads out of the root is not even looked at."""
    nib.save(nib.Nifti1Image(np.ones((4, 3, 2), np.float32), np.diag([1.0, 2, 3, 1])), tmp_path / "good.nii")
    for name, make, codes in BOMBS:
        if codes in (("not_a_file",), ("link",)) and not name.endswith((".npz", ".mp4")):
            make(tmp_path / name)
    (one,) = measured(find_all, [tmp_path])
    assert one.said == "read"
    assert one.seconds < SECONDS


def find_all(root: Path) -> None:
    """Raises AssertionError unless the good volume is found and the rest refused."""
    found, errors = find(root)
    refused = {Path(error.where).name: str(error.code) for error in errors}
    for one in found:
        if one.id != "good.nii":
            with pytest.raises(DataError) as caught:
                load(one)
            refused[Path(caught.value.where).name] = str(caught.value.code)
    expected = {path.name: "link" if path.is_symlink() else "not_a_file" for path in root.iterdir()}
    expected.pop("good.nii")
    assert refused == expected


@pytest.mark.parametrize(
    ("ceiling", "name"),
    [
        ("elements.MAX_ELEMENTS", "items.dcm"),
        ("elements.MAX_ELEMENTS", "numbers.dcm"),
        ("gunzip.MAX_MEMBERS", "members.nii.gz"),
        ("gunzip.MAX_IDLE", "zeros.nii.gz"),
        ("nifti.MAX_OFFSET", "extended.nii.gz"),
    ],
)
def test_a_door_without_a_ceiling_is_caught(
    ceiling: str, name: str, bombs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"volssl.data.{ceiling}", 2**40)
    at = [path.name for path in bombs].index(name)
    assert failures(measured(read, [bombs[at]]), [BOMBS[at][2]])


@pytest.mark.parametrize("bomb", ["nibabel", "pydicom", "pipe"])
def test_a_reader_that_believes_the_file_is_caught(bomb: str, tmp_path: Path) -> None:
    """The measurement notices the memory that nibabel and pydicom take, and a reader that waits for a pipe."""
    path = tmp_path / "a.nii.gz"
    if bomb == "nibabel":
        shape = (256, 256, 1024)
        path.write_bytes(gzip.compress(nifti(shape) + bytes(2**28), compresslevel=1))
        (one,) = measured(lambda path: np.asarray(nib.load(path).dataobj), [path])
        assert one.megabytes > MEGABYTES
    elif bomb == "pydicom":
        (one,) = measured(dcmread, [deflated(tmp_path / "a.dcm", 20 * BLOCK)])
        assert one.megabytes > MEGABYTES
    else:
        (one,) = measured(lambda path: path.read_bytes(), [pipe(tmp_path / "a.png")], 0.5)
        assert one.said == "hang"
    assert failures([one], [("too_large",)])
