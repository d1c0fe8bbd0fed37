"""`volssl train` on real DICOM, NIfTI and slice stacks, by changing ``data`` and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from volssl import config, run
from volssl.evaluation.encoder import load_encoder

BASE = """\
output: out
data: {name: stack, root: nowhere}
views: {size: [8, 32, 32], crop: [0.5, 1.0], rotate: [-10, 10], noise: [0.0, 0.05]}
backbone: {name: resnet, depth: 10, stem: small, width: 4, norm: group}
method: {name: byol, projector: [16, 8], predictor: [16, 8]}
optim: {name: adamw, lr: 1e-3}
loop: {steps: 2, batch: 4, chunk: 2}
"""
SETS = {
    "knee MRI, 8 echoes of 24 slices in one folder": (
        "{name: volume, root: %s/dicom/knee_mr_t2map, region: [16, 48, 48], fit: resize}",
        8,
        1,
    ),
    "hippocampus, NIfTI": ("{name: volume, root: %s/nifti/hippocampus/images, region: [8, 32, 32]}", 40, 1),
    "four sequences of one exam as channels": (
        "{name: volume, root: %s/nifti/ms_brain_mni_patient07, sequences: ['T1_*', 'T1POST_*', 'T2_*', 'FLAIR_*'], "
        "sequences_as: channels, spacing: [4, 4, 4], orientation: SPL, region: [32, 40, 40]}",
        1,
        4,
    ),
    "lung nodules, folders of slice images": (
        "{name: stack, root: %s/stacks/lidc_nodules, region: [8, 32, 32], fit: [crop, resize, resize]}",
        882,
        1,
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_two_steps_and_an_encoder(
    name: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, items, channels = SETS[name]
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    run.train(config.load("base.yaml", [f"data={data % shared_data}"]))
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 2
    card = load_encoder("out/encoder").card
    assert (card.fingerprint and card.fingerprint.count, card.channels) == (items, channels)
