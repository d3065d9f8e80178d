"""How much spare capacity is kept: the calculated one, corrected by the share of requests that were late."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log

# A share of fewer requests says little: at a goal of 99 of 100, two of 200 are late.
REQUESTS_FOR_A_SHARE = 200
# A change of the factor helps only after a start-up time, and requests that are late until then count too: the aim is
# below the allowed share.
AIM = 0.4
# Change of the factor's logarithm when twice the allowed share is late, and how many times that at most.
GAIN, MOST = 0.1, 4.0
# A factor below one is cheaper while the rate is steady, and too little when it rises (docs/evidence/autoscaling.md).
LOWEST, HIGHEST = 1.0, 4.0
# Before the first count, which takes a start-up time: what the formulas leave out is late from the first request on.
START = 1.3


@dataclass(frozen=True, slots=True)
class SpareFactor:
    """By what the calculated spare capacity is multiplied.

    Formulas and forecasts leave something out: lengths with heavy tails, a router's mistakes, prompts that interrupt
    answers. What they leave out shows in the requests that were late. After each start-up time, when a share can be
    counted, the factor rises or falls in proportion to the difference from the share that is aimed at. Within its
    limits that share is late in the long run, whatever the formulas leave out.
    Source of the method: Gibbs and Candes, Adaptive conformal inference under distribution shift, 2021.

    Attributes:
        value: the factor.
        since: when the present count began.
        finished, late: requests since then; those that were refused because they would be late are in `late` only.
        late_share: of the last complete count; None before it.
    """

    value: float = START
    since: float | None = None
    finished: int = 0
    late: int = 0
    late_share: float | None = None

    def with_finished(self, now: float, finished: int, late: int, start_up_s: float, allowed: float) -> SpareFactor:
        """The factor after `finished` more requests; `late` missed a target or were refused; `allowed` is a share."""
        since = now if self.since is None else self.since
        finished, late = self.finished + finished, self.late + late
        # Where more are refused than finish, all that were asked for are late.
        requests = max(finished, late)
        if now - since < start_up_s or requests < REQUESTS_FOR_A_SHARE:
            return replace(self, since=since, finished=finished, late=late)
        share = late / requests
        step = GAIN * min(MOST, share / allowed - AIM)
        value = min(HIGHEST, max(LOWEST, exp(log(self.value) + step)))
        return SpareFactor(value, now, late_share=share)
