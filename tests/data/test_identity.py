"""What tells items from one another: by hand, through every kind of source, and whom an id does not name."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.conftest import MakeSlice, SaveAll
from tests.data.tiff import write
from volssl.data import StackConfig, VolumeConfig
from volssl.data.identity import Identity, Marks, identify, is_counter, normal
from volssl.data.image_config import ImageConfig
from volssl.data.mixture_config import MixtureConfig
from volssl.data.slide_config import SlideConfig

REGION = (2, 4, 4)
KEY = bytes(range(32))


def first8(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")


def pairs(marks: Marks) -> list[tuple[int, int]]:
    return list(zip(marks.rows.tolist(), marks.hashes.tolist(), strict=True))


def stacks(folder: Path, *seeds: int, **fields: Any) -> StackConfig:
    """``0.npy``, ``1.npy``, ...: noise of these seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds):
        np.save(folder / f"{i}.npy", np.random.default_rng(seed).integers(1, 255, REGION).astype(np.uint8))
    return StackConfig(root=str(folder), cache=str(folder.parent / "cache"), **fields)


def of_stacks(folder: Path, *seeds: int, **fields: Any) -> Identity:
    return identify(stacks(folder, *seeds, **fields).build(REGION))


def test_by_hand(tmp_path: Path) -> None:
    """A file's mark: 8 bytes of the SHA-256 of its bytes; an image's: of its type, shape, a zero and its float16."""
    source = stacks(tmp_path / "a", 5, 6).build(REGION)
    found = identify(source)
    assert found.ids == ("0.npy", "1.npy")
    files = [first8(hashlib.sha256((tmp_path / "a" / name).read_bytes()).digest()) for name in found.ids]
    arrays = [source[i].image.numpy().astype("<f2").tobytes() for i in range(2)]
    images = [first8(hashlib.sha256(b"float16 (1, 2, 4, 4)\0" + array).digest()) for array in arrays]
    assert pairs(found.file) == [(0, files[0]), (1, files[1])]
    assert pairs(found.image) == [(0, images[0]), (1, images[1])]
    assert (found.patient.names, found.study.names) == ((), ())


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """RFC 2104 with a block of 64 bytes: H(key xor 5c5c.. | H(key xor 3636.. | message))."""
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in padded) + inner).digest()


def table(folder: Path, *patients: str) -> Path:
    """A stack for each patient, and a ``labels.csv``."""
    stacks(folder, *range(len(patients)))
    rows = [f'{i}.npy,0,"{patient}"' for i, patient in enumerate(patients)]
    (folder / "labels.csv").write_text("\n".join(["path,label,patient", *rows]))
    return folder / "labels.csv"


def of_table(path: Path, **fields: Any) -> Identity:
    return identify(StackConfig(root=str(path), cache=str(path.parent.parent / "cache"), **fields).build(REGION))


def test_a_patient_of_a_table_is_marked_under_the_key_alone(tmp_path: Path) -> None:
    """Two rows of one patient, however written, have one mark; under another key it is another."""
    found = of_table(table(tmp_path / "a", "Smith, J", " smith,  j ", "77"))
    assert found.patient.names == ("smith, j", "77")
    assert set(found.marks(None)) == {"file", "image"}
    expected = [first8(hmac_sha256(KEY, message)) for message in (b"patient\0smith, j", b"patient\x0077")]
    marks = found.marks(KEY)["patient"]
    assert pairs(marks) == [(0, expected[0]), (1, expected[0]), (2, expected[1])]
    assert not set(found.marks(b"other")["patient"].hashes) & set(marks.hashes)


NOBODY = ["", " ", "0", "000", "0.0", "ANON", "anonymous", "Anonymized^", "NA", "n/a", "NaN", "None", "UNKNOWN", "XXX"]
NOBODY += ["xxxxxxxx", "---", "?", "^", "Patient ID", "no_id", "De-Identified", "TEST", "\0"]


@pytest.mark.parametrize("name", NOBODY)
def test_what_stands_for_nobody_is_no_patient(name: str) -> None:
    assert normal(name) == ""


def test_ids_are_compared_as_people_write_them() -> None:
    """pandas turns 0012 into 12, or into 12.0 where a number is missing; DICOM pads with a blank or a zero byte."""
    same = [
        (" P007 ", "p007"),
        ("0012", "12"),
        ("12.0", "12"),
        ("a\0", "a"),
        ("DOE^Jane", "doe^jane"),
        ("\uff21\uff22\uff11", "ab1"),  # full-width letters, as Japanese systems write them
    ]
    assert all(normal(given) == expected for given, expected in same)
    different = ["12", "112", "1.2", "p12", "p-12", "111", "1", "a", "患者", "10", "100"]
    assert len({normal(name) for name in different}) == len(different)
    assert "" not in map(normal, different)


