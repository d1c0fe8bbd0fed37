"""The whole evaluation on a tiny cohort: numbers, pairing, files, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from volssl.errors import ConfigError, DataError
from volssl.evaluation import ACLTearConfig
from volssl.evaluation.acl_tear import Scored, ZScored, _combine, evaluate_acl_tear, main, run_acl_tear
from volssl.evaluation.card import Card
from volssl.evaluation.cohort import check_acl_tear
from volssl.evaluation.encoder import Encoder, build_network, random_encoder, save_encoder
from volssl.evaluation.ranking import auc
from volssl.evaluation.results import Results
from volssl.evaluation.splits import folds
from volssl.evaluation.statistics import METRICS, Resamples, bootstrap
from volssl.models.weights import ImportReport
from volssl.types import Features


def config(root: Path, **given: object) -> ACLTearConfig:
    quick: dict[str, object] = {"planes": ("sagittal",), "protocols": ("frozen",)}
    quick |= {"data": str(root), "cache": str(root / "cache"), "bootstrap": 100, "steps": 4, "folds": 2, "batch": 4}
    return ACLTearConfig.model_validate(quick | given)


class Flat(nn.Module):
    """A network whose features say nothing: the same for every image."""

    width = 3

    def forward(self, images: torch.Tensor) -> Features:
        pooled = torch.ones(len(images), 3) + 0 * images.flatten(1).sum(1, keepdim=True)
        return Features(pooled[:, None], (1,), pooled)


@pytest.fixture(scope="module")
def results(mrnet: Path, card: Card) -> Results:
    """Frozen, two planes, two fractions, two seeds."""
    encoders = {"pre-trained": random_encoder(card, 9)}
    return evaluate_acl_tear(config(mrnet, planes=("axial", "coronal"), fractions=(0.5, 1.0), seeds=2), encoders, mrnet)


def test_every_cell_is_there(results: Results) -> None:
    """2 encoders x 2 fractions x (2 planes + combined); half of 36 exams is 18; a threshold per seed."""
    assert len(results.rows) == 2 * 2 * 3
    assert {row.encoder for row in results.rows} == {"pre-trained", "random"}
    assert {row.labels for row in results.rows} == {18, 36}
    assert all(len(row.thresholds) == 2 for row in results.rows)
    assert all(tuple(row.metrics) == METRICS for row in results.rows)
    assert [d.fraction for d in results.differences] == [0.5, 1.0]
    assert max(row.metrics["auc"].value for row in results.combined()) > 0.8  # the bright box is found


def test_pre_trained_against_itself_is_within_noise(mrnet: Path, card: Card) -> None:
    """The pre-trained encoder is the random one of seed 0: with one seed the paired difference is exactly 0."""
    found = evaluate_acl_tear(config(mrnet), {"pre-trained": random_encoder(card, 0)}, mrnet)
    (difference,) = found.differences
    assert (difference.auc.value, difference.auc.low, difference.auc.high) == (0.0, 0.0, 0.0)
    assert "within noise" in difference.sentence


def test_encoders_of_several_shapes_are_each_compared_with_a_random_one_of_their_own(mrnet: Path, card: Card) -> None:
    """Each trained one is the random one of its shape and seed 0, so all differences are exactly 0; had the wide one
    been compared with the narrow (control), its AUC would not be the same. A second narrow one adds no floor."""
    wide = card.model_copy(update={"backbone": card.backbone.model_copy(update={"width": 8})})
    cards = {"narrow": card, "wide": wide, "narrow too": card}
    found = evaluate_acl_tear(config(mrnet), {name: random_encoder(own, 0) for name, own in cards.items()}, mrnet)
    auc_of = {row.encoder: row.metrics["auc"].value for row in found.combined()}
    assert list(auc_of) == ["narrow", "wide", "narrow too", "random narrow", "random wide"]
    assert auc_of["random narrow"] != auc_of["random wide"] == auc_of["wide"]
    assert {d.encoder: (d.other, d.auc.value) for d in found.differences} == {
        "narrow": ("random narrow", 0.0),
        "wide": ("random wide", 0.0),
        "narrow too": ("random narrow", 0.0),
    }
    assert "random wide" in found.differences[1].sentence


def test_an_encoder_that_knows_nothing_is_at_one_half(mrnet: Path, card: Card) -> None:
    """Constant features: AUC .5 exactly, nobody is told apart, and no number is invented."""

    class Network(Flat):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

    found = evaluate_acl_tear(config(mrnet), {"flat": Encoder(Network(), card)}, mrnet)
    row = next(row for row in found.combined() if row.encoder == "flat")
    assert row.metrics["auc"].value == 0.5
    assert np.isnan(row.metrics["npv"].value) or np.isnan(row.metrics["ppv"].value)
    assert found.differences[0].auc.value < 0


def test_fine_tuning_and_kinetics(mrnet: Path, card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both protocols beside Kinetics weights (a stand-in of the same kind), on one plane."""

    def stand_in(path: str, channels: int) -> tuple[object, object, ImportReport]:
        assert (path, channels) == ("r3d.pth", 1)
        return card.backbone, build_network(card, 4).state_dict(), ImportReport(("a", "b"), ("c",), ("fc",))

    monkeypatch.setattr("volssl.evaluation.acl_tear.load_kinetics_r3d18", stand_in)
    settings = config(mrnet, protocols=("frozen", "finetune"), kinetics="r3d.pth")
    found = evaluate_acl_tear(settings, {"pre-trained": random_encoder(card, 9)}, mrnet)
    assert {row.encoder for row in found.rows} == {"pre-trained", "kinetics", "random"}
    assert {row.protocol for row in found.rows} == {"frozen", "finetune"}
    plane, combined = found.rows[0], found.rows[1]
    assert plane.metrics == combined.metrics  # one plane is its own combination
    assert found.notes == ("kinetics: 2 keys matched; adapted: c; left: fc",)
    assert found.notes[0] in found.markdown()


