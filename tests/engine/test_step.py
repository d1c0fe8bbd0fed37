"""The step does not depend on how it was cut: chunks and ranks against one plain pass, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from torch import Tensor, nn

from volssl.engine.distributed import Group
from volssl.engine.step import NonFiniteError, backward
from volssl.losses.collapse import effective_rank, spread
from volssl.methods import BYOLConfig, CASSConfig
from volssl.methods.base import Method
from volssl.methods.byol import BYOL
from volssl.methods.cass import CASS
from volssl.models import ResNetConfig
from volssl.models.norm import BatchNorm
from volssl.types import Batch, Features, Loss, Progress

if TYPE_CHECKING:
    from volssl.types import Tensors

Ranks = Callable[..., list[Any]]
Norm = Literal["batch", "group", "instance"]
HeadNorm = Literal["batch", "layer", "none"]
Dims = Literal[2, 3]

AT = Progress(3, 10)
SAMPLES = 16
RATE = 0.5


def make_method(norm: Norm = "group", head_norm: HeadNorm = "batch", dims: Dims = 2) -> BYOL:
    config = BYOLConfig(projector=(16, 8), predictor=(16, 8), momentum=(0.9, 1.0), head_norm=head_norm)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = ResNetConfig(dims=dims, depth=10, stem="small", width=4, norm=norm).build(1)
        method = BYOL(config, encoder).double()
        for parameter in method.teacher.parameters():  # a teacher that already differs from its student
            parameter.add_(0.05 * torch.randn_like(parameter))
    return method


def make_batch(dims: Dims = 2) -> Batch:
    size = {2: (40, 48), 3: (16, 24, 32)}[dims]
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(2, SAMPLES, 1, *size, generator=generator, dtype=torch.float64)
    views = views * torch.linspace(0.5, 2, SAMPLES, dtype=torch.float64).view(1, -1, 1, *[1] * dims)
    index = 100 + torch.arange(SAMPLES)
    return Batch({"0": views[0], "1": views[1]}, index, index, torch.full_like(index, -1))


def rows(batch: Batch, part: slice) -> Batch:
    views = {name: x[part] for name, x in batch.views.items()}
    return Batch(views, batch.index[part], batch.seeds[part], batch.labels[part])


def cut(batch: Batch, size: int) -> list[Batch]:
    return [rows(batch, slice(i, i + size)) for i in range(0, len(batch), size)]


def of_rank(batch: Batch, group: Group, first: int = SAMPLES // 2) -> Batch:
    """Different data per rank: the first ``first`` samples on rank 0, the rest on rank 1."""
    if group.world == 1:
        return batch
    return rows(batch, slice(0, first) if group.rank == 0 else slice(first, None))


def finish(method: Method, loss: Loss) -> Tensors:
    """Loss, gradients, and all that the step leaves behind after one move of plain gradient descent."""
    found = {"total": loss.total.detach()}
    found |= {f"gradient of {n}": p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.sub_(RATE * parameter.grad)
    method.after_step(loss.stats, AT)
    return found | {name: x.clone() for name, x in method.state_dict().items()}


def one_pass(method: BYOL, groups: Iterable[Batch]) -> Tensors:
    """The slow twin: all groups (one, unless the encoder has batch norm) forwarded with a graph, one loss,
    one backward. Running statistics: torch's rule, once, from the average over what each layer was given."""
    seen = _watch_norms(method)
    z, t = [], []
    for group in groups:
        z.append({name: method.student.encoder(x).pooled for name, x in group.views.items()})
        with torch.no_grad():
            t.append({name: method.teacher.encoder(x).pooled for name, x in group.views.items()})
    whole = [{name: torch.cat([part[name] for part in parts]) for name in ("0", "1")} for parts in (z, t)]
    loss = method.loss(whole[0], whole[1], AT)
    torch.autograd.backward(loss.total)
    before = {name: x.clone() for name, x in method.state_dict().items()}
    found = finish(method, loss)
    for name, groups_seen in seen.items():
        mean = torch.stack([m for m, _ in groups_seen]).mean(0)
        var = torch.stack([v for _, v in groups_seen]).mean(0)
        ours, teachers = f"{name}.running_", f"{name}.running_".replace("student", "teacher")
        for which, value in (("mean", mean), ("var", var)):
            found[ours + which] = 0.9 * before[ours + which] + 0.1 * value
            if "student" in name:  # m = 1 - 0.1 (cos(0.3 pi) + 1) / 2 = 0.92061...
                m = 1 - 0.1 * (torch.cos(torch.tensor(0.3 * torch.pi, dtype=torch.float64)) + 1) / 2
                found[teachers + which] = m * before[teachers + which] + (1 - m) * found[ours + which]
    return found


