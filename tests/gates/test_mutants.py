"""Thousands of damaged DICOM and NIfTI files through the door: a sample in bounds, or one DataError, and quickly."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom import dcmread

from tests.gates.mutations import mutated
from tests.gates.record import record
from tests.gates.sizes import size
from tests.gates.watched import Outcome, watched
from volssl.data.dicom_pixels import read_frames, read_image
from volssl.data.door import find, load
from volssl.data.header import read_dataset
from volssl.data.preflight import MAX_VOXELS, finite
from volssl.errors import DataError

HANG = 5.0  # seconds
SEEDS = (
    *("CT_small", "MR_small", "MR_small_bigendian", "MR_small_implicit", "MR_small_RLE", "MR_small_jp2klossless"),
    *("MR_small_jpeg_ls_lossless", "JPEG2000", "SC_rgb_jpeg_gdcm", "SC_rgb_rle_2frame", "SC_rgb_jpeg", "rtdose"),
    *("SC_rgb_rle_16bit_2frame", "examples_palette", "SC_rgb_dcmtk_+eb+cy+s2", "JPEGLSNearLossless_16"),
)
HEAD = 2500  # bytes in which a DICOM header of these lies
Reader = Callable[[Path], None]


def in_bounds(image: np.ndarray) -> None:
    """Raises AssertionError for anything that is no sample."""
    assert image.dtype == np.float32
    assert 0 < image.size <= MAX_VOXELS
    assert np.isfinite(image).all()


def read_dicom(path: Path) -> None:
    """As a volume, as a flat image and as a clip; refused where no way leads in."""
    refusals: list[DataError] = []
    led_in = 0

    def volume() -> None:
        found, errors = find(path)
        for one in found:
            in_bounds(load(one).numpy())
        if not found:
            raise errors[0] if errors else DataError("empty", "no image")

    def flat() -> None:
        in_bounds(finite(read_image(path), "refuse", ""))

    def clip() -> None:
        for frame in read_frames(path, [0, 1]):
            in_bounds(finite(frame, "refuse", ""))

    for way in (volume, flat, clip):
        try:
            way()
            led_in += 1
        except DataError as error:
            refusals.append(error)
            if error.code == "crashed":  # and would again
                break
    if not led_in:
        raise refusals[-1]


def read_nifti(path: Path) -> None:
    """As a volume, every time point of it."""
    found, errors = find(path)
    if errors:
        raise errors[0]
    for one in found:
        in_bounds(load(one).numpy())


def dicom_seeds() -> dict[str, bytes]:
    """Uncompressed in three ways, RLE, JPEG, JPEG-LS, JPEG 2000; grey, colour, palette; one frame and several."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return {f"{name}.dcm": (folder / f"{name}.dcm").read_bytes() for name in SEEDS}


def nifti_seeds() -> dict[str, bytes]:
    """NIfTI-1 and -2, integers and floating point, three and four dimensions, packed and not."""
    draw = np.random.default_rng(0)
    affine = np.array([[0.0, -2, 0, 9], [1.5, 0, 0, -4], [0, 0, 3, 7], [0, 0, 0, 1]])
    seeds = {}
    for name, kind, shape, dtype in (
        ("a.nii", nib.Nifti1Image, (12, 10, 8), np.int16),
        ("b.nii", nib.Nifti2Image, (12, 10, 8), np.float32),
        ("c.nii.gz", nib.Nifti1Image, (12, 10, 8), np.float64),
        ("d.nii.gz", nib.Nifti1Image, (12, 10, 8, 3), np.uint8),
        ("e.nii.gz", nib.Nifti2Image, (16, 16, 8), np.int16),
        ("f.nii.gz", nib.Nifti1Image, (12, 10, 8), np.float32),
    ):
        plain = kind(draw.integers(0, 200, shape).astype(dtype), affine).to_bytes()
        seeds[name] = gzip.compress(plain, mtime=0) if name.endswith("gz") else plain
    return seeds


def nifti_mutant(data: bytes, seed: str, head: int) -> bytes:
    """Every other packed file is damaged before it is packed: its checksum is right then."""
    if data.startswith(b"\x1f\x8b") and zlib.crc32(seed.encode()) % 2:
        return gzip.compress(mutated(gzip.decompress(data), seed, head), compresslevel=1, mtime=0)
    return mutated(data, seed, head)


def sound_gzip(data: bytes) -> bool:
    """Whether every member is whole and has its checksum; nothing but zeros follows. By zlib alone."""
    while data.strip(b"\0"):
        member = zlib.decompressobj(wbits=31)
        try:
            member.decompress(data)
        except zlib.error:
            return False
        if not member.eof:
            return False
        data = member.unused_data
    return True