def test_stacks_are_prepared_once_for_all_encoders(mrnet: Path, card: Card) -> None:
    """Two encoders, random and both seeds: each of 2 planes x 2 splits is opened once."""
    lines: list[str] = []
    encoders = {"a": random_encoder(card, 1), "b": random_encoder(card, 2)}
    settings = config(mrnet, planes=("axial", "coronal"), seeds=2)
    evaluate_acl_tear(settings, encoders, mrnet, report=lines.append)
    assert sum(line.startswith("reading") for line in lines) == 4
    assert sum(line.startswith("a: features") for line in lines) == 4


def test_planes_are_combined_on_held_out_scores_only() -> None:
    """Plane A's in-fold scores would be perfect and its held-out ones are noise; plane B knows something.

    Fitted on held-out scores the combination follows B; fitted on in-fold ones (control) it follows A's
    noise.
    """
    rng = np.random.default_rng(0)
    y = rng.permutation((np.arange(200) < 70).astype(np.int64))
    noise, signal = rng.normal(size=(2, 200)), 1.2 * y + rng.normal(size=(2, 200))
    exams = np.arange(200)
    honest = _combine([Scored(noise[0], noise[1]), Scored(signal[0], signal[1])], y, exams, 0)
    in_fold = _combine([Scored(noise[0], 5.0 * y + noise[1]), Scored(signal[0], signal[1])], y, exams, 0)
    one = np.ones((1, 200))
    assert auc(y, honest.test, one)[0] > auc(y, in_fold.test, one)[0] + 0.05
    assert auc(y, honest.test, one)[0] == pytest.approx(auc(y, signal[0], one)[0], abs=0.03)


def test_files_and_tables(results: Results, tmp_path: Path) -> None:
    """The three files hold the same AUC; the terminal shows it as well; JSON has no NaN."""
    results.write(tmp_path)
    row = next(results.combined())
    value = row.metrics["auc"].value
    content = json.loads((tmp_path / "results.json").read_text())
    assert next(r for r in content["rows"] if r["plane"] == "combined")["metrics"]["auc"]["value"] == value
    lines = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert len(lines) == len(results.rows) * len(METRICS)
    assert any(float(line["value"]) == value for line in lines if line["metric"] == "auc")
    shown = io.StringIO()
    results.show(Console(file=shown, width=200))
    for text in ((tmp_path / "table.md").read_text(), shown.getvalue()):
        assert f"{value:.3f}" in text
        assert "MRNet layout" in text
        assert "SYNTHETIC" not in text
        assert "threshold" in text
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.csv", "table.md"}


