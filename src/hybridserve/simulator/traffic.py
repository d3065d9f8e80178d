"""Requests to replay: synthetic traffic patterns and recorded traces.

A pattern is a rate over time (requests per second) and a mix of request lengths. Arrivals are a Poisson process whose
rate follows the curve, by thinning.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hybridserve.errors import ConfigError
from hybridserve.simulator.trace_formats import HEADER, rows

Arrival = tuple[float, int, int]
"""Time in seconds, prompt tokens, output tokens."""

# A longer gap means that the recorder was off.
LARGEST_GAP_S = 6 * 3600.0
# Larger times are seconds since 1970, as those of dates: they count from the first row.
DATES_FROM_S = 1e8

# Longest prompt, and longest output, of a pattern.
LONGEST = 16_000
# Standard deviations from the median of a normal distribution to its p95.
P95_SIGMAS = 1.6449


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal prompt and output lengths around medians, limited to `longest`.

    `sigma` is the standard deviation of the logarithm: 0 for a constant length, 0.6 for p95 = 2.7 times the median.
    Outputs have their own where `output_sigma` and `longest_output` are given.
    """

    prompt: int
    output: int
    sigma: float = 0.6
    longest: int = LONGEST
    output_sigma: float | None = None
    longest_output: int | None = None

    def draw(self, source: random.Random) -> tuple[int, int]:
        sigma = self.sigma if self.output_sigma is None else self.output_sigma
        prompt = min(self.longest, max(1, round(source.lognormvariate(math.log(self.prompt), self.sigma))))
        output = max(1, round(source.lognormvariate(math.log(self.output), sigma)))
        return prompt, min(self.longest_output or self.longest, output)

    @classmethod
    def from_quantiles(cls, prompt: tuple[int, int], output: tuple[int, int], context: int | None = None) -> Lengths:
        """Lengths with these p50 and p95, cut so that prompt and output fit into `context` tokens together."""
        (prompt_p50, prompt_p95), (output_p50, output_p95) = prompt, output
        longest = max(LONGEST, prompt_p95), max(LONGEST, output_p95)
        if context is not None:
            cut = min(context - 1, max(1, context * prompt_p95 // (prompt_p95 + output_p95)))
            longest = cut, context - cut
        sigmas = (math.log(p95 / p50) / P95_SIGMAS for p50, p95 in (prompt, output))
        return cls(prompt_p50, output_p50, next(sigmas), longest[0], next(sigmas), longest[1])


CHAT = Lengths(512, 300)
REASONING = Lengths(600, 900)
LONG_CONTEXT = Lengths(12_000, 250, sigma=0.3)
DOCUMENTS = Lengths(3_000, 400, sigma=0.3)
EXTRACTION = Lengths(3_000, 24, sigma=0.4)


@dataclass(frozen=True, slots=True)
class TrafficPattern:
    """A rate over time and a mix of request lengths.

    Attributes:
        rate: relative rate at a time in seconds.
        base: requests per second at a relative rate of 1.
        highest: largest value of `rate`.
        mix: shares of request lengths.
        seconds: duration.
        every_s: period of the pattern; 0 when it has none. The rate of each period is up to a fifth lower.
    """

    name: str
    about: str
    rate: Callable[[float], float]
    base: float
    highest: float = 1.0
    mix: tuple[tuple[float, Lengths], ...] = ((1.0, CHAT),)
    seconds: float = 7200.0
    every_s: float = 0.0

    def mean_rate(self) -> float:
        """Requests per second over the whole pattern."""
        mean = sum(map(self.rate, range(round(self.seconds)))) / round(self.seconds)
        return self.base * mean * (0.9 if self.every_s else 1.0)  # the rate of a period is 0.8 to 1.0 of it

    def arrivals(self, seed: int = 1, scale: float = 1.0, history_s: float = 0.0) -> list[Arrival]:
        """Generate the requests.

        Args:
            scale: factor for the rate.
            history_s: seconds of additional traffic before the pattern; times count from its start.
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
    """Three times the rate for 3 minutes in every 20."""
    return 3.0 if now % 1200 >= 1020 else 1.0


def _diurnal(now: float) -> float:
    """A day compressed into two hours: from a fifth of the rate to all of it and back."""
    return 0.6 - 0.4 * math.cos(2 * math.pi * now / 7200)


def _storms(now: float) -> float:
    """The bursts at irregular times."""
    return 3.0 if any(at <= now % 7200 < at + 180 for at in (700, 1450, 2950, 3600, 5900, 6700)) else 1.0


def _flash(now: float) -> float:
    """After 50 minutes five times the rate within half a minute; then the surplus halves every ten minutes."""
    since = now - 3000
    if since < 0:
        return 1.0
    return 1.0 + 4.0 * min(1.0, since / 30) * math.exp(-math.log(2) * since / 600)


def _ramp(now: float) -> float:
    """From a fifth to all within 80 minutes, then constant."""
    return min(1.0, 0.2 + 0.8 * now / 4800)


def _square(now: float) -> float:
    """Fifteen minutes low, fifteen minutes high."""
    return 1.0 if now % 1800 >= 900 else 0.25


def _office(now: float) -> float:
    """Two peaks with a break between, and little traffic before and after."""
    hill = math.exp(-(((now - 2000) / 900) ** 2)) + math.exp(-(((now - 5000) / 900) ** 2))
    return 0.05 + 0.95 * min(1.0, hill)


def _nights(now: float) -> float:
    """Twenty minutes of use, forty of idle time."""
    return 1.0 if now % 3600 < 1200 else 0.0


TRAFFIC_PATTERNS = {
    pattern.name: pattern
    for pattern in (
        TrafficPattern("poisson", "steady chat", _steady, 8.0),
        TrafficPattern("diurnal", "a day of chat in two hours", _diurnal, 14.0),
        TrafficPattern("ramp", "chat that grows fivefold", _ramp, 12.0),
        TrafficPattern("bursts", "chat with three times the rate every 20 minutes", _bursts, 4.0, 3.0, every_s=1200),
        TrafficPattern("flash-crowd", "chat that jumps to five times the rate", _flash, 3.0, 5.0),
        TrafficPattern("square", "chat with alternating low and high rate", _square, 10.0, every_s=1800),
        TrafficPattern("office", "two peaks with a break", _office, 12.0),
        TrafficPattern("reasoning", "a day of long answers", _diurnal, 5.0, mix=((1.0, REASONING),)),
        TrafficPattern(
            "long-context", "a day of long prompts: limited by blocks", _diurnal, 2.5, mix=((1.0, LONG_CONTEXT),)
        ),
        TrafficPattern(
            "extraction",
            "a day of long prompts with short answers: limited by prefill",
            _diurnal,
            12.0,
            mix=((1.0, EXTRACTION),),
        ),
        TrafficPattern(
            "mixed",
            "a day of chat, one in eight requests with a long prompt",
            _diurnal,
            8.0,
            mix=((0.875, CHAT), (0.125, DOCUMENTS)),
        ),
        TrafficPattern("nights", "twenty minutes of use, forty of idle time", _nights, 4.0, every_s=3600),
        TrafficPattern("storms", "chat with irregular bursts of three times the rate", _storms, 4.0, 3.0),
    )
}


def read_trace(path: Path, left_out: Counter[str] | None = None) -> list[Arrival]:
    """Read a recorded trace: CSV with the columns time, prompt and output (tokens), sorted by time.

    A time is seconds since the start, seconds since 1970, or a date.

    The public traces of Azure, BurstGPT and Mooncake are read as they are published.

    Args:
        left_out: gets the number of requests that are left out, by reason (`trace_formats.rows`).

    Raises:
        ConfigError: not readable, a missing column, an invalid number, times that decrease or are negative, or a gap
            longer than `LARGEST_GAP_S`.
    """
    try:
        return parse_trace(path.read_text(), str(path), left_out)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--trace", f"{str(path)!r} is not readable: {error}", "use a CSV file") from None


def parse_trace(text: str, where: str, left_out: Counter[str] | None = None) -> list[Arrival]:
    """Parse the text of a trace; see `read_trace`."""
    trace: list[Arrival] = []
    before = 0.0
    own = text.startswith(",".join(HEADER))
    begin: float | None = None
    for number, when, prompt_text, output_text in rows(text, where, left_out):
        line = f"{where}:{number}"
        try:
            at, prompt, output = float(when), int(prompt_text), int(output_text)
        except (TypeError, ValueError):
            found = f"{when}, {prompt_text}, {output_text}"
            fix = "write seconds since the start or a date, as 12.5 or 2026-11-27T10:00:12.5, and two whole numbers"
            raise ConfigError(line, f"{found} is not a time and two counts", fix) from None
        if begin is None:
            begin = 0.0 if own and at < DATES_FROM_S else at
        at -= begin
        if not math.isfinite(at) or at < 0:
            raise ConfigError(
                line, f"time {at:g} is negative or not finite", "use seconds since the start of the trace"
            )
        if at < before:
            raise ConfigError(line, f"time {at:g} is before the row above ({before:g})", "sort the trace by time")
        if prompt < 1 or output < 1:
            raise ConfigError(line, f"prompt {prompt}, output {output}: both must be at least 1", "remove the row")
        if trace and at - before > LARGEST_GAP_S:
            raise ConfigError(
                line,
                f"no requests for {(at - before) / 3600:.1f} hours before it",
                "split the trace there, or close the gap",
            )
        before = at
        trace.append((at, prompt, output))
    if not trace:
        raise ConfigError(where, "has no rows", "write one request in each row")
    return trace
