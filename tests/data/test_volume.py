"""Volumes: which files make which item, and sequences on one grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from volssl.data import VolumeConfig
from volssl.data.door import Found
from volssl.data.items import Keep, PreparedSource, ZScore
from volssl.data.listing import Listed
from volssl.data.loader import Loader
from volssl.data.volume import arrange
from volssl.errors import DataError

REGION = (4, 5, 6)


def array(seed: int, shape: tuple[int, ...] = REGION) -> np.ndarray[Any, Any]:
    """Whole numbers, so that float16 holds them exactly."""
    return np.random.default_rng(seed).integers(1, 100, shape).astype(np.float32)


def save(path: Path, values: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] | None = None) -> Path:
    """A NIfTI file that the door reads back as slices x rows x columns (x time) of ``values``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = (2, 1, 0, 3)[: values.ndim]
    nib.save(nib.Nifti1Image(values.transpose(axes), np.eye(4) if affine is None else affine), path)
    return path


def build(root: Path, region: tuple[int, ...] = REGION, **fields: Any) -> PreparedSource:
    settings = {"intensity": Keep(), **fields}
    cache = root.parent / "cache" if root.is_dir() else root.parent.parent / "cache"
    return VolumeConfig(root=str(root), cache=str(cache), **settings).build(region)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two exams of T1 and FLAIR; the second has another T1 under another name."""
    folder = tmp_path / "scans"
    for i, exam in enumerate(["p1", "p2"]):
        save(folder / exam / "T1_brain.nii.gz", array(10 * i))
        save(folder / exam / "FLAIR_brain.nii.gz", array(10 * i + 1))
    save(folder / "p2" / "T1POST.nii.gz", array(12))
    return folder


def test_every_file_is_an_item(scans: Path) -> None:
    source = build(scans)
    assert source.ids[:2] == ("p1/FLAIR_brain.nii.gz", "p1/T1_brain.nii.gz")
    assert len(source) == 5
    assert torch.equal(source[1].image[0], torch.from_numpy(array(0)))
    assert source[1].spacing == (1, 1, 1)


def test_only_the_wanted_sequences_are_items(scans: Path) -> None:
    source = build(scans, sequences=("T1_*", "T1POST*"))
    assert source.ids == ("p1/T1_brain.nii.gz", "p2/T1POST.nii.gz", "p2/T1_brain.nii.gz")


def test_a_pattern_with_a_slash_is_on_the_end_of_the_path(scans: Path) -> None:
    assert build(scans, sequences=("p1/*",)).ids == ("p1/FLAIR_brain.nii.gz", "p1/T1_brain.nii.gz")


def test_sequences_become_channels_in_their_order(scans: Path) -> None:
    source = build(scans, sequences=("FLAIR*", "T1_*"), sequences_as="channels")
    assert source.ids == ("p1", "p2")
    assert source.channels == 2
    assert torch.equal(source[0].image, torch.from_numpy(np.stack([array(1), array(0)])))


def test_exams_in_the_root_itself_are_called_after_it(scans: Path) -> None:
    source = build(scans / "p1", sequences=("FLAIR*", "T1_*"), sequences_as="channels")
    assert source.ids == ("p1",)


def test_an_incomplete_or_ambiguous_exam_is_left_out_with_its_reason(scans: Path) -> None:
    """p1 has no T1POST; in p2 T1* is two volumes."""
    source = build(scans, sequences=("T1_*", "T1P*"), sequences_as="channels", max_bad=0.5)
    assert source.ids == ("p2",)
    assert str(source.bad[0]) == "p1: sequences: data.sequences: T1P* matches nothing here: this exam lacks it"
    source = build(scans, sequences=("T1*", "FLAIR*"), sequences_as="channels", max_bad=0.5)
    assert source.ids == ("p1",)
    assert "matches 2 volumes (T1POST.nii.gz, T1_brain.nii.gz)" in str(source.bad[0])


def test_sequences_that_match_nothing_say_what_there_is(scans: Path) -> None:
    with pytest.raises(DataError, match=r"data.sequences \(T9\*\) match none of 5 volumes, such as p1/FLAIR_brain"):
        build(scans, sequences=("T9*",))


def test_channels_are_resampled_to_the_grid_of_the_first(tmp_path: Path) -> None:
    """The second is a ramp along x, sampled every 2 mm from -2 mm: on the first's grid it is x again.

    The first reaches to x = 5 mm, the second to 4 mm: beyond it is 0.
    """
    save(tmp_path / "scans" / "a.nii", array(0))
    coarse = np.broadcast_to(np.array([-2.0, 0, 2, 4], dtype=np.float32), (4, 5, 4)).copy()
    affine = np.diag([2.0, 1, 1, 1])
    affine[0, 3] = -2
    save(tmp_path / "scans" / "b.nii", coarse, affine)
    image = build(tmp_path / "scans", sequences=("a*", "b*"), sequences_as="channels")[0].image
    assert torch.equal(image[0], torch.from_numpy(array(0)))
    expected = torch.tensor([0.0, 1, 2, 3, 4, 0])
    assert torch.allclose(image[1, :, :, :5], expected[:5].expand(4, 5, 5), atol=1e-3)


def test_a_4d_file_is_one_time_point_or_channels_or_items(tmp_path: Path) -> None:
    series = array(0, (*REGION, 11))
    save(tmp_path / "scans" / "a.nii", series)
    save(tmp_path / "scans" / "b.nii", array(1))
    root = tmp_path / "scans"
    assert torch.equal(build(root)[0].image[0], torch.from_numpy(series[..., 0]))
    items = build(root, time="items")
    assert items.ids == (*(f"a.nii@{t:02d}" for t in range(11)), "b.nii")
    assert torch.equal(items[7].image[0], torch.from_numpy(series[..., 7]))
    channels = build(root, time="channels", time_points=11, max_bad=0.5)
    assert channels.ids == ("a.nii",)
    assert torch.equal(channels[0].image, torch.from_numpy(series).permute(3, 0, 1, 2))
    assert "has 1 channels, data says 11" in str(channels.bad[0])


def test_a_time_point_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    save(tmp_path / "scans" / "a.nii", array(0, (*REGION, 2)))
    with pytest.raises(DataError, match="time"):
        build(tmp_path / "scans", time=2)


def test_slices_are_picked_evenly_from_those_that_show_something(tmp_path: Path) -> None:
    """Of slices 0..8 the first and the last are empty: 7 are left, and 3 of them are the middles of thirds.

    (2i + 1) * 7 // 6 for i = 0, 1, 2 is 1, 3, 5 of the seven: slices 2, 4 and 6 of the volume, unchanged.
    """
    values = array(0, (9, 5, 6))
    values[[0, 8]] = 7
    save(tmp_path / "scans" / "a.nii", values)
    save(tmp_path / "scans" / "b.nii", array(1, (3, 5, 6)))
    (tmp_path / "scans" / "labels.csv").write_text("path,label\na.nii,x\nb.nii,y\n")
    source = build(tmp_path / "scans" / "labels.csv", (5, 6), slices=3)
    assert source.ids == ("a.nii#000", "a.nii#001", "a.nii#002", "b.nii#000", "b.nii#001", "b.nii#002")
    assert (source.labels, source.region, source.parts) == ((0, 0, 0, 1, 1, 1), (5, 6), (6,))
    for i, n in enumerate((2, 4, 6)):
        assert torch.equal(source[i].image, torch.from_numpy(values[n])[None])
        assert source[i].spacing == (1, 1)
    assert torch.equal(source[4].image, torch.from_numpy(array(1, (3, 5, 6))[1])[None])
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2


def test_slices_are_those_of_the_axis_that_orientation_puts_first(tmp_path: Path) -> None:
    """Seen from the right (orientation R..), slice n is column n of the array: x runs to R in NIfTI's identity."""
    values = array(0)
    save(tmp_path / "scans" / "a.nii", values)
    source = build(tmp_path / "scans", (4, 5), slices=6, orientation="RSA")
    assert len(source) == 6
    assert torch.equal(source[2].image[0], torch.from_numpy(values[:, :, 2]))


