"""Evaluations: their configuration (torch-free) and the union that is the registry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from volssl.schema import Schema


class ACLTearConfig(Schema):
    """The ACL-tear evaluation on MRNet's layout (``volssl acl-tear``).

    data: the folder with ``train`` and ``valid``; that of the run's own data where absent.
    planes: which are evaluated. protocols: ``frozen`` (linear probe) and ``finetune``.
    fractions: shares of the training labels. seeds: repetitions of label subsets, random encoders and fine-tuning.
    every: also run each so many steps; at the end always.
    """

    name: Literal["acl_tear"] = "acl_tear"
    data: str | None = None
    task: Literal["acl", "meniscus", "abnormal"] = "acl"
    planes: tuple[Literal["axial", "coronal", "sagittal"], ...] = ("axial", "coronal", "sagittal")
    protocols: tuple[Literal["frozen", "finetune"], ...] = ("frozen",)
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1.0,)
    seeds: int = Field(default=1, ge=1)
    kinetics: str | None = None
    bootstrap: int = Field(default=1000, ge=100)
    epochs: int = Field(default=15, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    batch: int = Field(default=8, ge=1)
    every: int | None = Field(default=None, ge=1)


EvaluationConfig = ACLTearConfig
