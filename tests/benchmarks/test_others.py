"""The benchmarks that compare methods run, and leave none out."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from benchmarks import cass_dino, exactness, pretrain
from volssl.methods import MethodConfig

UNION = set(typing.get_args(typing.get_args(MethodConfig)[0]))


def test_exactness_is_measured_for_every_method() -> None:
    assert {type(config) for config in exactness.METHODS.values()} == UNION


def test_every_method_is_tried_on_real_images() -> None:
    assert {
        entry["method"]["name"] if "method" in entry else "hybrid" for entry in pretrain.wanted()["methods"].values()
    } == {config.model_fields["name"].default for config in UNION}


def test_cass_and_dino_in_turns(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(images.parent)
    cass_dino.main(["--steps", "2", "--batch", "4", "--local", "1", "--images", str(images)])
    told = capsys.readouterr().out.splitlines()
    assert [line.split(" macro")[0].strip() for line in told if "AUROC" in line] == [
        *("CASS, ResNet", "CASS, ViT", "DINO, ResNet", "DINO, ViT", "random, ResNet", "random, ViT"),
    ]
    assert any("of DINO's time" in line for line in told)
