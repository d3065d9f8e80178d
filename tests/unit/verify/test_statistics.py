"""The false-alarm rate is the stated one on synthetic noise, and a shift of its size is found."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from hybridserve.verify.statistics import (
    Deviation,
    Noise,
    Position,
    Result,
    Tolerance,
    judge,
    judge_answers,
    moved,
    noise,
    overall,
    position,
    t_quantile,
)

PROBES, POSITIONS, PASSES = 12, 16, 2
Draw = Callable[[random.Random], float]
SHAPES: dict[str, Draw] = {
    "gaussian": lambda source: abs(source.gauss(0, 0.05)),
    "laplace": lambda source: source.expovariate(20),
    "mostly zero": lambda source: abs(source.gauss(0, 0.3)) if source.random() < 0.05 else 0.0,
}


def sample(draw: Draw, source: random.Random, scale: float = 1.0) -> list[Deviation]:
    """Probes of different noise, as real ones are."""
    found = []
    for probe in range(PROBES):
        size = scale * (0.5 + probe / PROBES)
        values = [size * draw(source) for _ in range(POSITIONS)]
        found.append(Deviation(str(probe), [Position(value, 1.5 * value) for value in values]))
    return found


def recorded(draw: Draw, source: random.Random) -> Noise:
    return noise([deviation for _ in range(PASSES) for deviation in sample(draw, source)])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_right_engine_fails_at_most_at_the_stated_rate(shape: str) -> None:
    """400 right runs against as many references, at 2 % for each test; the floor of the data type is left out."""
    draw, source, alarms = SHAPES[shape], random.Random(1), 0
    tolerance = Tolerance(alpha=0.02, epsilon=0.0, kind="same")
    for _ in range(400):
        reference = recorded(draw, source)
        alarms += judge("single", sample(draw, source), reference, tolerance).verdict == "FAIL"
    assert alarms <= 16, f"{alarms} of 400 right runs failed"  # two tests in each run


@pytest.mark.parametrize("share", [0.01, 0.07, 0.5])
def test_answers_that_rarely_move_are_no_alarm_after_a_recording_in_which_none_moved(share: float) -> None:
    """Requests sent together: an answer is the recorded one to the last bit, or moved by bfloat16's rounding.

    The size and the shares are those of the demo model (docs/evidence/verify.md).
    """
    source, alarms, empty = random.Random(3), 0, 0
    tolerance = Tolerance(alpha=0.0004, epsilon=2**-8, kind="regrouped")

    def together() -> list[Deviation]:
        sizes = [0.065 * (source.random() < share) for _ in range(PROBES)]
        shifts = [[abs(source.gauss(0, size)) for _ in range(24)] for size in sizes]
        return [Deviation("a", [Position(shift / 3, shift) for shift in values]) for values in shifts]

    for _ in range(400):
        recorded = moved(together())
        empty += not recorded.samples
        alarms += judge("warm", together(), recorded, tolerance).verdict == "FAIL"
    assert alarms == 0
    assert empty or share == 0.5, "the case is not the one that the test is about"


@pytest.mark.parametrize("shape", ["gaussian", "laplace"])
def test_three_times_the_noise_is_found(shape: str) -> None:
    draw, source = SHAPES[shape], random.Random(2)
    tolerance = Tolerance(alpha=0.0004, epsilon=0.0, kind="same")
    found = sum(
        judge("single", sample(draw, source, 3.0), recorded(draw, source), tolerance).verdict == "FAIL"
        for _ in range(100)
    )
    assert found >= 95


def test_one_wrong_position_is_found() -> None:
    deviations = [Deviation("a", [Position(0.0, 0.0)] * 30), Deviation("b", [Position(0.0, 0.0)] * 29)]
    deviations[1].positions.append(Position(0.0005, 0.73))  # as after vLLM 0.29's preemption with prefix_match_unit 32
    result = judge("preempted", deviations, Noise(), Tolerance(0.0004, 2**-8, "same"))
    assert result.verdict == "FAIL"
    assert result.worst > result.worst_limit
    assert result.level < result.level_limit


@pytest.mark.parametrize(
    ("probability", "degrees", "tabled"),
    [(0.975, 5, 2.5706), (0.995, 10, 3.1693), (0.9995, 20, 3.8495), (0.9995, 60, 3.4602)],
)
def test_quantiles_are_those_of_the_tables(probability: float, degrees: int, tabled: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(tabled, rel=0.01)


def test_a_token_below_the_likeliest_counts_as_at_most_the_last() -> None:
    seen = position([(1, -0.1), (2, -3.0)], {1: -0.2, 7: -5.0})
    assert seen.worst == pytest.approx(2.0)
    assert seen.mean == pytest.approx((0.1 + 2.0) / 2)


@pytest.mark.parametrize(("lost", "verdict"), [([], "PASS"), (["a"], "PASS"), (list("abcdef"), "FAIL")])
def test_lost_answers_are_counted_against_chance(lost: list[str], verdict: str) -> None:
    assert judge_answers(8, lost, 0.0004).verdict == verdict


def test_a_run_without_a_check_is_no_pass() -> None:
    assert overall([Result("single", "SKIP")]) == "SKIP"
    assert overall([Result("single", "SKIP"), Result("warm", "PASS")]) == "PASS"
    assert overall([Result("single", "FAIL"), Result("warm", "PASS")]) == "FAIL"
