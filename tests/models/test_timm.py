"""timm's models as backbones: on a stand-in with timm's interface, and on timm itself where it is installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from tests.models import timm_stand_in
from volssl.engine.distributed import Group
from volssl.engine.step import backward
from volssl.errors import ConfigError
from volssl.methods import MAEConfig, MoCoV3Config, SimCLRConfig
from volssl.methods.base import Method
from volssl.models import BackboneConfig, TimmConfig, timm_model
from volssl.models.norm import BatchNorm
from volssl.models.timm_model import Timm
from volssl.types import Batch, Progress

STANDING_IN = ["cnn", "cnn_last", "vit"]
REAL = ["resnet18", "resnet50d", "vit_small_patch16_224", "convnext_tiny", "swin_tiny_patch4_window7_224"]
AT = Progress(3, 10)


@pytest.fixture(autouse=True)
def timm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, unless the test asks for timm itself."""
    if "real" in request.fixturenames:
        reason = "timm is not installed: pip install 'volssl[timm]'"
        module: Any = pytest.importorskip("timm", reason=reason, exc_type=ImportError)
    else:
        monkeypatch.setitem(sys.modules, "timm", module := timm_stand_in.stand_in())
    yield module
    timm_model.timm_cost.cache_clear()
    timm_model._without_numbers.cache_clear()


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest) -> str:
    """A model of timm itself."""
    return str(request.param)


def make(model: str, channels: int = 1, **options: Any) -> Timm:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TimmConfig(model=model, **options).build(channels).double()


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def batch_of(size: tuple[int, int], samples: int = 8) -> Batch:
    views = {str(i): images(2, samples, 1, *size)[i] for i in range(2)}
    return Batch(views, torch.arange(samples), torch.arange(samples), torch.full((samples, 1), -1))


def simclr(model: str) -> Method:
    encoder = make(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        method: Method = SimCLRConfig(projector=(16, 8)).build(encoder).double()
    return method


# What holds for every model


def check_features(model: str, size: tuple[int, int]) -> None:
    """What they look like, that the cost is told before, and that every parameter learns from them."""
    network, config = make(model), TimmConfig(model=model)
    assert config.fits(size) is None
    features, cost = network(images(2, 1, *size)), config.cost(1, size)
    rows, columns = features.grid
    assert rows * size[1] == columns * size[0]
    assert features.tokens.shape == (2, rows * columns, network.width)
    assert features.pooled.shape == (2, network.width)
    assert (cost.grid, cost.width) == (features.grid, network.width)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert cost.multiply_adds > 0
    assert cost.activations > 0
    torch.autograd.backward(features.pooled.square().sum())
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def check_step(model: str, size: tuple[int, int]) -> None:
    """SimCLR's step in chunks: the gradient and running statistics of one pass over the same ghost groups."""
    ours, theirs, batch = simclr(model), simclr(model), batch_of(size)
    chunks = [part(batch, slice(i, i + 2)) for i in range(0, 8, 2)]
    before = {name: x.clone() for name, x in ours.state_dict().items()}
    backward(ours, chunks, AT, group=Group())
    assert all(torch.equal(x, before[name]) for name, x in ours.state_dict().items()), "a hook moved a buffer"
    encoded = [theirs.encode(chunk) for chunk in chunks]
    whole = {name: torch.cat([z[name] for z in encoded]) for name in encoded[0]}
    torch.autograd.backward(theirs.loss(whole, {}, AT).total)
    for method in (ours, theirs):
        method.after_step({}, AT)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-9 * max(1, float(b.grad.abs().max())), msg=name)
    state = theirs.state_dict()
    for name, x in ours.state_dict().items():
        torch.testing.assert_close(x, state[name], rtol=1e-9, atol=1e-9)
        assert torch.equal(x, before[name]) != ("running" in name or "tracked" in name), name


def part(batch: Batch, rows: slice) -> Batch:
    views = {name: x[rows] for name, x in batch.views.items()}
    return Batch(views, batch.index[rows], batch.seeds[rows], batch.labels[rows])