class Campaign:
    """Files made of seeds, and what a reader made of each."""

    def __init__(self, seeds: dict[str, bytes], mutate: Callable[[bytes, str, int], bytes], head: int, n: int) -> None:
        self._seeds, self._mutate, self._head, self._names = seeds, mutate, head, [*seeds] * (n // len(seeds) + 1)
        self.count = n

    def data(self, i: int) -> bytes:
        return self._mutate(self._seeds[self._names[i]], f"{self._names[i]} {i}", self._head)

    def run(self, reader: Reader, folder: Path, limit: float = 4 * HANG) -> list[Outcome]:
        """What became of each; one that took too long is tried again, for a hang lasts and a busy machine does not."""
        works = [partial(self._one, reader, folder, i) for i in range(self.count)]
        warm = partial(self._warm, reader, folder)
        outcomes = list(watched([warm, *works], limit))[1:]
        for i, one in enumerate(outcomes):
            if HANG < one.seconds < limit:
                _, outcomes[i] = watched([warm, works[i]], limit)
        return outcomes

    def _warm(self, reader: Reader, folder: Path) -> str:
        """The seeds themselves are read: the process that decodes has started then."""
        for name, data in self._seeds.items():
            path = folder / f"seed-{name}"
            path.write_bytes(data)
            with contextlib.suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader(path)
        return "warm"

    def _one(self, reader: Reader, folder: Path, i: int) -> str:
        path = folder / f"{i}-{self._names[i]}"
        path.write_bytes(self.data(i))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader(path)
        except DataError as error:
            return f"refused:{error.code}"
        except AssertionError:
            return "out of bounds"
        except BaseException as error:
            return f"foreign:{type(error).__name__}"
        finally:
            path.unlink()
        return "read"


def failures(outcomes: list[Outcome]) -> list[tuple[int, str]]:
    """Whatever is neither a sample nor a DataError, or took too long."""
    bad = [(i, one.said) for i, one in enumerate(outcomes) if one.said.partition(":")[0] not in ("read", "refused")]
    return bad + [(i, f"{one.seconds:.1f} s") for i, one in enumerate(outcomes) if one.seconds > HANG]


def unsound(campaign: Campaign, outcomes: list[Outcome]) -> tuple[list[int], int]:
    """Which damaged gzip streams were read, and how many there are."""
    packed = [i for i in range(campaign.count) if campaign._names[i].endswith("gz")]
    damaged = [i for i in packed if campaign.data(i)[:2] == b"\x1f\x8b" and not sound_gzip(campaign.data(i))]
    return [i for i in damaged if outcomes[i].said == "read"], len(damaged)


def told(outcomes: list[Outcome]) -> str:
    """The counts, for the record."""
    said = Counter(one.said.partition(":")[0] for one in outcomes)
    crashed = sum(one.said == "refused:crashed" for one in outcomes)
    slowest = max(one.seconds for one in outcomes)
    counts = ", ".join(f"{count} {what}" for what, count in sorted(said.items(), reverse=True))
    return f"{counts}; {crashed} crashed the codec's process; slowest {slowest:.2f} s"


def test_mutated_dicom(tmp_path: Path) -> None:
    campaign = Campaign(dicom_seeds(), mutated, HEAD, size(400, 5000))
    outcomes = campaign.run(read_dicom, tmp_path)
    record("mutated DICOM", f"{campaign.count}: {told(outcomes)}", "no crash, no hang over 5 s, only DataError")
    assert not failures(outcomes)
    assert {"refused", "read"} == {one.said.partition(":")[0] for one in outcomes}


def test_mutated_nifti(tmp_path: Path) -> None:
    campaign = Campaign(nifti_seeds(), nifti_mutant, 352, size(400, 5000))
    outcomes = campaign.run(read_nifti, tmp_path)
    passed, damaged = unsound(campaign, outcomes)
    result = f"{campaign.count}: {told(outcomes)}; {damaged - len(passed)} of {damaged} gzip failures refused"
    record("mutated NIfTI", result, "no crash, no hang over 5 s, only DataError, every gzip failure refused")
    assert not failures(outcomes)
    assert damaged > campaign.count / 8
    assert not passed


def test_the_seeds_themselves_are_read(tmp_path: Path) -> None:
    """Or the gates would refuse whatever they like; every way of packing is among them."""
    for name, data in nifti_seeds().items():
        (tmp_path / name).write_bytes(data)
        read_nifti(tmp_path / name)
    encodings = set()
    for name, data in dicom_seeds().items():
        (tmp_path / name).write_bytes(data)
        encodings.add(read_dataset(tmp_path / name).file_meta.TransferSyntaxUID)
        for frame in read_frames(tmp_path / name, [0]):
            in_bounds(frame)
    assert len(encodings) >= 8


@pytest.mark.parametrize(
    ("reader", "fault"),
    [(lambda path: nib.load(path).get_fdata(), "gzip"), (lambda path: dcmread(path).pixel_array, "foreign")],
)
def test_readers_without_check_or_guard_are_caught(reader: Reader, fault: str, tmp_path: Path) -> None:
    if fault == "gzip":
        campaign = Campaign(nifti_seeds(), nifti_mutant, 352, 60)
        assert unsound(campaign, campaign.run(reader, tmp_path))[0]
    else:
        campaign = Campaign(dicom_seeds(), mutated, HEAD, 60)
        assert any(said.startswith("foreign") for _, said in failures(campaign.run(reader, tmp_path)))


def test_a_reader_that_crashes_or_hangs_is_caught(tmp_path: Path) -> None:
    campaign = Campaign(nifti_seeds(), nifti_mutant, 352, 6)

    def faulty(path: Path) -> None:
        if path.name.startswith("1-"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if path.name.startswith("3-"):
            time.sleep(60)

    outcomes = campaign.run(faulty, tmp_path, limit=0.5)
    assert [(i, said.partition(":")[0]) for i, said in failures(outcomes)] == [(1, "crash"), (3, "hang")]
    assert outcomes[1].said == f"crash:{int(signal.SIGSEGV)}"
    assert outcomes[3].seconds == 0.5
    assert len(outcomes) == 6
