"""What every method keeps to, in 2D, 3D and on slice stacks: a new method is tested by being listed here."""

from __future__ import annotations

import copy
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest
import torch
from torch import nn

from volssl.methods import BYOLConfig, MethodConfig
from volssl.methods.base import Method
from volssl.models import ResNetConfig
from volssl.models.norm import defer_statistics
from volssl.types import Batch, Loss, Progress

if TYPE_CHECKING:
    from volssl.types import Tensors

AT = Progress(3, 10)

METHODS = {
    "byol": BYOLConfig(projector=(16, 8), predictor=(16, 8), momentum=(0.9, 1.0)),
    "byol without batch statistics": BYOLConfig(projector=(16, 8), predictor=(16, 8), head_norm="layer"),
}


@dataclass(frozen=True)
class Geometry:
    """A backbone's dimensions and stem, and views that fit it."""

    dims: Literal[2, 3]
    stem: Literal["small", "r3d"]
    size: tuple[int, ...]


GEOMETRIES = {
    "2D": Geometry(2, "small", (48, 40)),
    "3D": Geometry(3, "small", (32, 32, 40)),
    "video": Geometry(3, "r3d", (8, 32, 48)),
}


def build(config: MethodConfig, geometry: Geometry, norm: Literal["batch", "group"] = "batch") -> Method:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = ResNetConfig(dims=geometry.dims, stem=geometry.stem, depth=10, width=4, norm=norm)
        return config.build(backbone.build(1)).double()


def batch_of(method: MethodConfig, geometry: Geometry, samples: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    size = (method.views, samples, 1, *geometry.size)
    views = torch.randn(size, generator=generator, dtype=torch.float64)
    index = torch.arange(samples)
    return Batch({str(i): x for i, x in enumerate(views)}, index, index, torch.full_like(index, -1))


def run(method: Method, batch: Batch) -> Loss:
    return method.loss(method.encode(batch), method.target(batch), AT)


def snapshot(method: Method) -> Tensors:
    return {name: x.clone() for name, x in method.state_dict().items()}


def moved(method: Method, before: Tensors) -> set[str]:
    return {name for name, x in method.state_dict().items() if not torch.equal(x, before[name])}


@pytest.fixture(params=METHODS, ids=lambda name: name.replace(" ", "-"))
def config(request: pytest.FixtureRequest) -> MethodConfig:
    return METHODS[request.param]


@pytest.fixture(params=GEOMETRIES)
def geometry(request: pytest.FixtureRequest) -> Geometry:
    return GEOMETRIES[request.param]


def test_every_method_of_the_union_is_listed() -> None:
    """The union is one class so far; with more it is Annotated[A | B, ...]."""
    annotated = typing.get_args(MethodConfig)
    members = set(typing.get_args(annotated[0])) if annotated else {MethodConfig}
    assert members == {type(config) for config in METHODS.values()}


def test_students_learn_and_teachers_do_not(config: MethodConfig, geometry: Geometry) -> None:
    method = build(config, geometry)
    torch.autograd.backward(run(method, batch_of(config, geometry)).total)
    for name, parameter in method.named_parameters():
        if name.startswith("teacher"):
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_no_storage_is_shared(config: MethodConfig, geometry: Geometry) -> None:
    """A teacher that is the same object as its student, as in torchgeo's BYOL, agrees with everything."""
    tensors = build(config, geometry).state_dict()
    assert len({x.untyped_storage().data_ptr() for x in tensors.values()}) == len(tensors)


def test_encode_and_target_of_a_batch_are_those_of_its_parts(config: MethodConfig, geometry: Geometry) -> None:
    method, batch = build(config, geometry, norm="group"), batch_of(config, geometry)
    parts = [Batch({n: x[i : i + 1] for n, x in batch.views.items()}, *[batch.index[i : i + 1]] * 3) for i in range(4)]
    for hook in (method.encode, method.target):
        whole = hook(batch)
        pieces = [hook(part) for part in parts]
        for name, x in whole.items():
            torch.testing.assert_close(torch.cat([piece[name] for piece in pieces]), x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_only_after_step_moves_anything(config: MethodConfig, geometry: Geometry, mode: str) -> None:
    """Defect 2 of BYOLMed3D: its target moves during validation. Here calling a hook twice changes nothing."""
    method, batch = build(config, geometry).train(mode == "train"), batch_of(config, geometry)
    before = snapshot(method)
    losses = [run(method, batch) for _ in range(2)]
    assert torch.equal(losses[0].total, losses[1].total)
    assert not moved(method, before)
    method.after_step(losses[1].stats, AT)
    running = {n for n, _ in method.named_buffers() if not n.startswith("teacher")} if mode == "train" else set()
    assert running <= moved(method, before)
    assert not {n for n, _ in method.named_parameters() if not n.startswith("teacher")} & moved(method, before)


def test_negative_control_statistics_that_are_not_deferred_are_noticed(
    config: MethodConfig, geometry: Geometry
) -> None:
    method = build(config, geometry)
    defer_statistics(method, False)
    before = snapshot(method)
    run(method, batch_of(config, geometry))
    assert moved(method, before)


def test_state_dict_round_trips(config: MethodConfig, geometry: Geometry) -> None:
    method, batch = build(config, geometry), batch_of(config, geometry)
    loss = run(method, batch)
    method.after_step(loss.stats, AT)
    other = build(config, geometry)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(run(other, batch).total, run(method, batch).total)


def test_encoders_are_part_of_the_student(config: MethodConfig, geometry: Geometry) -> None:
    method = build(config, geometry)
    assert method.encoders
    trained = {id(p) for p in method.parameters() if p.requires_grad}
    for encoder in method.encoders.values():
        assert isinstance(encoder, nn.Module)
        assert {id(p) for p in encoder.parameters()} <= trained
        assert encoder(batch_of(config, geometry).views["0"]).pooled.shape == (4, encoder.width)


def test_coupled_is_what_the_configuration_says(config: MethodConfig, geometry: Geometry) -> None:
    """A method is coupled if a sample's gradient changes when another sample does."""
    method, batch = build(config, geometry, norm="group"), batch_of(config, geometry)
    gradients = []
    for factor in (1.0, 2.0):
        z, t = method.encode(batch), method.target(batch)
        leaves = {name: x.detach().clone() for name, x in z.items()}
        for leaf in leaves.values():
            leaf[1] *= factor * torch.linspace(0.5, 1.5, leaf.shape[1], dtype=leaf.dtype) ** factor
            leaf.requires_grad_()
        torch.autograd.backward(method.loss(leaves, t, AT).total)
        first = leaves["0"].grad
        assert first is not None
        gradients.append(first[0])
    assert method.coupled == config.coupled
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-9, atol=0) == (not method.coupled)
