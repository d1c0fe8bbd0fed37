"""The network of dynamic visual meta-embedding: encoders' features as tokens that attend to one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from volssl.evaluation import FusionConfig
from volssl.evaluation.fitting import zero_head
from volssl.evaluation.target import Floats

M = TypeVar("M", bound=nn.Module)


class DVME(nn.Module):
    """Truong et al. 2021 (arXiv 2108.10048): self-attention over encoders, then a classifier of what they become.

    Each encoder's features are standardised and projected by a linear map of its own to a token; tokens go through
    pre-norm Transformer blocks without any code of position, since encoders are a set; their concatenation goes
    through a linear map, a GELU and the classifier. How many heads and blocks, and what is dropped, is ours to choose.

    Encoders stand in the order of their names, and what is drawn for one depends on the seed and its name: the order in
    which they are given changes no bit.

    Args:
        widths: D of each encoder, by name. outputs: O.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int, config: FusionConfig, seed: int) -> None:
        super().__init__()
        self.names, width = tuple(sorted(widths)), config.width
        own = {name: partial(Token, widths[name], width) for name in self.names}
        self.tokens = nn.ModuleList(_drawn((seed, *name.encode()), make) for name, make in own.items())
        self.blocks = nn.ModuleList(_drawn((seed, i), partial(Block, config)) for i in range(config.depth))
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(config.dropout)
        self.mix = _drawn((seed, config.depth), partial(nn.Linear, len(own) * width, width))
        self.head = zero_head(width, outputs)

    def standardise(self, features: Mapping[str, Floats]) -> None:
        """Take the mean and deviation of every feature from these rows, (N, D) of each encoder."""
        for name, token in self.named_tokens():
            token.standardise(features[name])

    def named_tokens(self) -> Iterator[tuple[str, Token]]:
        """The projection of each encoder, in order of names."""
        return zip(self.names, cast("Iterable[Token]", self.tokens), strict=True)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """(B, D) of each encoder to (B, O)."""
        return self.attend(features)[0]

    def attend(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, D) of each encoder to (B, O), and (B, E) the share of attention that each receives, in order of names."""
        tokens = torch.stack([token(features[name]) for name, token in self.named_tokens()], dim=1)
        received = []
        for block in self.blocks:
            tokens, attention = block(tokens)
            received.append(attention.mean(dim=1))
        mixed = F.gelu(self.mix(self.dropout(self.norm(tokens).flatten(1))))
        return self.head(self.dropout(mixed)), torch.stack(received).mean(dim=0)


class Token(nn.Module):
    """One encoder's features, standardised and projected: (B, D) to (B, width)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.mean, self.sd = nn.Buffer(torch.zeros(features)), nn.Buffer(torch.ones(features))
        self.project = nn.Linear(features, width)

    def standardise(self, x: Floats) -> None:
        """Take mean and deviation from (N, D); what does not vary stays as it is."""
        sd = x.std(axis=0)
        self.mean.copy_(torch.from_numpy(x.mean(axis=0)))
        self.sd.copy_(torch.from_numpy(np.where(sd > 0, sd, 1.0)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project((x - self.mean) / self.sd)
        return out


class Block(nn.Module):
    """Attention among encoders and a perceptron, each behind a norm and added to what came in.

    (B, E, width) to the same, and the attention (B, E, E) of each query, a row, to each encoder, the mean over heads.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.norm1(tokens)
        attended, attention = self.attention(normed, normed, normed)
        tokens = tokens + attended
        return tokens + self.mlp(self.norm2(tokens)), attention


def _drawn(seeds: tuple[int, ...], make: Callable[[], M]) -> M:
    """What ``make`` makes, its weights drawn from ``seeds`` without touching torch's own generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1))
        return make()
