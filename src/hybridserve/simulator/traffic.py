"""Requests to replay: synthetic workloads by name, and recorded traces.

A workload is a rate over time (requests per second) and a mix of request lengths. Arrivals are drawn from a Poisson
process whose rate follows the curve (by thinning), so that nothing arrives on a beat.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hybridserve.errors import ConfigError

Arrival = tuple[float, int, int]
"""Time in seconds, prompt tokens, output tokens."""

HEADER = ("time", "prompt", "output")
# A gap of a tenth of a trace, or of six hours, is a recorder that was off, not users who were.
LARGEST_GAP_S = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal prompt and output lengths around medians, cut at `longest`.

    `sigma` is the standard deviation of the logarithm: 0 for one length, 0.6 for p95 = 2.7 times the median.
    """

    prompt: int
    output: int
    sigma: float = 0.6
    longest: int = 16_000

    def draw(self, source: random.Random) -> tuple[int, int]:
        prompt = min(self.longest, max(1, round(source.lognormvariate(math.log(self.prompt), self.sigma))))
        output = min(self.longest, max(1, round(source.lognormvariate(math.log(self.output), self.sigma))))
        return prompt, output


CHAT = Lengths(512, 300)
REASONING = Lengths(600, 900)
LONG_CONTEXT = Lengths(12_000, 250, sigma=0.3)
DOCUMENTS = Lengths(3_000, 400, sigma=0.3)
EXTRACTION = Lengths(3_000, 24, sigma=0.4)


@dataclass(frozen=True, slots=True)
class TrafficPattern:
    """A curve and what is asked.

    Attributes:
        rate: requests per second at a time in seconds, as a multiple of `base`.
        base: requests per second.
        highest: the largest value of `rate`.
        mix: lengths with their shares.
        seconds: its length.
        every_s: length of the round that comes back; 0 when nothing does. Every round is up to a fifth lower.
    """

    name: str
    about: str
    rate: Callable[[float], float]
    highest: float
    mix: tuple[tuple[float, Lengths], ...]
    base: float
    seconds: float
    every_s: float = 0.0

    def arrivals(self, seed: int = 1, scale: float = 1.0, history_s: float = 0.0) -> list[Arrival]:
        """Draw the requests.

        Args:
            scale: multiplies the rate.
            history_s: so much of it, in whole rounds, goes before; times count from its beginning.
        """
        source = random.Random(f"{self.name}-{seed}")
        shares = [share for share, _ in self.mix]
        kinds = [lengths for _, lengths in self.mix]
        peak = self.base * self.highest * scale
        now = 0.0
        drawn: list[Arrival] = []
        while True:
            now += source.expovariate(peak)
            if now >= history_s + self.seconds:
                return drawn
            height = 1.0
            if self.every_s:
                height = random.Random(f"{self.name}-{seed}-{int(now / self.every_s)}").uniform(0.8, 1.0)
            if source.random() * self.highest <= height * self.rate(now):
                lengths = kinds[0] if len(kinds) == 1 else source.choices(kinds, shares)[0]
                drawn.append((now, *lengths.draw(source)))


def _steady(_: float) -> float:
    return 1.0


def _bursts(now: float) -> float:
    """Every 20 minutes, for 3 minutes, three times the rate."""
    return 3.0 if now % 1200 >= 1020 else 1.0


def _diurnal(now: float) -> float:
    """A day pressed into two hours: from a fifth of the rate to all of it and back."""
    return 0.6 - 0.4 * math.cos(2 * math.pi * now / 7200)


def _storms(now: float) -> float:
    """As long and as high as bursts and as many, at odds with every clock."""
    return 3.0 if any(at <= now % 7200 < at + 180 for at in (700, 1450, 2950, 3600, 5900, 6700)) else 1.0


def _flash(now: float) -> float:
    """At 50 minutes, within half a minute, five times the rate; half of the surplus is gone every ten minutes."""
    since = now - 3000
    if since < 0:
        return 1.0
    return 1.0 + 4.0 * min(1.0, since / 30) * math.exp(-math.log(2) * since / 600)


def _ramp(now: float) -> float:
    """From a fifth to all within 80 minutes, then level."""
    return min(1.0, 0.2 + 0.8 * now / 4800)


def _square(now: float) -> float:
    """Fifteen minutes low, fifteen minutes high."""
    return 1.0 if now % 1800 >= 900 else 0.25


