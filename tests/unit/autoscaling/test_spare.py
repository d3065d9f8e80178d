"""Spare capacity follows the share of requests that were late."""

from __future__ import annotations

import random

import pytest

from hybridserve.autoscaling.spare import AIM, HIGHEST, LOWEST, REQUESTS_FOR_A_SHARE, START, SpareFactor
from hybridserve.settings.slo import LatencySLO

ALLOWED = 0.01


def after(windows: int, finished: int, late: int) -> SpareFactor:
    """The factor after so many start-up times with the same count."""
    factor = SpareFactor().with_finished(0.0, 0, 0, 60.0, ALLOWED)
    for window in range(windows):
        factor = factor.with_finished(60.0 * (window + 1), finished, late, 60.0, ALLOWED)
    return factor


def test_few_requests_change_nothing() -> None:
    factor = after(1, REQUESTS_FOR_A_SHARE - 1, 100)
    assert (factor.value, factor.late_share) == (START, None)
    assert factor.with_finished(120.0, 1, 0, 60.0, ALLOWED).value > START


def test_share_is_counted_over_a_start_up_time() -> None:
    factor = SpareFactor().with_finished(0.0, 500, 500, 60.0, ALLOWED)
    assert factor.with_finished(59.0, 500, 500, 60.0, ALLOWED).value == START
    assert factor.with_finished(60.0, 500, 500, 60.0, ALLOWED).late_share == 1.0


def test_requests_that_are_all_refused_raise_the_factor() -> None:
    """None of them finishes, and the share is not above one."""
    factor = after(1, 0, 500)
    assert factor.value > START
    assert factor.late_share == 1.0


@pytest.mark.parametrize(("late", "direction", "limit"), [(0, -1, LOWEST), (10, 1, HIGHEST), (1000, 1, HIGHEST)])
def test_factor_follows_the_share(late: int, direction: int, limit: float) -> None:
    raised = after(2, 1000, 50)
    changed = raised.with_finished(180.0, 1000, late, 60.0, ALLOWED)
    assert (changed.value - raised.value) * direction > 0
    assert after(100, 1000, late).value == limit


def test_late_share_settles_at_the_aim() -> None:
    """Twice the spare capacity quarters the late share here; the formulas alone would be late three times as often."""
    source, factor, late = random.Random(1), SpareFactor(), 0
    factor = factor.with_finished(0.0, 0, 0, 60.0, ALLOWED)
    for window in range(1, 401):
        missed = sum(source.random() < 0.03 * 0.25 ** (factor.value - 1) for _ in range(500))
        factor = factor.with_finished(60.0 * window, 500, missed, 60.0, ALLOWED)
        late += missed if window > 100 else 0
    assert late / (300 * 500) == pytest.approx(AIM * ALLOWED, rel=0.15)


@pytest.mark.parametrize(
    ("queued_s", "prefill_s", "inter_token_s", "prompt", "late"),
    [
        (0.5, 1.0, 0.05, 0, False),
        (1.5, 1.0, 0.05, 0, True),
        (1.5, 1.0, 0.05, 1000, False),  # each prompt token may add a millisecond
        (1.5, 2.5, 0.05, 0, False),  # late on an idle replica too
        (0.0, 1.0, 0.2, 0, True),
    ],
)
def test_late_is_what_another_replica_would_have_served_in_time(
    queued_s: float, prefill_s: float, inter_token_s: float, prompt: int, late: bool
) -> None:
    slo = LatencySLO(ttft_s=2.0, inter_token_s=0.1, ttft_per_prompt_token_s=0.001)
    assert slo.late(queued_s, prefill_s, inter_token_s, prompt) is late
