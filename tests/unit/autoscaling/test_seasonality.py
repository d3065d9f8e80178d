"""Seasonality: found after two cycles, forecast, rejected when it stops, and not found in chance."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from hybridserve.autoscaling.seasonality import BINS_PER_START_UP, SeasonalModel

START_UP_S = 120.0
BIN_S = START_UP_S / BINS_PER_START_UP


def poisson(source: random.Random, mean: float) -> int:
    limit, product, count = math.exp(-mean), source.random(), 0
    while product > limit:
        product *= source.random()
        count += 1
    return count


def seen(rate: Callable[[float], float], until: float, seed: int = 1) -> SeasonalModel:
    """Poisson arrivals, observed every ten seconds."""
    source, season, now = random.Random(seed), SeasonalModel(), 0.0
    while now < until:
        season = season.with_arrivals(now, poisson(source, 10 * rate(now)), START_UP_S, 1e6)
        now += 10
    return season


def bursts(now: float) -> float:
    return 6.0 if now % 1200 >= 1020 else 2.0


@pytest.mark.parametrize("seed", range(4))
def test_period_is_found_after_two_cycles(seed: int) -> None:
    assert seen(bursts, 1500, seed).period == 0
    assert seen(bursts, 3000, seed).period * BIN_S == 1200


@pytest.mark.parametrize("seed", range(4))
def test_burst_is_forecast_one_start_up_time_ahead(seed: int) -> None:
    early, right, over = (seen(bursts, 3600 + at, seed).ahead(START_UP_S) for at in (660, 930, 1290))
    assert early is not None
    assert right is not None
    assert over is not None
    assert early.rate < 3.2
    assert right.rate > 5
    assert over.rate < 3.5
    assert [early.peak_over, right.peak_over, over.peak_over] == [False, False, True]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "rate",
    [lambda _: 5.0, lambda now: 1 + now / 1000, lambda now: 5 - 3 * math.cos(2 * math.pi * now / 7200)],
    ids=["steady", "ramp", "half a day"],
)
def test_chance_and_trend_have_no_period(rate: Callable[[float], float], seed: int) -> None:
    source, season, accepted = random.Random(seed), SeasonalModel(), 0
    for step in range(720):
        season = season.with_arrivals(10.0 * step, poisson(source, 10 * rate(10.0 * step)), START_UP_S, 1e6)
        accepted += season.period > 0
    assert accepted <= 36


def test_period_is_rejected_when_the_pattern_stops() -> None:
    season = seen(lambda now: bursts(now) if now < 6000 else 2.0, 8400)
    assert season.period == 0
    assert season.ahead(START_UP_S) is None


def test_forecast_follows_a_higher_level() -> None:
    season = seen(lambda now: bursts(now) * (1.3 if now > 3600 else 1.0), 3600 + 930)
    ahead = season.ahead(START_UP_S)
    assert ahead is not None
    assert 6 * 1.1 < ahead.rate < 6 * 1.5


def test_current_rate_limits_the_forecast_from_below() -> None:
    season = seen(lambda now: 8.0 if now > 4000 else bursts(now), 4400)
    ahead = season.ahead(START_UP_S)
    if season.period:
        assert ahead is not None
        assert ahead.rate > 5.5


def test_old_bins_are_dropped_and_gaps_are_filled() -> None:
    season = SeasonalModel()
    for now in (0.0, 30.0, 60.0, 600.0, 630.0):
        season = season.with_arrivals(now, 18.0 if now == 600 else 1.0, START_UP_S, 450.0)
    assert len(season.bins) == 15  # of 20
    assert set(season.bins) == {1.0}
    assert season.with_arrivals(9000.0, 1.0, START_UP_S, 450.0).bins == ()