@pytest.mark.parametrize("model", STANDING_IN)
def test_features(model: str) -> None:
    check_features(model, (16, 24))


def test_features_of_timm_s_own(real: str) -> None:
    check_features(real, (64, 96))


@pytest.mark.parametrize("model", STANDING_IN)
def test_the_step_is_exact(model: str) -> None:
    check_step(model, (16, 24))


def test_the_step_is_exact_with_timm_s_own(real: str) -> None:
    check_step(real, (64, 64))


def test_negative_control_a_rate_above_zero_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_model, "_never_drop", lambda _: None)
    with pytest.raises(AssertionError):
        check_step("vit", (16, 24))


def test_negative_control_timm_s_own_batch_norms_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_model, "_like", lambda _: None)
    monkeypatch.setattr(timm_model, "_keeps_statistics", lambda _: False)
    with pytest.raises(AssertionError, match="a hook moved a buffer"):
        check_step("cnn", (16, 24))


# Every kind of model


def theirs_and_ours(model: str) -> tuple[Any, Timm]:
    ours = make(model).eval()
    theirs = timm_stand_in.create_model(model, pretrained=False, num_classes=0, in_chans=1).double().eval()
    theirs.load_state_dict({name.removeprefix("net."): x for name, x in ours.state_dict().items()})
    return theirs, ours


@pytest.mark.parametrize("model", ["cnn", "cnn_last"])
def test_maps_are_tokens_row_by_row(model: str) -> None:
    """Of 16 x 24 pixels the grid is 4 x 6: token 9 is row 1, column 3."""
    theirs, ours = theirs_and_ours(model)
    x = images(2, 1, 16, 24)
    features, maps = ours(x), theirs.forward_features(x)
    maps = maps if model == "cnn_last" else maps.movedim(1, -1)
    assert features.grid == (4, 6)
    torch.testing.assert_close(features.tokens[:, 9], maps[:, 1, 3])
    torch.testing.assert_close(features.pooled, maps.mean((1, 2)))


@pytest.mark.parametrize("model", STANDING_IN)
def test_the_map_is_that_of_the_tokens(model: str) -> None:
    """Of 16 x 24 pixels the grid is 4 x 6: token 9 is row 1, column 3."""
    network, x = make(model).eval(), images(2, 1, 16, 24)
    (maps,) = network.maps(x)
    assert maps.shape == (2, network.width, 4, 6)
    assert torch.equal(maps[:, :, 1, 3], network(x).tokens[:, 9])


def test_prefix_tokens_are_no_part_of_the_grid() -> None:
    theirs, ours = theirs_and_ours("vit")
    x = images(2, 1, 16, 16)
    features, tokens = ours(x), theirs.forward_features(x)
    torch.testing.assert_close(features.tokens, tokens[:, 2:])
    torch.testing.assert_close(features.pooled, tokens[:, 0] + tokens[:, 1])