def test_fewer_slices_than_asked_for_leave_the_volume_out(tmp_path: Path) -> None:
    save(tmp_path / "scans" / "a.nii", array(0, (9, 5, 6)))
    save(tmp_path / "scans" / "b.nii", array(1, (3, 5, 6)))
    source = build(tmp_path / "scans", (5, 6), slices=4, max_bad=0.5)
    assert len(source) == 4
    assert str(source.bad[0]).startswith("b.nii: slices: 3 of 3 slices show anything, data.slices asks for 4")


def test_slices_are_resized_in_their_plane_alone(tmp_path: Path) -> None:
    """Each slice holds its number: had anything been mixed along the stack, it would be another one."""
    values = np.repeat(np.arange(8.0, dtype=np.float32), 30).reshape(8, 5, 6)
    values[:, 0, 0] = 100
    save(tmp_path / "scans" / "a.nii", values)
    source = build(tmp_path / "scans", (10, 3), slices=8, fit=("resize", "crop"))
    assert [source[i].image[0, -1, -1].item() for i in range(8)] == list(range(8))
    assert VolumeConfig(root="scans", slices=8).dims == 2


def test_a_table_may_name_the_folders_of_exams(scans: Path) -> None:
    table = scans / "labels.csv"
    table.write_text("path,label\np2,ms\np1,healthy\n")
    source = build(table, sequences=("T1_*", "FLAIR*"), sequences_as="channels")
    assert (source.ids, source.labels) == (("p1", "p2"), (0, 1))


