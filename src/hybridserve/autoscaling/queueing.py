"""Queueing formulas that turn a latency goal into spare capacity, so that no utilization target needs tuning."""

from __future__ import annotations

from math import erfc, exp, log, pi, sqrt
from statistics import NormalDist

# Found with the simulator: prompts of 12,000 tokens on 5 to 20 replicas, 99 of 100 answers in time.
SPREAD_OF_TWO = 0.25


def spare_servers(load: float, service_s: float, wait_s: float, miss: float) -> float:
    """Servers to have on top of `load` so that at most `miss` of the requests wait longer than `wait_s`.

    Square-root staffing: with ``s = load + beta * sqrt(load)`` servers the share of requests that wait at all is
    ``1 / (1 + beta * Phi(beta) / phi(beta))``, and a wait is exponential with rate ``(s - load) / service_s``.
    Source: Halfin and Whitt, Heavy-traffic limits for queues with many exponential servers, 1981. It is a limit: with
    10 busy slots and no wait allowed, a goal of 1 in 100 is 1.6 in 100 by Erlang's exact formula; with 2000 it is 1.0.

    Example: 100 slots in use, 13 s per request, 2 s wait allowed, 1 in 100 may miss: 15 spare slots; with no wait
    allowed, 24.
    """
    if load <= 0:
        return 0.0
    root = sqrt(load)
    low, high = 0.0, 10.0
    for _ in range(20):  # to a hundred-thousandth of the root: no replica depends on it
        beta = (low + high) / 2
        above = 0.5 * erfc(-beta / sqrt(2)) / (exp(-beta * beta / 2) / sqrt(2 * pi))
        late = exp(-beta * root * wait_s / service_s) / (1 + beta * above) if service_s > 0 else 0.0
        low, high = (beta, high) if late > miss else (low, beta)
    return high * root


def highest_utilization(work_s: float, wait_s: float, miss: float) -> float:
    """The largest utilization of one server at which at most `miss` of the jobs of `work_s` wait longer than `wait_s`.

    One server with even jobs (M/D/1): a share rho waits, for an exponential time of mean ``x / (2 * (1 - rho))``, which
    is the mean that Pollaczek and Khinchine give: ``P(wait > t) = rho * exp(-2 * (1 - rho) * t / x)``.
    Source: Kingman, On queues in heavy traffic, 1962. It limits how much of a replica's time prefill may take: at a
    utilization of 1 a queue never ends.
    """
    if work_s <= 0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(20):
        rho = (low + high) / 2
        late = rho * exp(-2 * (1 - rho) * max(0.0, wait_s) / work_s)
        low, high = (rho, high) if late <= miss else (low, rho)
    return max(low, 0.05)


def highest_utilization_of_two(work_s: float, wait_s: float, miss: float) -> float:
    """The same for servers behind a router that chooses the less busy of two.

    The share of servers with at least m jobs is ``rho ** (2 ** m - 1)``, and a job waits for m only if both of its
    choices have them: ``rho ** (2 ** (m + 1) - 2)``. As waits of ``wait_s`` are m jobs of `work_s`, half of the
    first one done, that is `miss` for the largest rho.
    Source: Mitzenmacher, The power of two choices in randomized load balancing, 1996. Its limit is many servers and
    exponential work; even work waits less.

    Example: jobs of 0.9 s, 4 s to wait, 1 in 100 may miss: 0.92, where one server alone may be used to 0.5.
    """
    if work_s <= 0:
        return 1.0
    jobs = min(10.0, max(0.0, wait_s) / work_s + 0.5)
    return max(0.05, float(miss ** (1 / (2 ** (jobs + 1) - 2))))


def spare_for_prompts(work_s: float, wait_s: float, miss: float) -> float:
    """Servers to have on top of the work, however many share it, so that at most `miss` wait longer than `wait_s`.

    A queue that n servers share with even work ends like ``exp(-2 * (n - load) * t / x)`` (Kingman, as above, with n
    times the rate of work). A router that compares only two of them makes half of that queue a shared one, so
    ``n - load = x * ln(1 / miss) / t``. With few servers this is more than `highest_utilization_of_two`,
    which assumes many.

    Example: jobs of 0.9 s, 4 s to wait, 1 in 100 may miss: one server more than the work.
    """
    if work_s <= 0:
        return 0.0
    return work_s * log(1 / miss) / max(wait_s, work_s)


def highest_share(work_s: float, spare_s: float, during_s: float, miss: float) -> float:
    """The share of a server's time that jobs of `work_s` may take when an answer of `during_s` can wait for `spare_s`.

    Jobs that arrive at random while the answer lasts come to ``u * during`` seconds on average, with the variance
    ``u * during * work``; at most `miss` of the answers may wait longer than `spare_s` (normal quantile). A
    router that chooses the less busy of two leaves a part of that spread.
    """
    if work_s <= 0 or during_s <= 0:
        return 1.0
    sigmas = SPREAD_OF_TWO * NormalDist().inv_cdf(1 - miss)
    root = (sqrt(sigmas * sigmas * work_s + 4 * max(0.0, spare_s)) - sigmas * sqrt(work_s)) / 2
    return min(1.0, max(0.05, root * root / during_s))
