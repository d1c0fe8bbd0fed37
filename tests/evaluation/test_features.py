"""Feature extraction: in order, whatever the batch, and without a trace on the encoder."""

from __future__ import annotations

import numpy as np
import torch

from volssl.evaluation.card import Card
from volssl.evaluation.encoder import Encoder, random_encoder
from volssl.evaluation.features import extract
from volssl.types import Item


class Noise:
    """Seven items of noise, each a function of its position."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, i: int) -> Item:
        image = torch.rand(1, 8, 24, 24, generator=torch.Generator().manual_seed(i))
        return Item(image, (1.0, 1.0, 1.0), str(i))


def test_order_batch_and_state(card: Card) -> None:
    """Row i is item i alone; batches of 1, 3 and 7 agree; buffers and each module's mode stay as they were."""
    encoder = Encoder(random_encoder(card, 0).network.train(), card)
    next(encoder.network.children()).eval()
    modes = [module.training for module in encoder.modules()]
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    told: list[tuple[int, int]] = []
    threes = extract(encoder, Noise(), batch=3, report=lambda done, total: told.append((done, total)))
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert told == [(3, 7), (6, 7), (7, 7)]
    assert threes.shape == (7, encoder.width)
    for size in (1, 7):
        np.testing.assert_allclose(extract(encoder, Noise(), batch=size), threes, rtol=1e-4, atol=1e-6)
    alone = encoder.eval()(Noise()[4].image[None]).pooled.detach().numpy()[0]
    np.testing.assert_allclose(threes[4], alone, rtol=1e-4, atol=1e-6)
