"""Two formulas of queueing theory that turn a service goal into spare capacity, so that nobody has to tune a target."""

from __future__ import annotations

from math import erfc, exp, pi, sqrt


def spare_servers(load: float, service_s: float, wait_s: float, miss: float) -> float:
    """Servers to have on top of `load` so that at most `miss` of the customers wait longer than `wait_s`.

    Square-root staffing: with ``s = load + beta * sqrt(load)`` servers the share of customers who wait at all is
    ``1 / (1 + beta * Phi(beta) / phi(beta))``, and a wait is exponential with rate ``(s - load) / service_s``.
    Source: Halfin and Whitt, Heavy-traffic limits for queues with many exponential servers, 1981. It is a limit: with
    10 busy slots and nobody to wait, 1 in 100 promised is 1.6 in 100 by Erlang's exact formula; with 2000 it is 1.0.

    Example: 100 slots in use, 13 s a request, 2 s to wait, 1 in 100 may miss: 15 spare slots. One may wait not at all:
    24.
    """
    if load <= 0:
        return 0.0
    root = sqrt(load)
    low, high = 0.0, 10.0
    for _ in range(40):
        beta = (low + high) / 2
        above = 0.5 * erfc(-beta / sqrt(2)) / (exp(-beta * beta / 2) / sqrt(2 * pi))
        late = exp(-beta * root * wait_s / service_s) / (1 + beta * above) if service_s > 0 else 0.0
        low, high = (beta, high) if late > miss else (low, beta)
    return high * root


def highest_utilization(work_s: float, wait_s: float, miss: float) -> float:
    """The largest utilization of one server at which at most `miss` of the jobs of `work_s` wait longer than `wait_s`.

    One server with even jobs (M/D/1): a share rho waits, for an exponential time of mean ``x / (2 * (1 - rho))``, which
    is the mean that Pollaczek and Khinchine give: ``P(wait > t) = rho * exp(-2 * (1 - rho) * t / x)``.
    Source: Kingman, On queues in heavy traffic, 1962. It bounds how much of a replica's time prompts may take: a
    utilization of 1 keeps up with the tokens and never ends a queue.
    """
    if work_s <= 0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        rho = (low + high) / 2
        late = rho * exp(-2 * (1 - rho) * max(0.0, wait_s) / work_s)
        low, high = (rho, high) if late <= miss else (low, rho)
    return max(low, 0.05)
