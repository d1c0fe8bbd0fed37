"""LARS against a NumPy twin; which parameters decay; what a checkpoint keeps of an optimiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from volssl.engine import AdamWConfig, LARSConfig, OptimConfig, SGDConfig
from volssl.engine.optim import (
    build_optimizer,
    clip_gradients,
    gradient_norm,
    load_optimizer_tensors,
    optimizer_tensors,
    parameter_groups,
    set_learning_rate,
    set_weight_decay,
)
from volssl.errors import RunError

CONFIGS: list[OptimConfig] = [
    LARSConfig(lr=0.2, weight_decay=0.01),
    AdamWConfig(lr=0.01, weight_decay=0.1),
    SGDConfig(lr=0.1, weight_decay=0.01),
]


def network(seed: int = 0) -> nn.Sequential:
    """Convolution (channels_last_3d), norm and linear layer in float64, drawn from a seed."""
    made = nn.Sequential(nn.Conv3d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(32, 3)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    convolution = made.get_parameter("0.weight")
    convolution.data = convolution.data.to(memory_format=torch.channels_last_3d)
    return made


def set_gradients(made: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in made.parameters():
        p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))


def test_lars_by_hand() -> None:
    """w = (3, 4) so |w| = 5, g = (0, 10) so |g| = 10, no decay, trust 0.1: u = g * 0.1 * 5 / 10 = (0, 0.5).
    lr 2: w = (3, 4 - 1) = (3, 3). Again with |w| = sqrt(18): u = (0, sqrt(18) / 10), momentum 0.5:
    v = (0, 0.25 + sqrt(18) / 10), w = (3, 3 - 0.5 - sqrt(18) / 5)."""
    layer = nn.Linear(2, 1, bias=False).double()
    layer.weight.data = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    optimizer = build_optimizer(LARSConfig(lr=2.0, momentum=0.5, trust=0.1), layer)
    for expected in (3.0, 3 - 0.5 - 18**0.5 / 5):
        layer.weight.grad = torch.tensor([[0.0, 10.0]], dtype=torch.float64)
        optimizer.step()
        assert layer.weight.tolist() == [[3.0, pytest.approx(expected, abs=1e-14)]]


def lars_twin(
    w: list[np.ndarray], gradients: list[list[np.ndarray]], config: LARSConfig, lrs: list[float]
) -> list[np.ndarray]:
    """You et al. 2017, algorithm 1, one parameter at a time."""
    v = [np.zeros_like(x) for x in w]
    for g, lr in zip(gradients, lrs, strict=True):
        for i in range(len(w)):
            u = g[i]
            if w[i].ndim > 1 or not config.exclude_norm_and_bias:
                u = u + config.weight_decay * w[i]
                local = np.sqrt((w[i] ** 2).sum()), np.sqrt((u**2).sum())
                u = u * (config.trust * local[0] / local[1] if min(local) > 0 else 1.0)
            v[i] = config.momentum * v[i] + u
            w[i] = w[i] - lr * v[i]
    return w


@pytest.mark.parametrize("exclude", [True, False])
def test_lars_against_its_twin_over_five_steps(exclude: bool) -> None:
    config = LARSConfig(lr=1.0, weight_decay=0.03, trust=0.02, exclude_norm_and_bias=exclude)
    made, lrs = network(), [0.1, 0.5, 1.0, 0.3, 0.2]
    with torch.no_grad():
        made.get_parameter("1.bias").zero_()  # |w| = 0: the ratio is 1
    before = [p.detach().numpy().copy() for p in made.parameters()]
    optimizer, gradients = build_optimizer(config, made), []
    for i, lr in enumerate(lrs):
        set_gradients(made, i)
        gradients.append([p.grad.numpy().copy() for p in made.parameters() if p.grad is not None])
        set_learning_rate(optimizer, lr)
        optimizer.step()
    expected = lars_twin(before, gradients, config, lrs)
    for p, twin in zip(made.parameters(), expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), twin, rtol=0, atol=1e-13)
    other = lars_twin(before, gradients, config.model_copy(update={"momentum": 0.8}), lrs)
    assert not np.allclose(made.get_parameter("3.weight").detach().numpy(), other[-2], atol=1e-13)


def test_norm_weights_and_biases_neither_decay_nor_adapt() -> None:
    made = network()
    made[3].requires_grad_(False)
    decayed, plain = parameter_groups(LARSConfig(lr=1.0, weight_decay=0.5), made)
    assert [name for name, _ in decayed["params"]] == ["0.weight"]
    assert [name for name, _ in plain["params"]] == ["0.bias", "1.weight", "1.bias"]
    assert (decayed["weight_decay"], plain["weight_decay"], plain["adapt"]) == (0.5, 0.0, False)
    (everything,) = parameter_groups(SGDConfig(lr=1.0, weight_decay=0.5, exclude_norm_and_bias=False), made)
    assert len(everything["params"]) == 4


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_a_weight_decay_that_varies_moves_only_what_decays(config: OptimConfig) -> None:
    """Two steps, without decay and with 0.5 in the second: after the first all is alike, after the second the norm's
    weights and all biases still are, and the other weights are not."""
    made, twin = network(), network()
    pairs = [(n, build_optimizer(config.model_copy(update={"weight_decay": (0.0, 0.5)}), n)) for n in (made, twin)]
    for step, decay in enumerate((0.0, 0.5)):
        for (network_, optimizer), set_to in zip(pairs, (decay, 0.0), strict=True):
            set_gradients(network_, step)
            set_weight_decay(optimizer, set_to)
            optimizer.step()
        alike = [torch.equal(a, b) for a, b in zip(made.parameters(), twin.parameters(), strict=True)]
        assert alike == [p.ndim == 1 or step == 0 for p in made.parameters()]
    assert [group["weight_decay"] for group in pairs[0][1].param_groups] == [0.5, 0.0]


def test_adamw_decays_by_hand() -> None:
    """Without a gradient only the decay of AdamW moves a weight: w (1 - lr decay), 8 * 0.5 = 4, then 4 * 0.75 = 3."""
    layer = nn.Linear(1, 1)
    layer.weight.data, layer.bias.data = torch.tensor([[8.0]]), torch.tensor([8.0])
    optimizer = build_optimizer(AdamWConfig(lr=0.5, weight_decay=(1.0, 0.5)), layer)
    for decay, expected in ((1.0, 4.0), (0.5, 3.0)):
        layer.weight.grad, layer.bias.grad = torch.zeros(1, 1), torch.zeros(1)
        set_weight_decay(optimizer, decay)
        optimizer.step()
        assert (layer.weight.item(), layer.bias.item()) == (expected, 8.0)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_the_layout_of_a_gradient_does_not_change_the_step(config: OptimConfig) -> None:
    """torch's fused optimisers on a CPU fail this: they walk memory."""
    results = []
    for layout in (torch.channels_last_3d, torch.contiguous_format):
        made = network()
        optimizer = build_optimizer(config, made)
        for step in range(2):
            set_gradients(made, step)
            convolution = made.get_parameter("0.weight")
            assert convolution.grad is not None
            convolution.grad = convolution.grad.contiguous(memory_format=layout)
            optimizer.step()
        results.append(made.get_parameter("0.weight").detach().clone())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-15)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_the_state_goes_through_a_checkpoint_bit_for_bit(config: OptimConfig) -> None:
    """Two steps, state moved to a second optimiser, two more steps of each: equal; without the state: not."""
    made, moved, fresh = network(), network(), network()
    optimizer = build_optimizer(config, made)
    for step in range(2):
        set_gradients(made, step)
        optimizer.step()
    saved: dict[str, Tensor] = {k: v.contiguous().clone() for k, v in optimizer_tensors(optimizer).items()}
    twins = [(made, optimizer)] + [(m, build_optimizer(config, m)) for m in (moved, fresh)]
    moved.load_state_dict(made.state_dict())
    fresh.load_state_dict(made.state_dict())
    load_optimizer_tensors(twins[1][1], saved)
    for _, value in optimizer_tensors(twins[1][1]).items():
        assert value.ndim != 5 or value.is_contiguous(memory_format=torch.channels_last_3d)
    for step in (2, 3):
        for network_, o in twins:
            set_gradients(network_, step)
            o.step()
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), moved.parameters(), strict=True))
    assert not torch.equal(made.get_parameter("0.weight"), fresh.get_parameter("0.weight"))


