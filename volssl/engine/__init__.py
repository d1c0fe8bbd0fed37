"""The engine's configuration (torch-free): optimisers and the loop."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from volssl.schema import Schema

_Decay = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _form(given: Any) -> str:
    return "ends" if isinstance(given, tuple | list) else "one"


# A union told apart by its form reports one fault, not one for each of its members.
Decay = Annotated[Annotated[_Decay, Tag("one")] | Annotated[tuple[_Decay, _Decay], Tag("ends")], Discriminator(_form)]


class _Optim(Schema):
    """What every optimiser shares. What is written is what runs: nothing is scaled by the batch.

    lr: peak learning rate. warmup: optimiser steps of linear warm-up; then a half cosine to ``final_lr``.
    weight_decay: one number, or those of the first step and of the last, with a half cosine between them.
    exclude_norm_and_bias: no weight decay (and no LARS adaptation) for one-dimensional parameters.
    clip: largest norm of the whole gradient, none where absent.
    """

    lr: float = Field(gt=0)
    weight_decay: Decay = 0.0
    warmup: int = Field(default=0, ge=0)
    final_lr: float = Field(default=0.0, ge=0)
    exclude_norm_and_bias: bool = True
    clip: float | None = Field(default=None, gt=0)


class LARSConfig(_Optim):
    """LARS (You et al. 2017, arXiv 1708.03888) with the trust coefficient of SimCLR and BYOL."""

    name: Literal["lars"] = "lars"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    trust: float = Field(default=0.001, gt=0)


class AdamWConfig(_Optim):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)


class SGDConfig(_Optim):
    """SGD with momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)


OptimConfig = Annotated[LARSConfig | AdamWConfig | SGDConfig, Field(discriminator="name")]


class LoopConfig(Schema):
    """batch: effective batch per optimiser step over all ranks. chunk: items forwarded at once, per rank.

    workers: loader processes per rank; with 0, an item that crashes its reader ends the run. timeout: seconds that one
    may take for an item before it is replaced. peer_timeout: seconds until the ranks give up on one that is silent.
    save_every: steps between checkpoints. keep: how many stay.
    """

    steps: int = Field(ge=1, le=2**31)
    batch: int = Field(ge=1, le=2**20)
    chunk: int = Field(ge=1, le=2**20)
    precision: Literal["fp32", "bf16"] = "fp32"
    workers: int = Field(default=0, ge=0, le=1024)
    timeout: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    peer_timeout: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    save_every: int = Field(default=100, ge=1, le=2**31)
    keep: int = Field(default=3, ge=1)
    log_every: int = Field(default=1, ge=1)
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tensorboard: bool = False
