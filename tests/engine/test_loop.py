"""A run that is stopped, killed or out of luck goes on as if nothing had been: bit for bit, on a toy method."""

from __future__ import annotations

import copy
import errno
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.toy import (
    BATCH,
    ITEMS,
    STEPS,
    CrashError,
    Toy,
    Toys,
    crash_at,
    end,
    exit_code,
    identical,
    in_child,
    jitter,
    run,
    signal_at,
)
from volssl.engine import AdamWConfig, LARSConfig, OptimConfig, SGDConfig, checkpoint
from volssl.engine import trainer as trainer_module
from volssl.engine.checkpoint import list_checkpoints, load_latest
from volssl.engine.distributed import Group
from volssl.engine.loop import Evaluation
from volssl.engine.schedule import weight_decay
from volssl.errors import RunError
from volssl.methods.base import Method
from volssl.models.norm import BatchNorm
from volssl.types import Loss, Progress


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_crash_after_any_step_changes_nothing(whole: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(CrashError):
        run(tmp_path, evaluations=(crash_at(step),))
    resumed = run(tmp_path)
    assert len(resumed.method.moved) == STEPS - step // 3 * 3 + (3 if step % 3 == 0 else 0)
    assert identical(whole, tmp_path)


@pytest.mark.parametrize("step", [1, 4, 9])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_exits(
    whole: Path, tmp_path: Path, step: int, number: signal.Signals, code: int
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, evaluations=(signal_at(step, number),))
    assert stopped.value.code == code
    assert list_checkpoints(tmp_path / "checkpoints")[-1].name == f"step-{step:08d}.safetensors"
    assert f"going on after step {step} of {STEPS}" in run(tmp_path).told
    assert identical(whole, tmp_path)


@pytest.mark.parametrize("optim", [AdamWConfig(lr=0.01, weight_decay=0.1)], ids=["adamw"])
def test_other_optimisers_and_log_intervals_resume_alike(tmp_path: Path, optim: OptimConfig) -> None:
    run(tmp_path / "a", optim=optim, log_every=4)
    with pytest.raises(CrashError):
        run(tmp_path / "b", optim=optim, log_every=4, evaluations=(crash_at(8),))
    run(tmp_path / "b", optim=optim, log_every=4)
    assert identical(tmp_path / "a", tmp_path / "b")
    assert [line["step"] for line in end(tmp_path / "a")[1]] == [4, 8, 10]


@pytest.mark.parametrize("optim", [AdamWConfig, LARSConfig, SGDConfig])
def test_a_weight_decay_that_varies_resumes_alike_and_is_logged(tmp_path: Path, optim: type[OptimConfig]) -> None:
    """From 0 to 0.5: at step 0, 5 of 10 it is 0, 0.25. What never varies is not logged, and ends elsewhere."""
    rising = optim(lr=0.01, weight_decay=(0.0, 0.5))
    run(tmp_path / "a", optim=rising)
    with pytest.raises(CrashError):
        run(tmp_path / "b", optim=rising, evaluations=(crash_at(5),))
    run(tmp_path / "b", optim=rising)
    assert identical(tmp_path / "a", tmp_path / "b")
    lines = end(tmp_path / "a")[1]
    assert (lines[0]["weight_decay"], lines[5]["weight_decay"]) == pytest.approx((0.0, 0.25))
    run(tmp_path / "c", optim=optim(lr=0.01, weight_decay=0.0))
    ours, (theirs, others) = end(tmp_path / "a")[0], end(tmp_path / "c")
    assert not any("weight_decay" in line for line in others)
    weight = "method.student.1.weight"
    assert not torch.equal(ours[weight], theirs[weight])


def test_a_resume_that_started_the_weight_decay_anew_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: after the crash, the schedule counts from 0 again."""
    rising = AdamWConfig(lr=0.01, weight_decay=(0.0, 0.5))
    run(tmp_path / "a", optim=rising)
    with pytest.raises(CrashError):
        run(tmp_path / "b", optim=rising, evaluations=(crash_at(5),))

    def anew(optim: OptimConfig, at: Progress) -> float:
        return weight_decay(optim, Progress(at.step - 3, at.steps))

    monkeypatch.setattr(trainer_module, "weight_decay", anew)
    run(tmp_path / "b", optim=rising)
    assert not identical(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("forgotten", ["optimizer.", "method.teacher", "method.student.2.running"])
def test_a_resume_that_forgets_something_is_noticed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    """Negative control: leave out a part of the state, and the end is not the same."""
    with pytest.raises(CrashError):
        run(tmp_path, evaluations=(crash_at(5),))
    load = trainer_module.Trainer.load_state

    def forgetful(self: trainer_module.Trainer, tensors: dict[str, Tensor]) -> None:
        fresh = {k: v.clone() for k, v in self.state().items() if k.startswith(forgotten)}
        load(self, {k: v for k, v in tensors.items() if not k.startswith(forgotten)} | fresh)

    monkeypatch.setattr(trainer_module.Trainer, "load_state", forgetful)
    run(tmp_path)
    assert not identical(whole, tmp_path)


def slow(images: Tensor, seeds: Tensor) -> dict[str, Tensor]:
    time.sleep(0.002)
    return jitter(images, seeds)


def slower(images: Tensor, seeds: Tensor) -> dict[str, Tensor]:
    time.sleep(0.02)
    return jitter(images, seeds)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """A forked process has no thread pool."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """SIGKILL after up to 80 ms of a run that sleeps 20 ms at every chunk, ten times in one folder or until it is
    through; saved after every step."""
    run(tmp_path / "a", save_every=1)
    draw, codes = random.Random(0), []
    for _ in range(10):
        child = in_child(lambda: run(tmp_path / "b", save_every=1, views=slower))
        time.sleep(draw.uniform(0.01, 0.08))
        os.kill(child, signal.SIGKILL)
        codes.append(exit_code(child))
    assert codes.count(-signal.SIGKILL) > 2
    run(tmp_path / "b", save_every=1)
    assert identical(tmp_path / "a", tmp_path / "b")
    assert not list((tmp_path / "b" / "checkpoints").glob(".*"))


@pytest.mark.usefixtures("_one_thread")
def test_a_process_that_gets_sigterm_twice_exits_143(whole: Path, tmp_path: Path) -> None:
    child = in_child(lambda: run(tmp_path, views=slow, evaluations=((1, wait),)))
    while not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.005)
    for _ in range(2):
        os.kill(child, signal.SIGTERM)
    assert exit_code(child) == 143
    run(tmp_path)
    assert identical(whole, tmp_path)


def wait(method: Method, done: int) -> dict[str, float]:  # noqa: ARG001
    time.sleep(0.05)
    return {}


def test_everything_happens_once_per_step_and_is_told_where_it_is(tmp_path: Path) -> None:
    asked: list[int] = []

    def evaluate(method: Method, done: int) -> dict[str, float]:
        method.eval()
        asked.append(done)
        return {"auc": done / 10}

    outcome = run(tmp_path, evaluations=((5, evaluate), (4, evaluate)))
    assert [at.step for at in outcome.method.moved] == list(range(STEPS))
    assert asked == [4, 5, 8]  # not after the last step
    assert outcome.method.training
    lines = end(tmp_path)[1]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["fraction"] for line in lines] == pytest.approx([k / STEPS for k in range(STEPS)])
    assert {line["step"]: line["auc"] for line in lines if "auc" in line} == {4: 0.4, 5: 0.5, 8: 0.8}
    assert lines[0].keys() >= {"step", "loss", "lr", "gradient_norm", "spread", "rank"}


def long(asked: list[int], number: signal.Signals | None = None) -> Evaluation:
    """Every four steps; with a number, asked to stop at the first while it is at work for a minute."""

    def evaluate(method: Method, done: int) -> dict[str, float]:
        asked.append(done)
        method.eval()
        if number and done == 4:
            os.kill(os.getpid(), number)
            time.sleep(60)
        return {"auc": float(next(method.parameters()).detach().sum())}

    return 4, evaluate


@pytest.mark.parametrize("save_every", [3, 4])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130)])
def test_a_signal_breaks_off_an_evaluation_which_is_made_when_the_run_goes_on(
    tmp_path: Path, number: signal.Signals, code: int, save_every: int
) -> None:
    """Broken off twice, and at last in a run that is killed after it: each step has one line, with its score."""
    asked: list[int] = []
    run(tmp_path / "a", log_every=5, evaluations=(long([]),))
    for _ in range(2):
        began, evaluations = time.monotonic(), (long(asked), long(asked, number))
        with pytest.raises(SystemExit, match=str(code)):
            run(tmp_path / "b", log_every=5, save_every=save_every, evaluations=evaluations)
        assert time.monotonic() - began < 30
        assert list_checkpoints(tmp_path / "b" / "checkpoints")[-1].name == "step-00000004.safetensors"
    with pytest.raises(CrashError):
        run(tmp_path / "b", log_every=5, save_every=9, evaluations=(long(asked), crash_at(6)))
    assert end_steps(tmp_path / "b") == [4, 5]
    run(tmp_path / "b", log_every=5, evaluations=(long(asked),))
    assert asked == [4, 4, 4, 4, 4, 4, 8]
    assert identical(tmp_path / "a", tmp_path / "b")


def end_steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_an_evaluation_that_is_not_asked_for_any_more_is_not_made(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, evaluations=(long([], signal.SIGTERM),))
    run(tmp_path)
    assert identical(whole, tmp_path)


def test_an_evaluation_that_finds_the_disk_full_is_made_again_at_its_next_interval(tmp_path: Path) -> None:
    def evaluate(method: Method, done: int) -> dict[str, float]:  # noqa: ARG001
        if done == 3:
            raise OSError(errno.ENOSPC, "full")
        return {"auc": done / 10}

    told = run(tmp_path, evaluations=((3, evaluate),)).told
    assert "step 3: not evaluated: No space left on device; make room" in told
    assert {line["step"]: line["auc"] for line in end(tmp_path)[1] if "auc" in line} == {6: 0.6, 9: 0.9}


def broken_off_on_rank_0(group: Group, folder: Path, number: signal.Signals | None) -> int:
    """Its exit code. Only the first rank, which evaluates, is told to stop."""
    try:
        run(folder, group=group, evaluations=(long([], number),))
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_two_ranks_stop_where_an_evaluation_is_broken_off(two_ranks: Callable[..., list[Any]], tmp_path: Path) -> None:
    assert two_ranks(broken_off_on_rank_0, tmp_path / "a", None) == [0, 0]
    assert two_ranks(broken_off_on_rank_0, tmp_path / "b", signal.SIGTERM) == [143, 143]
    assert list_checkpoints(tmp_path / "b" / "checkpoints")[-1].name == "step-00000004.safetensors"
    assert two_ranks(broken_off_on_rank_0, tmp_path / "b", None) == [0, 0]
    assert identical(tmp_path / "a", tmp_path / "b")


def test_a_finished_run_does_nothing_more(whole: Path, tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path).method.moved == []
    assert identical(whole, tmp_path)


def on_a_rank(group: Group, folder: Path, stopped_at: int) -> int:
    """The exit code of the toy run on one of several ranks; the second is told to stop after a step."""

    def tell(images: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        calls.append(0)
        if group.rank == 1 and len(calls) == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return jitter(images, seeds)

    calls: list[int] = []
    try:
        run(folder, group=group, views=tell)
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_two_ranks_stop_together_and_resume_to_what_one_rank_makes(
    two_ranks: Callable[..., list[Any]], whole: Path, tmp_path: Path
) -> None:
    """Chunks of 4, of which a rank has one per step: the signal comes in step 5, which both finish and which
    rank 0 saves. BatchNorm groups are those of one rank, so the ends agree but for the order of sums."""
    assert two_ranks(on_a_rank, tmp_path, 5) == [143, 143]
    assert list_checkpoints(tmp_path / "checkpoints")[-1].name == "step-00000005.safetensors"
    assert two_ranks(on_a_rank, tmp_path, 0) == [0, 0]
    (ours, lines), (theirs, others) = end(tmp_path), end(whole)
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    run(tmp_path, keep=2)
    kept = [p.name for p in list_checkpoints(tmp_path / "checkpoints")]
    assert kept == ["step-00000009.safetensors", "step-00000010.safetensors"]


def test_an_image_that_is_not_finite_is_named_and_no_weight_moves(tmp_path: Path) -> None:
    """In chunks of 4 with BatchNorm, one bad image spoils the embeddings of its chunk; only it is named."""
    with pytest.raises(RunError, match=r"no weight has moved. Look at toy-11; if") as raised:
        run(tmp_path, source=Toys(bad=(11,)), save_every=1)
    step = int(str(raised.value).split()[1].rstrip(":"))
    found = load_latest(tmp_path / "checkpoints")
    assert (found.step if found else 0) == step - 1
    assert found is None or all(x.isfinite().all() for x in found.tensors.values())


def test_a_view_that_is_not_finite_names_its_chunk(tmp_path: Path) -> None:
    def poisoned(images: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        return {name: view / 0.0 for name, view in jitter(images, seeds).items()}

    with pytest.raises(RunError, match=r"step 1: the embeddings are not finite") as raised:
        run(tmp_path, views=poisoned)
    assert str(raised.value).count("toy-") == BATCH


def test_a_loss_that_is_not_finite_leaves_everything_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Toy] = []

    def infinite(self: Toy, z: dict[str, Tensor], t: dict[str, Tensor], at: Progress) -> Loss:
        made.append(self)
        return Loss((self.head(z["0"]) - t["0"]).mean() * float("inf") * (at.step + 1))

    monkeypatch.setattr(Toy, "loss", infinite)
    with pytest.raises(RunError, match=r"step 1: the loss is not finite; .* lower optim\.lr") as raised:
        run(tmp_path)
    assert str(raised.value).count("\n") == 0
    assert str(raised.value).count("toy-") == BATCH
    after, before = made[0].state_dict(), Toy().state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not made[0].moved
    assert not list_checkpoints(tmp_path / "checkpoints")


@pytest.mark.parametrize(
    ("loop", "says"),
    [
        ({"chunk": 4}, "loop.chunk: 4 items at once do not fit into memory of cpu: try 2"),
        ({"chunk": 1}, "loop.chunk: a single item does not .* try loop.precision bf16, smaller views.size or a"),
        ({"chunk": 1, "precision": "bf16"}, "loop.chunk: a single item does not .* try smaller views.size or a"),
    ],
)
def test_too_little_memory_is_told_with_what_to_make_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(trainer_module, "backward", too_large)
    with pytest.raises(RunError, match=says):
        run(tmp_path, **loop)


def test_too_little_memory_for_the_optimiser_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", too_large)
    with pytest.raises(RunError, match="optim: the state of adamw does not fit into memory of cpu: use a smaller"):
        run(tmp_path, optim=AdamWConfig(lr=0.1))


def too_large(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError


def test_bf16_trains_close_to_fp32(tmp_path: Path) -> None:
    """bfloat16 has 8 bits: 2^-8 = 0.4 % per number. Weights and optimiser stay float32; the negative control is
    that the ends differ at all."""
    ends = []
    for precision in ("fp32", "bf16"):
        run(tmp_path / precision, optim=AdamWConfig(lr=0.001), precision=precision)
        ends.append(end(tmp_path / precision))
    (full, lines), (half, others) = ends
    assert all(x.isfinite().all() and x.dtype == full[name].dtype for name, x in half.items())
    assert any(not torch.equal(x, full[name]) for name, x in half.items())
    for line, other in zip(lines, others, strict=True):
        assert other["loss"] == pytest.approx(line["loss"], rel=0.02)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of dynamo's own making
def test_compiled_is_as_eager_to_rounding(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both encoders, the teacher's too, traced with their derivatives; aot_eager leaves out only the code."""
    compiled: list[nn.Module] = []

    def trace(self: nn.Module) -> None:
        compiled.append(self)
        compile_(self, backend="aot_eager")

    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", trace)
    method = run(tmp_path, compile=True).method
    assert compiled == [method.student, method.teacher]
    (ours, lines), (theirs, others) = end(tmp_path), end(whole)
    assert [line.keys() for line in lines] == [line.keys() for line in others]
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


def test_convolutions_are_repeatable_during_a_run_and_as_before_after_it(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    def look(method: Method, done: int) -> dict[str, float]:  # noqa: ARG001
        seen.append((torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark))
        return {}

    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    run(tmp_path, evaluations=((5, look),))
    assert seen == [(True, False)]
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == before == (False, False)


def test_a_full_disk_is_told_and_the_run_goes_on(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.save

    def full(folder: Path, *, step: int, **rest: Any) -> Path:
        if step == 6:
            raise RunError("step 6: not saved: no space (0 MB free); make room")
        return real(folder, step=step, **rest)

    monkeypatch.setattr("volssl.engine.saver.save", full)
    assert "0 MB free" in run(tmp_path).told
    assert identical(whole, tmp_path)
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 3  # 3, 9 and 10


def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_is_used(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(CrashError):
        run(tmp_path, evaluations=(crash_at(8),))
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(bytes(content))
    told = run(tmp_path).told
    assert "step-00000006.safetensors is damaged: its checksum does not fit its content" in told
    assert "going on after step 3 of 10" in told
    assert identical(whole, tmp_path)


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (Toys(count=ITEMS - 1), "data: 19 items now, 20 when .* restore the data, or give another output"),
        (Toys(changed=(3,)), "data: 20 items now, 20 when .* and not the same"),
        (Toys(), None),
    ],
)
def test_other_data_are_refused_and_the_same_go_on(whole: Path, tmp_path: Path, now: Toys, says: str | None) -> None:
    with pytest.raises(CrashError):
        run(tmp_path, evaluations=(crash_at(5),))
    if says is None:
        run(tmp_path, source=now)
        assert identical(whole, tmp_path)
        return
    with pytest.raises(RunError, match=says):
        run(tmp_path, source=now)
    assert [p.name for p in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000003.safetensors"]


def test_another_machine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrashError):
        run(tmp_path, evaluations=(crash_at(5),))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert "-> 99" in run(tmp_path).told


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    monkeypatch.setattr(Toy, "__init__", lambda self: _other(self))
    with pytest.raises(RunError, match=r"does not fit this method.*head\.weight"):
        run(tmp_path)


def _other(toy: Toy) -> None:
    nn.Module.__init__(toy)
    toy.student, toy.head = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), BatchNorm(5)), nn.Linear(5, 4)
    toy.teacher = copy.deepcopy(toy.student).requires_grad_(False)
