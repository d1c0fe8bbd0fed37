"""Learning rate and weight decay against arithmetic done by hand."""

from __future__ import annotations

import pytest

from volssl.engine import AdamWConfig, SGDConfig
from volssl.engine.schedule import learning_rate, weight_decay
from volssl.types import Progress


def rates(config: SGDConfig, steps: int) -> list[float]:
    return [learning_rate(config, Progress(step, steps)) for step in range(steps)]


def test_by_hand() -> None:
    """lr 1, final 0.2, warm-up 3, 8 steps: 1/4, 2/4, 3/4, then from step 3 to step 7 the half cosine
    0.2 + 0.8 * (1 + cos(pi k / 4)) / 2 for k = 0..4: 1, 0.882842712, 0.6, 0.317157288, 0.2."""
    expected = [0.25, 0.5, 0.75, 1.0, 0.882842712474619, 0.6, 0.317157287525381, 0.2]
    assert rates(SGDConfig(lr=1.0, warmup=3, final_lr=0.2), 8) == pytest.approx(expected, abs=1e-15)


def test_without_warm_up_the_first_step_has_the_peak_and_the_last_the_final_rate() -> None:
    found = rates(SGDConfig(lr=0.3, final_lr=0.01), 5)
    assert found[0] == pytest.approx(0.3, abs=1e-16)
    assert found[-1] == 0.01


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 1), (3, 10)])
def test_short_runs_are_positive_and_never_above_the_peak(steps: int, warmup: int) -> None:
    found = rates(SGDConfig(lr=0.3, warmup=warmup, final_lr=0.1), steps)
    assert all(0 < rate <= 0.3 for rate in found)


def test_one_step_runs_at_the_peak() -> None:
    assert rates(SGDConfig(lr=0.3), 1) == pytest.approx([0.3])


def test_it_rises_then_falls() -> None:
    found = rates(SGDConfig(lr=1.0, warmup=10), 100)
    assert found[:11] == sorted(found[:11])
    assert found[10:] == sorted(found[10:], reverse=True)


def test_weight_decay_by_hand() -> None:
    """From 0.04 to 0.4 in 4 steps: 0.4 - 0.36 * (1 + cos(pi k / 4)) / 2 for k = 0..3, with cos 1, 0.7071, 0, -0.7071.

    The end is that of the run, one step after its last.
    """
    config = AdamWConfig(lr=1.0, weight_decay=(0.04, 0.4))
    expected = [0.04, 0.09272077938642143, 0.22, 0.34727922061357857]
    assert [weight_decay(config, Progress(k, 4)) for k in range(4)] == pytest.approx(expected, abs=1e-15)
    assert weight_decay(config, Progress(4, 4)) == 0.4


def test_a_single_weight_decay_stays_as_it_is_written() -> None:
    assert {weight_decay(SGDConfig(lr=1.0, weight_decay=0.04), Progress(k, 7)) for k in range(7)} == {0.04}