def _watch_norms(method: BYOL) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Mean and unbiased variance of everything that each of the student's batch norms is given."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, module in method.named_modules():
        if isinstance(module, BatchNorm) and not name.startswith("teacher"):
            groups = seen.setdefault(name, [])

            def note(_: nn.Module, inputs: tuple[Tensor], groups: list[tuple[Tensor, Tensor]] = groups) -> None:
                x = inputs[0].detach().transpose(0, 1).flatten(1)
                groups.append((x.mean(1), x.var(1)))

            module.register_forward_pre_hook(note)
    return seen


def step(group: Group, norm: Norm, head_norm: HeadNorm, dims: Dims, chunk: int, first: int = 8) -> Tensors:
    method = make_method(norm, head_norm, dims)
    chunks = cut(of_rank(make_batch(dims), group, first), chunk)
    return finish(method, backward(method, chunks, AT, group=group))


def differences(ours: Tensors, theirs: Tensors) -> dict[str, float]:
    """Largest absolute difference of every tensor that is not the same to 1e-10."""
    assert ours.keys() == theirs.keys()
    worst = {name: float((x - theirs[name]).abs().max()) for name, x in ours.items()}
    return {name: d for name, d in worst.items() if not d < 1e-10}


def cosine(ours: Tensors, theirs: Tensors) -> float:
    """Between two gradients, all parameters in one vector."""
    names = [name for name in ours if name.startswith("gradient of student.encoder")]
    a, b = (torch.cat([x[name].flatten() for name in names]) for x in (ours, theirs))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


@pytest.mark.parametrize("chunk", [1, 2, 4, 16])
@pytest.mark.parametrize("head_norm", ["batch", "layer"])
@pytest.mark.parametrize("dims", [2, 3])
def test_chunks_give_the_gradient_and_teacher_of_one_pass(dims: Dims, head_norm: HeadNorm, chunk: int) -> None:
    """Also defect 4 of BYOLMed3D (batch norm sees micro-batches of one clip) and defect 3 (a teacher that
    moves with every micro-batch): either would show in the cut of 1."""
    assert make_method("group", head_norm).coupled == (head_norm == "batch")
    truth = one_pass(make_method("group", head_norm, dims), [make_batch(dims)])
    assert not differences(step(Group(), "group", head_norm, dims, chunk), truth)


@pytest.mark.parametrize("head_norm", ["batch", "layer"])
@pytest.mark.parametrize(("chunk", "first"), [(1, 8), (4, 8), (8, 8), (4, 10)])
def test_two_ranks_give_the_gradient_and_teacher_of_one_pass(
    two_ranks: Ranks, head_norm: HeadNorm, chunk: int, first: int
) -> None:
    """first = 10: ten samples on one rank in chunks of 4, 4, 2, six on the other in 4, 2."""
    truth = one_pass(make_method("group", head_norm), [make_batch()])
    for ours in two_ranks(step, "group", head_norm, 2, chunk, first):
        assert not differences(ours, truth)


