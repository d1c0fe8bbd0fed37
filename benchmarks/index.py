"""How fast ``volssl index`` is, and how much memory it takes, on many small DICOM files.

``python -m benchmarks.index [--files 2000 20000] [--workers 2] [--folder /dev/shm]`` makes the files (64 x 64 pixels,
100 a series), lists them by the command in a process of its own, and prints files per minute, start-up included; what
two cores that do nothing else would make of the processor's time; and the greatest memory of the process that leads and
of any that it started.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SERIES, SIDE = 100, 64


@dataclass(frozen=True)
class Measured:
    """files: listed; seconds: that the command took; cpu: of all its processes; leader, largest: peak memory in MB."""

    files: int
    seconds: float
    cpu: float
    leader: float
    largest: float

    @property
    def rate(self) -> float:
        """Files a minute."""
        return 60 * self.files / self.seconds

    @property
    def two_cores(self) -> float:
        """Files a minute, if all work shared two cores evenly."""
        return 60 * self.files / (self.cpu / 2)


def make(folder: Path, files: int) -> None:
    """Series of ``SERIES`` slices, four of a patient."""
    pixels = np.random.default_rng(0).integers(0, 2000, (SIDE, SIDE)).astype("<u2")
    for series in range(files // SERIES):
        place = folder / f"patient{series // 4:05}" / f"series{series:05}"
        place.mkdir(parents=True)
        study, uid = generate_uid(), generate_uid()
        for i in range(SERIES):
            ds = _slice(i, pixels + np.uint16(i + series))
            ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID = f"P{series // 4}", study, uid
            ds.save_as(place / f"{i:04}.dcm", enforce_file_format=True)


def _slice(number: int, pixels: np.ndarray) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.InstanceNumber = MRImageStorage, generate_uid(), number + 1
    ds.Modality, ds.ScanningSequence, ds.MRAcquisitionType = "MR", "SE", "2D"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 2.0 * number], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.Rows, ds.Columns, ds.SamplesPerPixel = [1, 1], SIDE, SIDE, 1
    ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelData = pixels.astype("<u2").tobytes()
    return ds


def measure(root: Path, out: Path, files: int, workers: int) -> Measured:
    """Run the command."""
    command = [sys.executable, "-m", "volssl", "index", str(root), "-o", str(out), "--workers", str(workers)]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    leader = largest = 0.0
    cpu: dict[int, float] = {}
    while process.poll() is None:
        leader = max(leader, _peak(process.pid))
        everyone = [process.pid, *_below(process.pid)]
        largest = max(largest, *map(_peak, everyone))
        cpu |= {pid: used for pid in everyone if (used := _used(pid))}
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"volssl index failed with {process.returncode}")
    return Measured(files, time.monotonic() - start, sum(cpu.values()), leader, largest)


def _peak(pid: int) -> float:
    """Peak resident memory in MB; 0 of a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM")), 0.0)


def _below(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(further for child in children for further in _below(child))]


def _used(pid: int) -> float:
    """Processor seconds; 0 of a process that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print a line per number of files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", default="/dev/shm", help="where the files are made, and removed again")
    given = parser.parse_args()
    print(f"{'files':>7} {'seconds':>8} {'files/min':>10} {'two cores':>10} {'leader MB':>10} {'largest MB':>11}")
    for files in given.files:
        folder = Path(tempfile.mkdtemp(dir=given.folder))
        try:
            make(folder / "data", files)
            one = measure(folder / "data", folder / "manifest.parquet", files, given.workers)
        finally:
            shutil.rmtree(folder)
        rates = f"{one.seconds:>8.1f} {one.rate:>10,.0f} {one.two_cores:>10,.0f}"
        print(f"{files:>7} {rates} {one.leader:>10.0f} {one.largest:>11.0f}", flush=True)


if __name__ == "__main__":
    main()
