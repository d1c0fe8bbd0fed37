"""What every method keeps to, in 2D, 3D and on slice stacks, on CNNs and Transformers: listed is tested."""

from __future__ import annotations

import copy
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from tests.methods.conftest import AT, GEOMETRIES, Geometry, Kind, Norm, batch_of, build, fitting, methods, rows
from volssl.methods import MethodConfig
from volssl.methods.base import Method
from volssl.methods.mae import MAE
from volssl.models.norm import defer_statistics
from volssl.types import Batch, Loss, Progress

if TYPE_CHECKING:
    from volssl.types import Tensors


@dataclass(frozen=True)
class Case:
    """A method on a backbone and views."""

    config: MethodConfig
    geometry: Geometry
    kind: Kind

    def build(self, norm: Norm = "batch") -> Method:
        return build(self.config, self.geometry, self.kind, norm)

    def batch(self) -> Batch:
        return batch_of(self.config, self.geometry)


KINDS: tuple[Kind, ...] = ("CNN", "ViT")
CASES = {
    f"{name}-{where}-{kind}": Case(config, geometry, kind)
    for where, geometry in GEOMETRIES.items()
    for name, config in methods(geometry).items()
    for kind in KINDS
    if fitting(config, geometry, kind)
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def run(method: Method, batch: Batch, at: Progress = AT) -> Loss:
    return method.loss(method.encode(batch), method.target(batch), at)


def snapshot(method: Method) -> Tensors:
    return {name: x.clone() for name, x in method.state_dict().items()}


def moved(method: Method, before: Tensors) -> set[str]:
    return {name for name, x in method.state_dict().items() if not torch.equal(x, before[name])}


def of_teacher(name: str) -> bool:
    return "teacher" in name.split(".")


def test_every_method_of_the_union_is_listed_on_every_geometry() -> None:
    union, *_ = typing.get_args(MethodConfig)
    for geometry in GEOMETRIES.values():
        assert {type(config) for config in methods(geometry).values()} == set(typing.get_args(union))


def test_only_mae_asks_for_a_transformer() -> None:
    refused = {
        config.name for g in GEOMETRIES.values() for config in methods(g).values() if not fitting(config, g, "CNN")
    }
    assert refused == {"mae"}
    assert all(fitting(config, g, "ViT") for g in GEOMETRIES.values() for config in methods(g).values())


def test_students_learn_and_teachers_do_not(case: Case) -> None:
    method = case.build()
    torch.autograd.backward(run(method, case.batch()).total)
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            assert of_teacher(name) or "patch_embed" in name, name
            assert parameter.grad is None, name
        else:
            assert not of_teacher(name), name
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_no_storage_is_shared(case: Case) -> None:
    """A teacher that is the same object as its student, as in torchgeo's BYOL, agrees with everything."""
    tensors = case.build().state_dict()
    assert len({x.untyped_storage().data_ptr() for x in tensors.values()}) == len(tensors)


def test_encode_and_target_of_a_batch_are_those_of_its_parts(case: Case) -> None:
    method, batch = case.build("group"), case.batch()
    parts = [rows(batch, slice(i, i + 1)) for i in range(len(batch))]
    for hook in (method.encode, method.target):
        whole = hook(batch)
        pieces = [hook(part) for part in parts]
        for name, x in whole.items():
            assert x.ndim == 2, name
            torch.testing.assert_close(torch.cat([piece[name] for piece in pieces]), x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_only_after_step_moves_anything(case: Case, mode: str) -> None:
    """Defect 2 of BYOLMed3D: its target moves during validation. Here calling a hook twice changes nothing."""
    method, batch = case.build().train(mode == "train"), case.batch()
    before = snapshot(method)
    losses = [run(method, batch) for _ in range(2)]
    assert torch.equal(losses[0].total, losses[1].total)
    assert not moved(method, before)
    method.after_step(losses[1].stats, AT)
    after = moved(method, before)
    if mode == "train":
        assert {n for n, _ in method.named_buffers() if "running" in n and not of_teacher(n)} <= after
    weights = {n for n, _ in method.named_parameters() if not of_teacher(n) and "prototypes" not in n}
    assert not weights & after


def test_negative_control_statistics_that_are_not_deferred_are_noticed(case: Case) -> None:
    method = case.build()
    if not any("running" in name for name, _ in method.named_buffers()):
        pytest.skip("nothing here keeps statistics")
    defer_statistics(method, False)
    before = snapshot(method)
    run(method, case.batch())
    assert moved(method, before)


def test_state_dict_round_trips(case: Case) -> None:
    method, batch = case.build(), case.batch()
    for _ in range(2):  # whatever fills up over steps, such as a queue, is part of the state
        method.after_step(run(method, batch).stats, AT)
    other = case.build()
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(run(other, batch).total, run(method, batch).total)


def test_encoders_are_part_of_the_student(case: Case) -> None:
    method, batch = case.build(), case.batch()
    students = {id(p) for n, p in method.named_parameters() if not of_teacher(n)}
    features = method.features(method.encode(batch))
    assert list(features) == list(method.encoders)
    for name, encoder in method.encoders.items():
        assert isinstance(encoder, nn.Module)
        assert {id(p) for p in encoder.parameters()} <= students
        views = [x for view, x in batch.views.items() if view.isdecimal()]
        assert all(x.shape == (4, encoder.width) for x in features[name])
        assert len(features[name]) == len(views)


def test_whoever_reconstructs_is_not_watched_for_collapse(case: Case) -> None:
    method = case.build()
    assert method.collapses is not isinstance(getattr(method, "ssl", method), MAE)


def gradient_of_the_first_item(method: Method, batch: Batch, factor: float) -> list[Tensor]:
    """Of the loss, times the number of items, with respect to item 0, the second item changed by ``factor``."""
    z, t = method.encode(batch), method.target(batch)
    leaves = {name: x.detach().clone() for name, x in z.items()}
    for leaf in leaves.values():
        leaf[1] *= torch.linspace(0.5, 1.5, leaf.shape[1], dtype=leaf.dtype) ** factor
        leaf.requires_grad_()
    torch.autograd.backward(method.loss(leaves, t, AT).total)
    return [leaf.grad[0] for leaf in leaves.values() if leaf.grad is not None]


def test_coupled_is_what_the_configuration_says(case: Case) -> None:
    """A method is coupled if a sample's gradient changes when another sample, or its label, does."""
    method, batch = case.build("group"), case.batch()
    first, second = (gradient_of_the_first_item(method, batch, factor) for factor in (1.0, 2.0))
    unlabelled = batch.labels.clone()
    unlabelled[1] = -1
    third = gradient_of_the_first_item(method, Batch(batch.views, batch.index, batch.seeds, unlabelled), 1.0)
    same = all(
        torch.allclose(a, b, rtol=1e-9, atol=1e-14) and torch.allclose(a, c, rtol=1e-9, atol=1e-14)
        for a, b, c in zip(first, second, third, strict=True)
    )
    assert method.coupled == case.config.coupled
    assert same == (not method.coupled)