def test_state_of_another_method_is_refused() -> None:
    optimizer = build_optimizer(CONFIGS[0], network())
    with pytest.raises(RunError, match=r"head\.weight\.momentum"):
        load_optimizer_tensors(optimizer, {"head.weight.momentum": torch.zeros(2, 2)})
    with pytest.raises(RunError, match=r"0\.weight\.momentum"):
        load_optimizer_tensors(optimizer, {"0.weight.momentum": torch.zeros(2, 2)})


def test_clipping_by_hand() -> None:
    """Gradient (3, 4): norm 5; clipped to 1: (0.6, 0.8). A norm below the limit changes nothing."""
    layer = nn.Linear(2, 1, bias=False)
    optimizer = build_optimizer(SGDConfig(lr=1.0), layer)
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    assert gradient_norm(layer).item() == 5.0
    clip_gradients(optimizer, gradient_norm(layer), 10.0)
    assert layer.weight.grad.tolist() == [[3.0, 4.0]]
    clip_gradients(optimizer, gradient_norm(layer), 1.0)
    assert layer.weight.grad.flatten().tolist() == pytest.approx([0.6, 0.8], abs=1e-6)


def test_the_norm_tells_a_gradient_that_is_not_finite() -> None:
    made = network()
    set_gradients(made, 0)
    assert gradient_norm(made).isfinite()
    bias = made.get_parameter("3.bias")
    assert bias.grad is not None
    bias.grad[1] = float("nan")
    assert not gradient_norm(made).isfinite()