def test_nan_is_refused_or_made_zero(tmp_path: Path) -> None:
    values = array(0)
    values[0, 0, 0] = np.nan
    save(tmp_path / "scans" / "a.nii", values)
    with pytest.raises(DataError, match=r"a\.nii"):
        build(tmp_path / "scans")
    assert build(tmp_path / "scans", non_finite="zero")[0].image[0, 0, 0, 0] == 0


def series(name: str, description: str, label: int = -1) -> Listed:
    return Listed(Found(name, "dicom", (), description), label)


def channels(*patterns: str) -> VolumeConfig:
    return VolumeConfig(root="scans", sequences=patterns, sequences_as="channels")


def test_series_in_folders_of_their_own_belong_to_the_folder_above() -> None:
    listed = [series("p1/S1", "T1 SAG"), series("p1/S2", "FLAIR"), series("p2/T1", "x"), series("p2/FLAIR", "")]
    (first, second), bad = arrange(channels("T1*", "FLAIR*"), listed)
    assert [part.id for part in first.parts] == ["p1/S1", "p1/S2"]  # by description
    assert [part.id for part in second.parts] == ["p2/T1", "p2/FLAIR"]  # by name
    assert (first.id, second.id, bad) == ("p1", "p2", [])


def test_series_that_share_a_folder_are_known_by_description_alone() -> None:
    """The folder's name matches T1*, which must not make a T1 of the FLAIR."""
    listed = [series("p1/T1_exam#1", "T1 SAG", 1), series("p1/T1_exam#2", "FLAIR", 1)]
    (entry,), bad = arrange(channels("T1*", "FLAIR*"), listed)
    assert (entry.id, entry.label, bad) == ("p1/T1_exam", 1, [])
    assert [part.description for part in entry.parts] == ["T1 SAG", "FLAIR"]


def skip_unless(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"{folder.parent.name}/{folder.name} is not here")
    return folder


def test_knee_echoes(shared_data: Path, tmp_path: Path) -> None:
    root = skip_unless(shared_data / "dicom" / "knee_mr_t2map")
    source = VolumeConfig(root=str(root), cache=str(tmp_path)).build((24, 64, 64))
    assert len(source) == 8
    assert len({tuple(source[i].image[0, 12, 32, :8].tolist()) for i in range(8)}) == 8


def test_hippocampus(shared_data: Path, tmp_path: Path) -> None:
    root = skip_unless(shared_data / "nifti" / "hippocampus") / "images"
    config = VolumeConfig(root=str(root), cache=str(tmp_path), orientation="SPL", spacing=(1, 1, 1))
    source = config.build((32, 48, 48))
    assert len(source) == 40
    assert source[0].spacing == pytest.approx((1, 1, 1))


@pytest.mark.parametrize(
    ("folder", "sequences"),
    [
        ("ms_brain_mni_patient07", ("T1_*", "T1POST*", "T2_*", "FLAIR*")),
        ("ms_brain_raw_patient01", ("study1_T1W.*", "study1_T2W.*", "study1_FLAIR.*")),
    ],
)
def test_multiple_sclerosis_sequences_lie_on_one_another(
    shared_data: Path, tmp_path: Path, folder: str, sequences: tuple[str, ...]
) -> None:
    """Head and background of all sequences coincide: Dice of the foregrounds over 0.9, under 0.9 when moved."""
    root = skip_unless(shared_data / "nifti" / folder)
    config = VolumeConfig(
        root=str(root),
        cache=str(tmp_path),
        sequences=sequences,
        sequences_as="channels",
        orientation="SPL",
        spacing=(4, 4, 4),
        intensity=ZScore() if "mni" in folder else Keep(),
    )
    source = config.build((40, 56, 48))
    assert len(source) == 1
    image = source[0].image
    assert len(image) == len(sequences)
    masks = [(c != 0) if "mni" in folder else c > c.mean() / 2 for c in image]
    assert min(dice(masks[0], mask) for mask in masks[1:]) > 0.9
    assert max(dice(masks[0], mask.roll(6, 1)) for mask in masks[1:]) < 0.9


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_slices_go_through_loader_processes(tmp_path: Path) -> None:
    """The same images, by index, whoever reads them."""
    save(tmp_path / "scans" / "a.nii", array(0, (9, 5, 6)))
    source = build(tmp_path / "scans", (5, 6), slices=4)
    (samples,) = Loader(source, batch=4, seed=0, start=0, stop=1, workers=1)
    assert sorted(samples.index.tolist()) == [0, 1, 2, 3]
    for image, i in zip(samples.images, samples.index.tolist(), strict=True):
        assert torch.equal(image, source[i].image)