@given(st.text())
def test_what_is_normal_stays_as_it_is(name: str) -> None:
    once = normal(name)
    assert normal(once) == once
    assert normal(f"  {name.upper().lower()}\t") == normal(name.upper().lower())


def test_nobody_makes_no_two_items_one(tmp_path: Path) -> None:
    found = of_table(table(tmp_path / "a", "ANON", "0", "anon", "p1"))
    assert pairs(found.marks(KEY)["patient"])[0][0] == 3
    assert len(found.patient.rows) == 1


def test_numbers_that_every_data_set_gives() -> None:
    assert all(map(is_counter, map(normal, ["7", "0042", "sub-01", "Patient 12", "P003", "case_9"])))
    assert not any(map(is_counter, map(normal, ["1234567", "lidc-0001", "lung_aca_133", "a7f3", "doe^jane", "12345"])))


def test_patients_that_the_caller_knows_come_to_those_of_the_source(tmp_path: Path) -> None:
    source = StackConfig(root=str(table(tmp_path / "a", "p1", "p2")), cache=str(tmp_path / "cache")).build(REGION)
    found = identify(source, patients={1: "q2"})
    named = [
        (row, found.patient.names[which]) for row, which in zip(found.patient.rows, found.patient.which, strict=True)
    ]
    assert named == [(0, "p1"), (1, "p2"), (1, "q2")]


def of_pictures(folder: Path, **fields: Any) -> dict[str, tuple[int | None, int | None]]:
    """id -> (file, image)."""
    source = ImageConfig(root=str(folder), cache=str(folder.parent / "cache"), **fields).build((8, 8))
    found = identify(source)
    files, images = dict(pairs(found.file)), dict(pairs(found.image))
    return {name: (files.get(i), images.get(i)) for i, name in enumerate(source.ids)}


def test_a_picture_saved_again_has_another_file_and_the_same_image(tmp_path: Path) -> None:
    """Compressed otherwise, as another format, renamed; and a picture of which one pixel differs."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    folder = tmp_path / "a"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "a.png", compress_level=0)
    Image.fromarray(pixels).save(folder / "b.png", compress_level=9)
    Image.fromarray(pixels).save(folder / "c.tif")
    shutil.copy(folder / "a.png", folder / "d.png")
    pixels[4, 4] = 255 - pixels[4, 4]
    Image.fromarray(pixels).save(folder / "e.png")
    found = of_pictures(folder)
    assert len({image for _, image in found.values()}) == 2
    assert found["a.png"] == found["d.png"]
    assert len({file for file, _ in found.values()}) == 4
    assert {name for name, (_, image) in found.items() if image == found["a.png"][1]} == {f"{n}.png" for n in "abd"} | {
        "c.tif"
    }


def test_blank_images_are_not_one_image(tmp_path: Path) -> None:
    """Of 16 x 16 white pixels with one dark corner the middle is white paper; with one dark pixel it is somebody's."""
    folder = tmp_path / "a"
    folder.mkdir()
    for name, dark in (("a", (0, 0)), ("b", (0, 1)), ("c", (8, 8))):
        white = np.full((16, 16, 3), 255, np.uint8)
        white[dark] = 0
        Image.fromarray(white).save(folder / f"{name}.png")
    found = of_pictures(folder, colour="rgb", fit="crop")
    assert [image is None for _, image in found.values()] == [True, True, False]


def test_what_the_cache_does_not_hold_has_a_file_alone(tmp_path: Path) -> None:
    found = of_stacks(tmp_path / "a", 1, 2, cache_gb=0.0)
    assert (len(found.file.rows), len(found.image.rows)) == (2, 0)


def test_rows_of_an_archive_are_told_one_by_one(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    images[2] = images[0]
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=np.arange(3))
    source = ImageConfig(root=str(tmp_path / "a.npz"), cache=str(tmp_path / "cache")).build((8, 8))
    for marks in (identify(source).file, identify(source).image):
        one, two, three = marks.hashes
        assert one == three != two