@pytest.mark.parametrize("training", [True, False])
def test_batch_norms_compute_what_timm_s_do(training: bool) -> None:
    """With their activation, eps, momentum and weights; not deferred, as when an encoder is trained by itself."""
    theirs, ours = theirs_and_ours("cnn")
    for net in (theirs, ours):
        net.train(training)
    theirs.drop_path.drop_prob = 0.0
    x = images(4, 1, 16, 16)
    torch.testing.assert_close(ours.net.forward_features(x), theirs.forward_features(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(dict(ours.net.state_dict()), dict(theirs.state_dict()), rtol=0, atol=1e-12)
    norms = [m for m in ours.modules() if isinstance(m, BatchNorm)]
    assert [(m.eps, m.momentum) for m in norms] == [(1e-3, 0.3), (1e-4, 0.2)]


def test_multiply_adds_by_hand() -> None:
    """16 x 16 pixels, 2 channels: 8 x 8 x (2 x 9 x 6) in the first convolution, 4 x 4 x (6 x 9 x 8) in the second."""
    cost = TimmConfig(model="cnn").cost(2, (16, 16))
    assert cost.multiply_adds == 64 * 108 + 16 * 432
    assert cost.parameters == 108 + 12 + 432 + 16


def test_what_normalises() -> None:
    assert [TimmConfig(model=model).norm for model in STANDING_IN] == ["batch", "batch", "layer"]


def test_pooled_features_are_in_full_precision_under_autocast() -> None:
    network = make("vit").float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(images(1, 1, 16, 16).float()).pooled.dtype == torch.float32


def test_moco_v3_holds_the_patches_of_a_transformer_and_mae_refuses() -> None:
    encoder = make("vit")
    MoCoV3Config(projector=(8, 8, 4), predictor=(8, 4)).build(encoder)
    still = {name for name, p in encoder.named_parameters() if not p.requires_grad}
    assert still == {"net.patch_embed.proj.weight", "net.patch_embed.proj.bias"}
    assert not hasattr(make("cnn"), "patch_embed")
    refused = MAEConfig().fits(TimmConfig(model="vit"), (16, 16))
    assert refused == ("backbone.name", "timm cannot leave patches out, which mae needs: use vit")


# What does not fit is told


@pytest.mark.parametrize(
    ("model", "size", "problem"),
    [
        ("cnn", (15, 17), None),
        (
            "vit",
            (16, 18),
            "[16, 18] does not fit vit (Input size should be divisible by patch size): use [16, 16], its own",
        ),
        (
            "vit_fixed",
            (8, 8),
            "[8, 8] does not fit vit_fixed (Input size doesn't match model (16, 16)): use [16, 16], its own",
        ),
        ("cnn", (8, 16, 16), "[8, 16, 16] has 3 numbers, backbone.dims is 2: give 2"),
    ],
)
def test_sizes(model: str, size: tuple[int, ...], problem: str | None) -> None:
    assert TimmConfig(model=model).fits(size) == problem


def test_a_model_of_one_size_is_built_for_another() -> None:
    config = TimmConfig(model="vit_fixed", size=(8, 12))
    assert config.fits((8, 12)) is None
    assert config.cost(1, (8, 12)).grid == (2, 3)
    assert str(config.fits((16, 16))).endswith("use [8, 12], its own")


NO_GRID = "has no grid of features as wide as the pooled ones: use another"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"model": "cnnn"}, "timm 1.0.0 has no cnnn: did you mean cnn?"),
        ({"model": "moves"}, "the EvoNorm of moves moves by itself in training: use another"),
        ({"model": "several"}, f"several {NO_GRID}"),
        ({"model": "wide"}, f"wide {NO_GRID}"),
        (
            {"model": "cnn", "size": (8, 8)},
            "timm cannot build cnn for [8, 8] "
            "(CNN.__init__() got an unexpected keyword argument 'img_size'): leave backbone.size out",
        ),
    ],
)
def test_a_model_that_is_no_backbone_is_refused(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        TimmConfig(**config).fits((16, 16))
    assert str(refused.value) == f"backbone.model: {problem}"


def test_without_timm_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"^backbone.name: timm cannot be imported .*: pip install 'volssl\[timm\]'$"):
        TimmConfig(model="cnn").fits((16, 16))


@pytest.mark.parametrize("model", ["resnet18.a1_in1k", "hf-hub:timm/resnet18", "local-dir:/models", ""])
def test_a_name_that_means_a_download_is_refused(model: str) -> None:
    with pytest.raises(ValidationError, match="nothing is downloaded"):
        TimmConfig(model=model)


def test_it_is_in_the_union_and_loads_no_torch() -> None:
    config = TypeAdapter(BackboneConfig).validate_python({"name": "timm", "model": "resnet18"})
    assert config == TimmConfig(model="resnet18")
    code = "import sys; from volssl.models import TimmConfig; TimmConfig(model='vit'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