def _office(now: float) -> float:
    """Two peaks with a lunch break, and almost nothing before and after."""
    hill = math.exp(-(((now - 2000) / 900) ** 2)) + math.exp(-(((now - 5000) / 900) ** 2))
    return 0.05 + 0.95 * min(1.0, hill)


def _nights(now: float) -> float:
    """Twenty minutes of use, forty of nothing."""
    return 1.0 if now % 3600 < 1200 else 0.0


TRAFFIC_PATTERNS = {
    workload.name: workload
    for workload in (
        TrafficPattern("poisson", "steady chat", _steady, 1.0, ((1.0, CHAT),), 8.0, 7200),
        TrafficPattern("diurnal", "a day of chat in two hours", _diurnal, 1.0, ((1.0, CHAT),), 14.0, 7200),
        TrafficPattern("ramp", "chat that grows fivefold", _ramp, 1.0, ((1.0, CHAT),), 12.0, 7200),
        TrafficPattern(
            "bursts", "chat, three times as much every 20 minutes", _bursts, 3.0, ((1.0, CHAT),), 4.0, 7200, 1200
        ),
        TrafficPattern("flash-crowd", "chat, five times as much at once", _flash, 5.0, ((1.0, CHAT),), 3.0, 7200),
        TrafficPattern("square", "chat, low and high in turn", _square, 1.0, ((1.0, CHAT),), 10.0, 7200, 1800),
        TrafficPattern("office", "two peaks with a break", _office, 1.0, ((1.0, CHAT),), 12.0, 7200),
        TrafficPattern("reasoning", "a day of long answers", _diurnal, 1.0, ((1.0, REASONING),), 5.0, 7200),
        TrafficPattern(
            "long-context",
            "a day of long prompts: blocks run out before slots",
            _diurnal,
            1.0,
            ((1.0, LONG_CONTEXT),),
            2.5,
            7200,
        ),
        TrafficPattern(
            "extraction",
            "a day of long prompts with short answers: prefill binds",
            _diurnal,
            1.0,
            ((1.0, EXTRACTION),),
            12.0,
            7200,
        ),
        TrafficPattern(
            "mixed",
            "a day of chat, one in eight with a long prompt",
            _diurnal,
            1.0,
            ((0.875, CHAT), (0.125, DOCUMENTS)),
            8.0,
            7200,
        ),
        TrafficPattern(
            "nights", "twenty minutes of use, forty of nothing", _nights, 1.0, ((1.0, CHAT),), 4.0, 7200, 3600
        ),
        TrafficPattern(
            "storms",
            "chat, three times as much for three minutes, nobody knows when",
            _storms,
            3.0,
            ((1.0, CHAT),),
            4.0,
            7200,
        ),
    )
}


def read_trace(path: Path) -> list[Arrival]:
    """A recorded trace: CSV with the columns time (seconds), prompt and output (tokens), in order of time.

    Raises:
        ConfigError: not readable, a column is missing, a number is not one, times run backwards or are negative, or
            the trace has a gap that looks like a recorder that was off.
    """
    try:
        return parse_trace(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--trace", f"{str(path)!r} is not readable: {error}", "give a CSV file") from None


def parse_trace(text: str, where: str) -> list[Arrival]:
    """`read_trace` for text."""
    rows = csv.DictReader(text.splitlines())
    missing = [column for column in HEADER if column not in (rows.fieldnames or ())]
    if missing:
        raise ConfigError(where, f"has no column {', '.join(missing)}", f"the header is {','.join(HEADER)}")
    trace: list[Arrival] = []
    before = 0.0
    for row in rows:
        line = f"{where}:{rows.line_num}"
        try:
            at, prompt, output = float(row["time"]), int(row["prompt"]), int(row["output"])
        except (TypeError, ValueError):
            raise ConfigError(line, f"{dict(row)} is not a time and two counts", "repair or remove the row") from None
        if not math.isfinite(at) or at < 0:
            raise ConfigError(line, f"time {at:g} is negative or not finite", "seconds since the start of the trace")
        if at < before:
            raise ConfigError(line, f"time {at:g} is before the row above ({before:g})", "sort the trace by time")
        if prompt < 1 or output < 1:
            raise ConfigError(line, f"prompt {prompt}, output {output}: both must be at least 1", "remove the row")
        if trace and at - before > LARGEST_GAP_S:
            raise ConfigError(
                line,
                f"nothing for {(at - before) / 3600:.1f} hours before it: the trace has a gap",
                "cut the trace there, or close the gap",
            )
        before = at
        trace.append((at, prompt, output))
    if not trace:
        raise ConfigError(where, "has no rows", "one request a row")
    return trace