def test_the_items_of_a_mixture_are_those_of_its_parts(tmp_path: Path) -> None:
    for name, seeds in (("a", (0, 1)), ("b", (2, 0))):
        stacks(tmp_path / name, *seeds)
    parts = ({"name": "stack", "root": "a"}, {"name": "stack", "root": "b"})
    given = {"name": "mixture", "parts": parts, "root": str(tmp_path), "cache": str(tmp_path / "cache")}
    found = identify(MixtureConfig.model_validate(given).build(REGION))
    apart = [of_stacks(tmp_path / name, *seeds) for name, seeds in (("a", (0, 1)), ("b", (2, 0)))]
    for kind in ("file", "image"):
        marks = getattr(found, kind)
        assert marks.rows.tolist() == [0, 1, 2, 3]
        assert marks.hashes.tolist() == [h for one in apart for h in getattr(one, kind).hashes.tolist()]
        assert marks.hashes[0] == marks.hashes[3]


def test_all_slices_are_of_one_volume(tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll) -> None:
    save_all(tmp_path / "a" / "x", [make_slice(3.0 * i, PatientID="P9") for i in range(5)])
    config = VolumeConfig(root=str(tmp_path / "a"), cache=str(tmp_path / "cache"), slices=3, fit="resize")
    found = identify(config.build((4, 4)))
    assert len(found.ids) == 3
    for marks in found.marks(KEY).values():
        assert len(set(marks.hashes.tolist())) <= 1
    assert found.file.rows.tolist() == found.image.rows.tolist() == found.patient.rows.tolist() == [0, 1, 2]


def test_tiles_are_told_by_their_slide_whatever_the_grid(tmp_path: Path) -> None:
    """32 x 64 pixels hold two tiles of 32, or three that overlap by half; of no tile an image is read."""
    pytest.importorskip("openslide")
    (tmp_path / "slides").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    write(tmp_path / "slides" / "a.tif", [pixels])

    def of_tiles(stride: tuple[int, int] | None) -> Identity:
        fields: dict[str, Any] = {"mpp": 0.5, "tissue": 0.0, "stride": stride}
        return identify(
            SlideConfig(root=str(tmp_path / "slides"), cache=str(tmp_path / "cache"), **fields).build((32, 32))
        )

    two, three = of_tiles(None), of_tiles((32, 16))
    assert (len(two.ids), len(three.ids)) == (2, 3)
    slide = first8(hashlib.sha256((tmp_path / "slides" / "a.tif").read_bytes()).digest())
    assert set(two.file.hashes.tolist()) == set(three.file.hashes.tolist()) == {slide}
    assert len(two.image.rows) == 0


def dicom(folder: Path, make_slice: MakeSlice, save_all: SaveAll, **attributes: str) -> None:
    save_all(folder, [make_slice(3.0 * i, **attributes) for i in range(3)])


def test_what_dicom_headers_say(tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll) -> None:
    """The id, with its issuer where there is one, and the study; placeholders and nothing are nobody's."""
    given = {
        "a": {"PatientID": "P1 ", "StudyInstanceUID": "1.2.3"},
        "b": {"PatientID": "P1", "IssuerOfPatientID": "North"},
        "c": {"PatientID": "P1", "IssuerOfPatientID": "South", "StudyInstanceUID": "1.2.4"},
        "d": {"PatientID": "ANONYMOUS"},
        "e": {},
    }
    for name, attributes in given.items():
        dicom(tmp_path / "dicom" / name, make_slice, save_all, **attributes)
    source = VolumeConfig(root=str(tmp_path / "dicom"), cache=str(tmp_path / "cache")).build((2, 4, 4))
    found = identify(source)
    assert source.ids == ("a", "b", "c", "d", "e")
    assert found.patient.names == ("p1", "north\0p1", "south\0p1")
    assert found.patient.rows.tolist() == [0, 1, 2]
    assert (found.study.names, found.study.rows.tolist()) == (("1.2.3", "1.2.4"), [0, 2])


def test_a_header_that_is_gone_says_nothing(tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll) -> None:
    dicom(tmp_path / "dicom" / "a", make_slice, save_all, PatientID="P1")
    source = VolumeConfig(root=str(tmp_path / "dicom"), cache=str(tmp_path / "cache")).build((2, 4, 4))
    assert identify(source).patient.names == ("p1",)
    shutil.rmtree(tmp_path / "dicom")
    found = identify(source)
    assert (found.patient.names, len(found.image.rows)) == ((), 1)


def test_progress_is_told_in_items(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    identify(stacks(tmp_path / "a", 1, 2).build(REGION), report=lambda *at: told.append(at))
    assert told == [(1, 2, ""), (2, 2, "")]