@pytest.mark.parametrize("head_norm", ["batch", "layer"])
@pytest.mark.parametrize("chunk", [1, 2, 4, 16])
def test_batch_norm_in_the_encoder_is_one_pass_over_the_same_ghost_groups(head_norm: HeadNorm, chunk: int) -> None:
    truth = one_pass(make_method("batch", head_norm), cut(make_batch(), chunk))
    if head_norm == "batch":  # heads without batch norm may see the chunks one by one: same result, no statistics
        assert truth["student.projector.1.num_batches_tracked"] == 1
    assert truth["student.encoder.stem.1.num_batches_tracked"] == 1
    assert not differences(step(Group(), "batch", head_norm, 2, chunk), truth)


def test_ghost_groups_on_two_ranks(two_ranks: Ranks) -> None:
    """Chunks of 4 on two ranks are the groups that chunks of 4 on one rank are."""
    truth = one_pass(make_method("batch"), cut(make_batch(), 4))
    for ours in two_ranks(step, "batch", "batch", 2, 4):
        assert not differences(ours, truth)


def plain_accumulation(method: BYOL, chunks: list[Batch]) -> Tensors:
    """What a trainer's accumulation flag does: the loss, and the heads' batch norm, see one chunk."""
    for chunk in chunks:
        loss = method.loss(method.encode(chunk), method.target(chunk), AT)
        torch.autograd.backward(loss.total / len(chunks))
    return finish(method, loss)


def test_negative_control_plain_accumulation_is_not_the_gradient() -> None:
    truth = one_pass(make_method(), [make_batch()])
    plain = plain_accumulation(make_method(), cut(make_batch(), 4))
    print(f"cosine of plain accumulation with the true gradient: {cosine(plain, truth):.3f}")
    assert cosine(plain, truth) < 0.99
    assert differences(plain, truth)


class Deaf(Group):
    """A rank that averages gradients but never hears the others' embeddings."""

    def gather(self, tensors: Tensors) -> tuple[Tensors, slice]:
        return Group().gather(tensors)


def deaf_step(group: Group) -> Tensors:
    return step(Deaf(group.rank, group.world), "group", "batch", 2, 4)


def test_negative_control_without_gather_the_gradient_is_another(two_ranks: Ranks) -> None:
    truth = one_pass(make_method(), [make_batch()])
    for ours in two_ranks(deaf_step):
        assert cosine(ours, truth) < 0.99


def test_negative_control_statistics_in_every_pass_are_seen() -> None:
    """Running statistics that move with every chunk end elsewhere than those that move once."""
    method = make_method("batch")
    for norm in method.student.encoder.modules():
        if isinstance(norm, BatchNorm):
            norm.deferred = False
    wrong = finish(method, backward(method, cut(make_batch(), 4), AT, group=Group()))
    truth = one_pass(make_method("batch"), cut(make_batch(), 4))
    assert {name.rsplit(".", 1)[1] for name in differences(wrong, truth)} == {
        "num_batches_tracked",
        "running_mean",
        "running_var",
    }


class Remade:
    """Chunks whose views are made anew at each iteration."""

    def __init__(self, batch: Batch, size: int) -> None:
        self.batch, self.size, self.made = batch, size, 0

    def __iter__(self) -> Iterator[Batch]:
        for chunk in cut(self.batch, self.size):
            self.made += 1
            yield chunk


@pytest.mark.parametrize(("head_norm", "made"), [("batch", 4 + 3), ("layer", 4)])
def test_views_may_be_remade(head_norm: HeadNorm, made: int) -> None:
    """Coupled: every chunk twice, but the last, which keeps its graph. Separable: once."""
    chunks, method = Remade(make_batch(), 4), make_method(head_norm=head_norm)
    found = finish(method, backward(method, chunks, AT, group=Group()))
    assert chunks.made == made
    assert not differences(found, step(Group(), "group", head_norm, 2, 4))