def test_synthetic_data_are_called_so(results: Results) -> None:
    assert "SYNTHETIC" in replace(results, synthetic=True).markdown()


def test_kinetics_images_are_standardised() -> None:
    """What the network gets has mean 0 and sd 1 per item, whatever the unit; a constant image stays finite."""

    class Echo(nn.Module):
        def forward(self, images: torch.Tensor) -> Features:
            return Features(images, (), images)

    images = torch.rand(2, 1, 4, 8, 8) * torch.tensor([1.0, 500.0]).view(2, 1, 1, 1, 1)
    images = torch.cat([images, torch.ones(1, 1, 4, 8, 8)])
    seen = ZScored(Echo(), 1)(images).pooled
    torch.testing.assert_close(seen[:2].flatten(1).mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[:2].flatten(1).std(1), torch.ones(2), atol=1e-4, rtol=0)
    assert torch.equal(seen[2], torch.zeros(1, 4, 8, 8))


def test_an_encoder_for_other_images_is_refused(mrnet: Path, card: Card) -> None:
    two = card.model_copy(update={"channels": 2})
    with pytest.raises(DataError, match="2 channels"):
        evaluate_acl_tear(config(mrnet), {"pre-trained": random_encoder(two, 0)}, mrnet)


def test_command_line(mrnet: Path, card: Card, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ENCODER DATA KEY=VALUE: results beside the encoder; a fault is one line and code 2."""
    save_encoder(tmp_path / "encoder", build_network(card, 0), card)
    options = ["planes=[axial]", "protocols=[frozen]", "bootstrap=100", f"cache={tmp_path / 'cache'}"]
    assert main([str(tmp_path / "encoder"), str(mrnet), *options]) == 0
    assert (tmp_path / f"acl_tear-{mrnet.name}" / "results.json").is_file()
    assert "pre-trained" in capsys.readouterr().out
    for wrong, says in (
        ([str(tmp_path), str(mrnet)], "not an encoder"),
        ([str(tmp_path / "encoder"), str(tmp_path)], "layout"),
        ([str(tmp_path / "encoder"), str(mrnet), "seed=3"], "seed: Extra inputs"),
        ([str(tmp_path / "encoder"), str(mrnet), "seeds"], "seeds: is no override: write KEY=VALUE"),
        ([str(mrnet)], "KEY=VALUE"),
    ):
        assert main(wrong) == 2
        assert says in capsys.readouterr().err


def test_no_data_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MRNet"):
        run_acl_tear({}, ACLTearConfig(), tmp_path, console=Console(), device="cpu")


@pytest.mark.parametrize("terminal", [False, True])
def test_run_writes_and_shows(mrnet: Path, card: Card, tmp_path: Path, terminal: bool) -> None:
    """One function evaluates, writes and shows; brackets in a path or a line are no markup, on a terminal or not."""
    shown, out = io.StringIO(), tmp_path / "[red]out[/x]"
    console = Console(file=shown, width=300, force_terminal=terminal, color_system=None)
    encoders = {"of [/x] ours": random_encoder(card, 9)}
    found = run_acl_tear(encoders, config(mrnet), out, console=console, device="cpu")
    assert json.loads((out / "results.json").read_text())["title"] == found.title()
    assert f"written to {out}" in shown.getvalue()
    assert found.title() in shown.getvalue()


def write_patients(root: Path, *, valid: int) -> None:
    """Exams 2k and 2k + 1 are of one patient; those of the valid split are counted from ``valid``."""
    lines = [f"{exam:04d},p{exam // 2}" for exam in (*range(36), *range(valid, valid + 24))]
    (root / "patients.csv").write_text("\n".join(lines))


@pytest.fixture
def paired(mrnet: Path, tmp_path: Path) -> Path:
    """The cohort with two exams a patient; the valid exams are numbered from 100 on."""
    root = Path(shutil.copytree(mrnet, tmp_path / "paired", ignore=shutil.ignore_patterns("cache")))
    for plane in (root / "valid").iterdir():
        for exam in sorted(plane.iterdir()):
            exam.rename(plane / f"{int(exam.stem) + 100:04d}.npy")
    labels = root / "valid-acl.csv"
    labels.write_text("".join(f"{int(line[:4]) + 100:04d}{line[4:]}\n" for line in labels.read_text().split()))
    write_patients(root, valid=100)
    return root


def test_patients_are_never_parted(paired: Path, card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subsets, folds of every kind and resamples take both exams of a patient or neither."""
    parts: list[np.ndarray] = []
    drawn: list[np.ndarray] = []

    def folded(y: np.ndarray, groups: np.ndarray, most: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        assert set(np.unique(groups, return_counts=True)[1]) == {2}
        made = folds(y, groups, most, seed)
        for train, held in made:
            assert not set(groups[train]) & set(groups[held])
            parts.append(groups)
        return made

    def resampled(y: np.ndarray, groups: np.ndarray, n: int, seed: int) -> Resamples:
        made = bootstrap(y, groups, n, seed)
        drawn.append(made.weight)
        return made

    monkeypatch.setattr("volssl.evaluation.linear.folds", folded)
    monkeypatch.setattr("volssl.evaluation.finetune.folds", folded)
    monkeypatch.setattr("volssl.evaluation.acl_tear.bootstrap", resampled)
    settings = config(paired, planes=("axial", "coronal"), protocols=("frozen", "finetune"), fractions=(0.5, 1.0))
    found = evaluate_acl_tear(settings, {"pre-trained": random_encoder(card, 9)}, paired)
    # 2 encoders x 2 fractions, and for each: two probes of planes, two fine-tunings of 2 folds, two combinations
    assert len(parts) == 2 * 2 * (4 * 5 + 2 * 2)
    assert np.array_equal(drawn[0][:, ::2], drawn[0][:, 1::2])
    assert found.train == "36 exams of 18 patients, 12 positive"
    assert "of the test patients, as patients.csv names them." in found.caption()
    assert "a patient's exams together" in found.caption()


def test_each_exam_is_a_patient_where_none_is_named(results: Results) -> None:
    assert "each exam taken as one patient." in results.caption()


def test_a_patient_in_both_splits_is_refused(paired: Path) -> None:
    """Exam 100 becomes one of patient p0, whose other exams are trained on."""
    table = paired / "patients.csv"
    table.write_text(table.read_text().replace("0100,p50", "0100,p0"))
    with pytest.raises(DataError, match=r"patients\.csv: labels: 1 patients .* first p0"):
        check_acl_tear(config(paired), paired, channels=1, dims=3)


def test_check_refuses_early_what_would_fail_late(mrnet: Path, tmp_path: Path) -> None:
    """Before pre-training, by labels, folders and names alone: the images of this copy are empty files."""
    root = Path(shutil.copytree(mrnet, tmp_path / "copy", copy_function=lambda _, to: Path(to).touch()))
    for split in ("train", "valid"):
        shutil.copy(mrnet / f"{split}-acl.csv", root)
    check_acl_tear(config(root), root, channels=1, dims=3)
    for channels, dims in ((2, 3), (1, 2)):
        with pytest.raises(DataError, match=f"{dims}D images of {channels} channels"):
            check_acl_tear(config(root), root, channels=channels, dims=dims)
    with pytest.raises(ConfigError, match=r"kinetics: .*none\.pth is no file"):
        check_acl_tear(config(root, kinetics=str(tmp_path / "none.pth")), root, channels=1, dims=3)
    with pytest.raises(DataError, match="layout"):
        check_acl_tear(config(root, task="meniscus"), root, channels=1, dims=3)
    (root / "valid" / "sagittal" / "0003.npy").unlink()
    check_acl_tear(config(root, planes=("axial",)), root, channels=1, dims=3)
    with pytest.raises(DataError, match=r"first 0003\.npy"):
        check_acl_tear(config(root), root, channels=1, dims=3)


@pytest.mark.parametrize("given", [{"planes": ("axial", "axial")}, {"fractions": (0.1, 0.1)}])
def test_a_thing_named_twice_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="name each once"):
        ACLTearConfig.model_validate(given)
