"""The configuration of the ACL-tear evaluation (torch-free)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from volssl.schema import Schema

Plane = Literal["axial", "coronal", "sagittal"]
Protocol = Literal["frozen", "finetune"]
Fraction = Annotated[float, Field(gt=0, le=1)]


class ACLTearConfig(Schema):
    """The ACL-tear evaluation on MRNet's layout (``volssl acl-tear``).

    data: the folder with ``train`` and ``valid``; that of the run's own data where absent. part: of an encoder that
    was trained on several data sets, the number of the one as which the exams are prepared. A ``patients.csv`` in it
    (headerless ``exam,patient``) keeps the exams of a patient together in subsets, folds and resamples. task: which of
    MRNet's three labels. planes: which are evaluated; their scores are combined. protocols: ``frozen``
    (linear probe) and ``finetune`` (the whole network). fractions: shares of the training labels, at least
    two patients per class. seeds: repetitions of label subsets, random encoders and fine-tuning. kinetics: file
    of R3D-18 weights from Kinetics-400, evaluated beside. bootstrap: resamples of the patients. folds: of
    fine-tuning; each training exam is scored by the fold's network that has not seen it. steps, lr, batch: of
    fine-tuning, per fold: optimiser steps at most, AdamW's peak learning rate, exams a step. cache: folder of
    the preprocessed exams, as ``data.cache``. workers: processes that read exams. every: also run each so
    many steps; at the end always.
    """

    name: Literal["acl_tear"] = "acl_tear"
    data: str | None = None
    part: int | None = Field(default=None, ge=0)
    task: Literal["acl", "meniscus", "abnormal"] = "acl"
    planes: tuple[Plane, ...] = Field(default=("axial", "coronal", "sagittal"), min_length=1)
    protocols: tuple[Protocol, ...] = Field(default=("frozen", "finetune"), min_length=1)
    fractions: tuple[Fraction, ...] = Field(default=(1.0,), min_length=1)
    seeds: int = Field(default=1, ge=1)
    kinetics: str | None = None
    bootstrap: int = Field(default=1000, ge=100)
    folds: int = Field(default=3, ge=2, le=10)
    steps: int = Field(default=120, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    batch: int = Field(default=8, ge=2)
    cache: str = "runs/cache"
    workers: int = Field(default=0, ge=0)
    every: int | None = Field(default=None, ge=1)
    best: bool = False

    @model_validator(mode="after")
    def _once_each(self) -> Self:
        for key in ("planes", "protocols", "fractions"):
            given = getattr(self, key)
            if len(set(given)) < len(given):
                raise ValueError(f"{key} {list(given)} names one twice: name each once")
        return self