def test_a_graph_is_built_for_one_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward passes of four chunks: three without a graph, then each of the four with one."""
    method, passes = make_method(), []

    def watched(batch: Batch) -> Tensors:
        passes.append((int(batch.index[0]) - 100, torch.is_grad_enabled()))
        return encode(batch)

    encode = method.encode
    monkeypatch.setattr(method, "encode", watched)
    backward(method, cut(make_batch(), 4), AT, group=Group())
    without = [(0, False), (4, False), (8, False)]
    assert passes == [*without, (12, True), (0, True), (4, True), (8, True)]


@pytest.mark.parametrize("head_norm", ["batch", "layer"])
def test_autocast_ends_at_the_cut_and_views_come_channels_last(
    head_norm: HeadNorm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 in encode and target; float32 without autocast in loss; the gradient close to that of float32."""
    method, seen = make_method(head_norm=head_norm, dims=3).float(), []
    exact = copy.deepcopy(method)
    encode, loss = method.encode, method.loss

    def watched_encode(batch: Batch) -> Tensors:
        seen.append(torch.is_autocast_enabled("cpu"))
        assert all(x.is_contiguous(memory_format=torch.channels_last_3d) for x in batch.views.values())
        return encode(batch)

    def watched_loss(z: Tensors, t: Tensors, at: Progress) -> Loss:
        seen.append(torch.is_autocast_enabled("cpu"))
        assert {x.dtype for x in [*z.values(), *t.values()]} == {torch.float32}
        return loss(z, t, at)

    monkeypatch.setattr(method, "encode", watched_encode)
    monkeypatch.setattr(method, "loss", watched_loss)
    double = make_batch(3)
    batch = Batch({n: x.float().repeat(1, 1, 1, 1, 1) for n, x in double.views.items()}, *[double.index] * 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # whatever the caller left open
        ours = backward(method, [batch], AT, group=Group(), autocast=torch.bfloat16)
    truth = finish(exact, backward(exact, [batch], AT, group=Group()))
    assert seen == [True, False]
    assert cosine(finish(method, ours), truth) > 0.95


def poisoned_step(group: Group, head_norm: HeadNorm) -> tuple[list[int], bool]:
    """Samples 103 and 113 hold a NaN; what a rank says of it, and whether any weight or buffer moved."""
    method, batch = make_method("batch", head_norm), make_batch()
    batch.views["1"][[3, 13], 0, 5, 5] = torch.nan
    before = copy.deepcopy(method.state_dict())
    with pytest.raises(NonFiniteError, match="embeddings") as caught:
        backward(method, cut(of_rank(batch, group), 1), AT, group=group)
    same = all(torch.equal(x, before[name]) for name, x in method.state_dict().items())
    return caught.value.indices, same


@pytest.mark.parametrize("head_norm", ["batch", "layer"])
def test_a_non_finite_embedding_names_its_items_on_every_rank(two_ranks: Ranks, head_norm: HeadNorm) -> None:
    assert poisoned_step(Group(), head_norm) == ([103, 113], True)
    assert two_ranks(poisoned_step, head_norm) == [([103, 113], True)] * 2


def test_a_non_finite_loss_or_gradient_stops_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make_method()
    loss = method.loss

    def broken(z: Tensors, t: Tensors, at: Progress, factor: float) -> Loss:
        return Loss(loss(z, t, at).total * factor)

    monkeypatch.setattr(method, "loss", lambda z, t, at: broken(z, t, at, torch.nan))
    with pytest.raises(NonFiniteError, match="the loss is not finite") as caught:
        backward(method, cut(make_batch(), 4), AT, group=Group())
    assert caught.value.indices == []
    monkeypatch.setattr(method, "loss", loss)
    next(method.predictor.parameters()).register_hook(lambda g: g * torch.inf)  # type: ignore[no-untyped-call]
    with pytest.raises(NonFiniteError, match="the gradient is not finite"):
        backward(method, cut(make_batch(), 4), AT, group=Group())


def test_an_abandoned_step_leaves_no_trace() -> None:
    """Gradients and pending statistics of a step that was never finished are gone in the next."""
    method, batch = make_method("batch"), make_batch()
    backward(method, cut(rows(batch, slice(0, 6)), 3), AT, group=Group())
    found = finish(method, backward(method, cut(batch, 4), AT, group=Group()))
    assert not differences(found, step(Group(), "batch", "batch", 2, 4))


@pytest.mark.parametrize("head_norm", ["batch", "layer"])
def test_gauges_see_the_whole_batch(head_norm: HeadNorm) -> None:
    method, batch = make_method(head_norm=head_norm), make_batch()
    z = method.encode(batch)["0"].detach()
    metrics = backward(method, cut(batch, 2), AT, group=Group()).metrics
    torch.testing.assert_close(metrics["spread"], spread(z=z))
    torch.testing.assert_close(metrics["rank"], effective_rank(z=z))
    assert metrics["momentum"].item() == pytest.approx(0.92061, abs=1e-5)


class Constant(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(1, width, dtype=torch.float64))

    def forward(self, x: Tensor) -> Features:
        pooled = self.bias.expand(len(x), -1)
        return Features(pooled[:, None], (1,), pooled)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_gauges_see_the_encoder_that_collapses(norm: Literal["batch", "none"]) -> None:
    """Coupled or not: CASS whose second encoder is constant has spread 0 and rank 1, and what the first says is lost
    (control: with an encoder of its kind in its place neither is so)."""
    kind = ResNetConfig(dims=2, depth=10, stem="small", norm="group", width=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = CASS(CASSConfig(partner=kind, logits=3, norm=norm), [kind.build(1), kind.build(1)]).double()
    assert method.coupled is (norm == "batch")
    for low in (False, True):
        if low:
            method.networks["resnet-2"] = Constant(kind.build(1).width)
        metrics = backward(method, cut(make_batch(), 4), AT, group=Group()).metrics
        assert (metrics["spread"].item() < 1e-6) is (metrics["rank"].item() < 1 + 1e-4) is low
        if not low:
            z = method.features(method.encode(make_batch())).values()
            assert metrics["spread"].item() == pytest.approx(min(spread(z=x).item() for x, *_ in z))


@pytest.mark.parametrize("head_norm", ["batch", "layer"])
def test_a_few_items_are_not_gauged(head_norm: HeadNorm) -> None:
    for count, gauged in ((3, False), (4, True)):
        chunks = cut(rows(make_batch(), slice(count)), 2)
        metrics = backward(make_method(head_norm=head_norm), chunks, AT, group=Group()).metrics
        assert ("spread" in metrics, "rank" in metrics) == (gauged, gauged)


class Average(Method):
    """A method whose stats and metrics are plain means, to see how chunks of different size are weighed."""

    coupled = False

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return {"encoder": self}

    def encode(self, batch: Batch) -> Tensors:
        return {"0": batch.views["0"].flatten(1) * self.scale}

    def target(self, batch: Batch) -> Tensors:  # noqa: ARG002
        return {}

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:  # noqa: ARG002
        mean = z["0"].mean()
        return Loss(mean, metrics={"mean": mean.detach()}, stats={"centre": z["0"].mean(0).detach()})


def uneven_means(group: Group) -> tuple[float, float, list[float], float]:
    """Rows (0, 1), (2, 3), ... (18, 19): rank 0 has 7 in chunks of 3, 3, 1, rank 1 has 3 in one chunk."""
    rows_ = torch.arange(20, dtype=torch.float64).view(10, 2)
    if group.world == 2:
        rows_ = rows_[:7] if group.rank == 0 else rows_[7:]
    index = torch.arange(len(rows_))
    method = Average()
    loss = backward(method, cut(Batch({"0": rows_}, index, index, index), 3), AT, group=group)
    assert method.scale.grad is not None
    return (
        loss.total.item(),
        loss.metrics["mean"].item(),
        loss.stats["centre"].tolist(),
        method.scale.grad.item(),
    )


def test_separable_chunks_count_by_their_sizes(two_ranks: Ranks) -> None:
    """The mean of 0..19 is 9.5; of its even numbers 9, of its odd ones 10; d mean(s x) / ds = 9.5."""
    for found in [uneven_means(Group()), *two_ranks(uneven_means)]:
        total, mean, centre, slope = found
        assert [total, mean, *centre, slope] == pytest.approx([9.5, 9.5, 9, 10, 9.5], abs=1e-12)
