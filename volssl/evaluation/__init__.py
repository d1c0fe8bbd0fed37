"""Evaluations: their configuration (torch-free) and the union that is the registry."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from volssl.data import PartConfig
from volssl.evaluation.acl_tear_config import ACLTearConfig as ACLTearConfig
from volssl.evaluation.acl_tear_config import Fraction
from volssl.evaluation.rules import faults, fusion_faults
from volssl.models import BackboneConfig
from volssl.schema import Schema

Size = tuple[Annotated[int, Field(ge=1)], ...]
Count = Annotated[int, Field(ge=1)]
Level = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, le=10)]


class ClassesConfig(Schema):
    """One class a row: a column of the table; for an ``.npz`` its labels (``data.label_column``).

    order: the classes from low to high where they are grades in words; numbers are in theirs.
    """

    name: Literal["classes"] = "classes"
    column: str = "label"
    order: tuple[str, ...] = ()


class LabelsConfig(Schema):
    """Labels that may hold together: columns of 0 and 1, empty where unknown; all those of an ``.npz`` where absent."""

    name: Literal["labels"] = "labels"
    columns: tuple[str, ...] = ()


class NumberConfig(Schema):
    """A number, such as an age or a fraction."""

    name: Literal["number"] = "number"
    column: str


class MasksConfig(Schema):
    """Segmentations: a column of NIfTI masks, paths relative to the table. classes: what the values 1, 2, ... are."""

    name: Literal["masks"] = "masks"
    column: str = "mask"
    classes: tuple[str, ...] = Field(min_length=1)


TargetConfig = Annotated[ClassesConfig | LabelsConfig | NumberConfig | MasksConfig, Field(discriminator="name")]


class _Protocol(Schema):
    """title: what tables call it, where there are several of one kind."""

    title: str | None = Field(default=None, min_length=1)

    @property
    def shown(self) -> str:
        """What tables call it."""
        kind: str = getattr(self, "name", "")
        return self.title or ("finetune head" if getattr(self, "layers", "all") == "head" else kind)


class KNNConfig(_Protocol):
    """k nearest neighbours by cosine, weighted by ``exp(similarity / temperature)`` (Wu et al. 2018,
    arXiv 1805.01978)."""

    name: Literal["knn"] = "knn"
    k: Count = 20
    temperature: float = Field(default=0.07, gt=0)


class LinearConfig(_Protocol):
    """A linear probe of frozen features, its regularisation chosen by cross-validation on training rows."""

    name: Literal["linear"] = "linear"


class FinetuneConfig(_Protocol):
    """The network with a linear head, stopped early by a part of the training rows.

    layers: ``all``, or the ``head`` alone. layer_decay: factor on the learning rate from each stage to the one
    before it (Clark et al. 2020, arXiv 2003.10555). steps, lr, batch: optimiser steps at most, AdamW's peak rate,
    items a step. held: share of the training patients that says when to stop.
    """

    name: Literal["finetune"] = "finetune"
    layers: Literal["all", "head"] = "all"
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    steps: Count = 200
    lr: float = Field(default=1e-3, gt=0)
    batch: int = Field(default=16, ge=2)
    weight_decay: float = Field(default=0.01, ge=0)
    held: float = Field(default=0.2, gt=0, lt=0.5)


class VoxelsConfig(_Protocol):
    """A linear probe of every voxel's features at all stages of the frozen encoder: Dice of masks.

    voxels: of each training volume that the probe is fitted to, the same number of each class where there are.
    """

    name: Literal["voxels"] = "voxels"
    voxels: Count = 300


ProtocolConfig = Annotated[KNNConfig | LinearConfig | FinetuneConfig | VoxelsConfig, Field(discriminator="name")]


class EncoderConfig(Schema):
    """An encoder: the folder of one (``path``), or a backbone with published weights or none.

    part: of an encoder that was trained on several data sets, as which of them the items are prepared.
    size: what a backbone's images are resampled to; the set's ``data.region`` where absent. A backbone takes the set's
    own preprocessing, an encoder from a folder that of its card.
    """

    path: str | None = None
    part: int | None = Field(default=None, ge=0)
    backbone: BackboneConfig | None = None
    size: Size | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_path_alone(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.path is None) == (self.backbone is None):
            raise ValueError("an encoder has a path or a backbone: give one of the two")
        if self.path is not None and self.size is not None:
            raise ValueError("size is of a backbone, and an encoder from a folder has its own: leave it out")
        if self.backbone is not None and self.part is not None:
            raise ValueError("part is of an encoder from a folder, a backbone takes the set's own data: leave it out")
        return self


class SetConfig(Schema):
    """A labelled data set.

    data: where it is (a table with a column ``path``, or an ``.npz``) and of what kind; its preprocessing is for
    encoders that have none of their own. target: what is asked. group: the column that says whose an item is, which
    must be there; where absent that is ``patient``, and each item its own patient where there is no such column.
    train, test: values of the column ``split``, or splits of the ``.npz``; without such a column, each item is tested
    once in ``folds`` folds by patient.
    encoders: for this set alone, beside those of all.
    """

    data: PartConfig
    target: TargetConfig = ClassesConfig()
    group: str | None = None
    train: tuple[str, ...] = Field(default=("train",), min_length=1)
    test: tuple[str, ...] = Field(default=("test",), min_length=1)
    folds: int = Field(default=5, ge=2, le=20)
    encoders: dict[str, EncoderConfig] = Field(default_factory=dict)

    @property
    def whose(self) -> str:  # the column that says whose an item is
        return self.group or "patient"


class FusionConfig(Schema):
    """Dynamic visual meta-embedding (Truong et al. 2021, arXiv 2108.10048), beside plain concatenation.

    encoders: which, all of a set where absent. end_to_end: the encoders are trained, too. width: to which each is
    projected. depth, heads: of the self-attention over encoders. dropout: on the concatenation and before the
    classifier. The defaults learn slowly, for labels are few.
    """

    encoders: tuple[str, ...] = ()
    end_to_end: bool = False
    width: Count = 128
    depth: Count = 1
    heads: Count = 8
    dropout: float = Field(default=0.3, ge=0, lt=1)
    steps: Count = 300
    lr: float = Field(default=1e-4, gt=0)
    batch: int = Field(default=64, ge=2)
    weight_decay: float = Field(default=0.5, ge=0)
    held: float = Field(default=0.2, gt=0, lt=0.5)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide over {self.heads} heads: change one")
        return self


class RobustnessConfig(Schema):
    """The score of models that were fitted to clean images, on images changed by each strength.

    rotation: degrees in the plane. scale: magnification. intensity: exponent (gamma). noise: sd. blur: sd in voxels.
    """

    rotation: tuple[Annotated[float, Field(ge=-180, le=180)], ...] = (0.0, 5.0, 15.0, 30.0, 45.0)
    scale: tuple[Factor, ...] = (0.7, 0.85, 1.0, 1.15, 1.3)
    intensity: tuple[Factor, ...] = (0.5, 0.75, 1.0, 1.5, 2.0)
    noise: tuple[Level, ...] = (0.0, 0.05, 0.1, 0.2)
    blur: tuple[Level, ...] = (0.0, 0.5, 1.0, 2.0)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not any(getattr(self, key) for key in type(self).model_fields):
            raise ValueError("every list of strengths is empty: give one, or leave robustness out")
        return self


class ConvergenceConfig(Schema):
    """How much sooner a pre-trained network reaches what one from scratch reaches at best (``papers``: up to 85 %).

    steps, lr, batch: of fine-tuning both alike. looks: at the validation rows, evenly over the steps.
    smooth: looks over which the score is averaged. held: share of the training patients that validate.
    """

    steps: Count = 200
    lr: float = Field(default=1e-3, gt=0)
    batch: int = Field(default=16, ge=2)
    looks: int = Field(default=20, ge=2)
    smooth: Count = 3
    held: float = Field(default=0.3, gt=0, lt=1)


class StudyConfig(Schema):
    """Encoders x data sets x protocols x label budgets x seeds, each beside a random encoder and raw pixels.

    fractions: shares of the training patients of each class; per_class: counts of them. seeds: label subsets, random
    encoders and fine-tuning, each drawn anew. bootstrap: resamples of the test patients. floors: what every encoder is
    compared with. fusion, robustness, convergence: done where given. report: write ``report.html``. cache, workers:
    as ``data.cache`` and ``loop.workers``. In a training run's ``evaluate``: part: as which of several data sets the
    items are prepared; every: also each so many steps; best: the encoder of the best such look, by the mean of the
    deciding metrics, is kept in ``best/``.
    """

    name: Literal["evaluate"] = "evaluate"
    sets: dict[str, SetConfig] = Field(min_length=1)
    encoders: dict[str, EncoderConfig] = Field(default_factory=dict)
    floors: tuple[Literal["random", "pixels"], ...] = ("random", "pixels")
    protocols: tuple[ProtocolConfig, ...] = Field(default=(KNNConfig(), LinearConfig()), min_length=1)
    fractions: tuple[Fraction, ...] = (1.0,)
    per_class: tuple[Annotated[int, Field(ge=2)], ...] = ()
    seeds: Count = 1
    bootstrap: int = Field(default=1000, ge=100)
    fusion: tuple[FusionConfig, ...] = ()
    robustness: RobustnessConfig | None = None
    convergence: ConvergenceConfig | None = None
    report: bool = True
    cache: str = "runs/cache"
    workers: int = Field(default=0, ge=0)
    part: int | None = Field(default=None, ge=0)
    every: int | None = Field(default=None, ge=1)
    best: bool = False

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.fractions and not self.per_class:
            raise ValueError("fractions and per_class are both empty: give a label budget, such as fractions: [1.0]")
        for key in ("fractions", "per_class", "floors"):
            given = getattr(self, key)
            if len(set(given)) < len(given):
                raise ValueError(f"{key} {list(given)} names one twice: name each once")
        for told in faults(self):
            raise ValueError(told)
        return self

    def has_encoders(self, one: SetConfig) -> bool:
        """Whether the set has any but raw pixels: in a run, always that which is trained."""
        del one
        return True


class EvaluateConfig(StudyConfig):
    """``volssl evaluate``: a study of its own. output: the folder of its results. title: of the report."""

    output: str = Field(min_length=1)
    title: str = "What encoders are worth"
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _fusions_of_its_own(self) -> Self:
        for told in fusion_faults(self):
            raise ValueError(told)
        return self

    def has_encoders(self, one: SetConfig) -> bool:
        """Whether the set has any but raw pixels."""
        return bool(self.encoders or one.encoders)


EvaluationConfig = Annotated[ACLTearConfig | StudyConfig, Field(discriminator="name")]
