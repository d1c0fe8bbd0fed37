"""The synthetic cohort: layout, determinism, refusals, and a task that is neither trivial nor hopeless."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from volssl.data.implicit import capsule
from volssl.data.knee import KISSING, Knee, draw_knee
from volssl.data.knee_scan import PLANES, Scan, acquire, draw_scan, locate
from volssl.data.phantom import CARD, generate, make_knee
from volssl.errors import DataError

Floats = NDArray[np.float64]
Images = list[tuple[Knee, Scan, NDArray[np.uint8]]]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "knees"
    generate(root, train=5, valid=3, pixels=32, seed=3)
    return root


@pytest.fixture(scope="module")
def sagittal() -> Images:
    """300 patients in the plane that shows the ACL best, at 64 pixels."""
    images = []
    for exam in range(300):
        knee, rng = make_knee(11, exam, 0.35), np.random.default_rng([11, 9, exam])
        scan = draw_scan(rng, "sagittal")
        images.append((knee, scan, acquire(knee, scan, 64, rng)))
    return images


def test_layout_is_mrnets(cohort: Path) -> None:
    for split, ids in (("train", range(5)), ("valid", range(5, 8))):
        names = [f"{i:04d}" for i in ids]
        for plane in PLANES:
            files = sorted((cohort / split / plane).iterdir())
            assert [f.name for f in files] == [f"{n}.npy" for n in names]
            for file in files:
                stack = np.load(file)
                assert stack.dtype == np.uint8
                assert stack.shape[1:] == (32, 32)
                assert 17 <= len(stack) <= 61
                assert stack.std() > 5
        for task in ("acl", "meniscus", "abnormal"):
            rows = [line.split(",") for line in (cohort / f"{split}-{task}.csv").read_text().splitlines()]
            assert [name for name, _ in rows] == names
            assert {label for _, label in rows} <= {"0", "1"}


def test_labels_are_those_of_the_patients(cohort: Path) -> None:
    for exam, line in enumerate((cohort / "train-acl.csv").read_text().splitlines()):
        knee = make_knee(3, exam, 0.35)
        assert line == f"{exam:04d},{int(knee.torn)}"
        assert knee.abnormal or not knee.torn


def test_it_says_that_it_is_synthetic(cohort: Path) -> None:
    assert (cohort / "README.txt").read_text().startswith("SYNTHETIC")
    assert json.loads((cohort / CARD).read_text())["synthetic"] is True


def test_an_exam_depends_on_seed_and_number_alone(cohort: Path, tmp_path: Path) -> None:
    generate(tmp_path / "a", train=2, valid=6, pixels=32, seed=3, workers=2)
    for exam in range(8):
        for plane in PLANES:
            one = next(cohort.glob(f"*/{plane}/{exam:04d}.npy"))
            other = next((tmp_path / "a").glob(f"*/{plane}/{exam:04d}.npy"))
            assert one.read_bytes() == other.read_bytes()
    generate(tmp_path / "b", train=1, valid=1, pixels=32, seed=4)
    assert contents(tmp_path / "b")["train/axial/0000.npy"] != contents(cohort)["train/axial/0000.npy"]


def test_a_complete_cohort_is_left_alone(cohort: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in cohort.rglob("*")}
    generate(cohort, train=5, valid=3, pixels=32, seed=3)
    assert {p: p.stat().st_mtime_ns for p in cohort.rglob("*")} == before


def test_another_cohort_is_refused_with_the_difference(cohort: Path) -> None:
    before = contents(cohort)
    with pytest.raises(DataError, match=r"seed 3, not 4, train 5, not 6: choose another folder") as refused:
        generate(cohort, train=6, valid=3, pixels=32, seed=4)
    assert "\n" not in str(refused.value)
    assert contents(cohort) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="choose another folder"):
        generate(tmp_path, train=2, valid=2, pixels=32)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_broken_off_cohort_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int, line: str) -> None:
        assert (total, line) == (4, "")
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "knees", train=2, valid=2, pixels=32, report=stop)
    assert not list(tmp_path.iterdir())


def test_slices_and_prevalence_are_as_asked() -> None:
    """17 to 61 slices and 31 on average, as in MRNet; 0.35 of 200 exams is 70 tears, give or take two."""
    counts = [draw_scan(np.random.default_rng(i), "axial").slices for i in range(500)]
    assert min(counts) >= 17
    assert max(counts) <= 61
    assert abs(np.mean(counts) - 31) < 1
    for start in (0, 137):
        torn = sum(make_knee(5, exam, 0.35).torn for exam in range(start, start + 200))
        assert abs(torn - 70) <= 2


def test_a_mirrored_knee_is_the_same_knee_from_the_other_side() -> None:
    """Without pose, noise and texture a left knee read backwards is the right knee, to rounding."""
    knee = replace(draw_knee(np.random.default_rng(0), torn=False), angles=(0, 0, 0), shift=(0, 0, 0), bruises=())
    scan = replace(draw_scan(np.random.default_rng(1), "sagittal"), noise=0, bias=np.zeros((2, 3)))

    class Flat:
        """A generator whose every draw is zero."""

        def standard_normal(self, shape: tuple[int, ...], dtype: type) -> NDArray[np.float32]:
            return np.zeros(shape, dtype)

    one, other = (acquire(replace(knee, left=left), scan, 48, Flat()) for left in (False, True))  # type: ignore[arg-type]
    assert np.abs(one.astype(int) - other[::-1].astype(int)).max() <= 1
    assert np.abs(one.astype(int) - other.astype(int)).max() > 50


def trivial(images: Images) -> Floats:
    """Slices, mean, deviation, percentiles and histogram of every stack."""
    rows = []
    for _, _, stack in images:
        shares = np.bincount(stack.ravel() // 8, minlength=32) / stack.size
        rows.append([len(stack), stack.mean(), stack.std(), *np.percentile(stack, (1, 5, 25, 50, 75, 95, 99)), *shares])
    return np.array(rows)


def test_trivial_statistics_do_not_tell(sagittal: Images) -> None:
    torn = np.array([knee.torn for knee, _, _ in sagittal])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    scores = cross_val_predict(model, trivial(sagittal), torn, cv=5, method="decision_function")
    assert roc_auc_score(torn, scores) < 0.65


def fibre_signal(knee: Knee, scan: Scan, stack: NDArray[np.uint8]) -> float:
    """Grey value where an intact ACL would run, over that of the whole joint around it."""
    r = locate(knee, scan, stack.shape[1]).region(stack.shape, (-20, -30, -8), (20, 26, 36))
    assert r is not None
    band = capsule(r, (1.0, 4.0, 6.5), (6.0, -10.0, 18.0), (3.0, 3.0)) < 0
    joint = stack[r.where]
    return float(joint[band].mean() / joint.mean())


def test_who_knows_where_to_look_can_tell(sagittal: Images) -> None:
    """The oracle: torn fibres are brighter than intact ones. Shuffled labels are its negative control."""
    torn = np.array([knee.torn for knee, _, _ in sagittal])
    signal = np.array([fibre_signal(*image) for image in sagittal])
    assert roc_auc_score(torn, signal) > 0.9
    shuffled = [roc_auc_score(np.random.default_rng(i).permutation(torn), signal) for i in range(20)]
    assert abs(np.mean(shuffled) - 0.5) < 0.05


def test_a_tear_moves_the_tibia_and_bruises_the_kissing_places() -> None:
    knees = [draw_knee(np.random.default_rng(i), torn=i % 2 == 0) for i in range(400)]
    torn, intact = knees[::2], knees[1::2]
    assert np.mean([k.translation for k in torn]) - np.mean([k.translation for k in intact]) > 4
    assert abs(np.mean([len(k.bruises) for k in torn]) - np.mean([len(k.bruises) for k in intact])) < 0.2
    assert abs(np.mean([k.effusion for k in torn]) - np.mean([k.effusion for k in intact])) < 0.1

    def kissed(knee: Knee) -> bool:
        return any(np.linalg.norm(np.subtract(b.centre, KISSING[0])) < 8 for b in knee.bruises)

    assert np.mean([kissed(k) for k in torn]) > 4 * np.mean([kissed(k) for k in intact])
