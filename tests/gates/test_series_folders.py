"""Generated series folders: what is accepted lies where the ground truth lies, everything else has a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from tests.gates.folders import FAULTS, Folder, drawn, untrue, written
from tests.gates.record import record
from tests.gates.sizes import size
from volssl.data.door import find, load
from volssl.errors import DataError

SCENES = range(4)
Volumes = list[tuple[np.ndarray, np.ndarray]]
Reader = Callable[[Path], tuple[Volumes, list[str]]]


def door(path: Path) -> tuple[Volumes, list[str]]:
    """(slices, rows, columns) and affine of each volume, and the reasons of the others."""
    try:
        found, errors = find(path)
    except DataError as error:
        return [], [error.code]
    volumes: Volumes = []
    reasons: list[str] = [error.code for error in errors]
    for one in found:
        try:
            image = load(one)
        except DataError as error:
            reasons.append(error.code)
        else:
            volumes.append((image.numpy()[0], image.affine.numpy()))
    return volumes, reasons


def by_instance_number(path: Path) -> tuple[Volumes, list[str]]:
    """As readers do that trust the instance numbers, and take the mean of the distances for each of them."""
    slices = sorted(map(dcmread, path.iterdir()), key=lambda ds: int(ds.get("InstanceNumber") or 0))
    image = np.stack([ds.pixel_array * ds.RescaleSlope + ds.RescaleIntercept for ds in slices])
    first, last = (np.array(ds.ImagePositionPatient, float) for ds in (slices[0], slices[-1]))
    row, column = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    affine = np.eye(4)
    affine[:3] = np.stack(
        [
            (last - first) / (len(slices) - 1),
            column * slices[0].PixelSpacing[0],
            row * slices[0].PixelSpacing[1],
            first,
        ],
        axis=1,
    )
    return [(image, np.diag([-1, -1, 1, 1]) @ affine)], []


def judged(reader: Reader, folder: Folder, path: Path) -> str:
    """``equal``, ``refused``, or what is wrong."""
    try:
        volumes, reasons = reader(path)
    except Exception as error:  # of the twin; the door has its own gate for that
        return "refused" if reader is not door else f"raised {error}"
    for image, affine in volumes:
        if wrong := untrue(image, affine, SCENES, folder.step):
            return f"silently wrong: {wrong}"
    if folder.whole:
        lengths = sorted(len(image) for image, _ in volumes)
        if lengths != sorted(folder.shown.values()):
            return f"lost: {lengths} slices of {folder.shown}, {reasons}"
        return "equal"
    return "refused" if reasons else "equal" if volumes else "nothing said"


def campaign(reader: Reader, count: int, tmp_path: Path) -> tuple[list[str], Counter[str]]:
    """What is wrong with which folder, and how many were judged how."""
    wrong: list[str] = []
    verdicts: Counter[str] = Counter()
    for seed in range(count):
        folder, names = drawn(seed)
        written(folder, tmp_path / str(seed))
        verdict = judged(reader, folder, tmp_path / str(seed))
        verdicts[verdict.partition(":")[0]] += 1
        if verdict not in ("equal", "refused"):
            wrong.append(f"{seed} {names}: {verdict}")
    return wrong, verdicts


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_series_folders(tmp_path: Path) -> None:
    count = size(60, 500)
    wrong, verdicts = campaign(door, count, tmp_path)
    result = f"{count}: {', '.join(f'{number} {verdict}' for verdict, number in sorted(verdicts.items()))}"
    record("series folders", result, "equals the ground truth or has a reason, none silently wrong")
    assert not wrong
    assert verdicts["equal"] > count / 4
    assert verdicts["refused"] > count / 4
    assert len({name for seed in range(count) for name in drawn(seed)[1]}) > len(FAULTS) * 0.8


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_reader_that_trusts_instance_numbers_is_caught(tmp_path: Path) -> None:
    wrong, verdicts = campaign(by_instance_number, 30, tmp_path)
    assert verdicts["silently wrong"] > 5
    assert len(wrong) > 5


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_reader_that_refuses_everything_is_caught(tmp_path: Path) -> None:
    assert campaign(lambda _: ([], ["gap"]), 20, tmp_path)[1]["lost"] > 3
