"""The learning rate against arithmetic done by hand."""

from __future__ import annotations

import pytest

from volssl.engine import SGDConfig
from volssl.engine.schedule import learning_rate
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
