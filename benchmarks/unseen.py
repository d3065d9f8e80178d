"""Race scaling policies once on an hour of ServeGen, which no part of the policy was developed with.

    git clone https://github.com/alibaba/ServeGen .cache/ServeGen
    python benchmarks/unseen.py --clients .cache/ServeGen/data/reason/deepseek-r1

ServeGen publishes, for each client of a model in production, the rate and the distribution of gaps in every ten minutes
of two weeks, and the distributions of lengths in every six hours. Requests are drawn from them; the rules were written
before the data was looked at:

- the model with the smallest files (deepseek-r1), and of it the hour with the most requests;
- all rates times one number, so that the hour has `RATE` requests per second on average;
- of the goals in `GOALS` the first that the oracle reaches, which is found before another policy runs;
- stock policies with the setting that did best on the traffic of benchmarks/recorded.py.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import random
import sys
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from recorded import GOAL, ROOT, TRAFFIC, WARM_UP_S, _early_need, chosen, goals, settings

from hybridserve.simulator.fleet import FleetOptions
from hybridserve.simulator.oracle import needs
from hybridserve.simulator.service_times import load_service_times
from hybridserve.simulator.traffic import Arrival
from hybridserve.simulator.tune import STOCK, Scenario, cheapest, tune

RATE, SEED = 5.0, 0
GOALS = (goals(0.1), goals(0.25, 10.0), goals(None, 10.0))
WINDOW_S, LENGTHS_S, HOUR_S = 600, 21600, 3600
LONGEST_PROMPT, LONGEST_OUTPUT = 60_000, 8000
# Seconds, requests per second, "Gamma" or "Weibull", shape.
Window = tuple[int, float, str, float]


def windows(file: Path) -> Iterator[Window]:
    """The ten minutes in which a client sent requests."""
    for line in file.read_text().splitlines():
        at, rate, _, kind, shape, _ = line.split(",")
        if kind and float(rate) > 0:
            yield int(at), float(rate), kind, float(shape)


def arrivals(folder: Path) -> tuple[int, list[Arrival]]:
    """Start of the busiest hour, in seconds, and its requests at the rate of this benchmark."""
    source = random.Random(f"servegen-{SEED}")
    clients = {file: list(windows(file)) for file in sorted(folder.glob("chunk-*-trace.csv"))}
    hours: dict[int, float] = {}
    for found in clients.values():
        for at, rate, _, _ in found:
            hours[at // HOUR_S] = hours.get(at // HOUR_S, 0.0) + rate * WINDOW_S
    hour = max(hours, key=lambda number: hours[number])
    share = RATE * HOUR_S / hours[hour]
    requests: list[Arrival] = []
    for file, found in clients.items():
        lengths = json.loads(file.with_name(file.name.replace("trace.csv", "dataset.json")).read_text())
        for at, rate, kind, shape in found:
            if at // HOUR_S != hour:
                continue
            fields = lengths[str(at // LENGTHS_S * LENGTHS_S)]
            count = int(share * rate * WINDOW_S + source.random())
            prompts = _draw(fields["input_tokens"], count, LONGEST_PROMPT, source)
            outputs = _draw(fields["output_tokens"], count, LONGEST_OUTPUT, source)
            times = _times(count, kind, shape, source)
            requests += zip((at - hour * HOUR_S + time for time in times), prompts, outputs, strict=False)
    return hour * HOUR_S, sorted(requests)


def _times(count: int, kind: str, shape: float, source: random.Random) -> list[float]:
    """Arrivals within a window: the gaps before, between and after them have the client's distribution."""
    gaps = [
        source.gammavariate(shape, 1.0) if kind == "Gamma" else source.weibullvariate(1.0, shape)
        for _ in range(count + 1)
    ]
    total = sum(gaps) or 1.0
    return [WINDOW_S * passed / total for passed in list(accumulate(gaps))[:-1]]


def _draw(distribution: str, count: int, longest: int, source: random.Random) -> list[int]:
    shares = ast.literal_eval(distribution)
    if not shares:
        return []
    found = source.choices(list(shares), list(shares.values()), k=count)
    return [min(longest, max(1, round(value))) for value in found]


def main() -> None:
    """Find the goals with the oracle, run each policy once, print the table and write every score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=Path, default=ROOT / ".cache/ServeGen/data/reason/deepseek-r1")
    parser.add_argument("--recorded", type=Path, default=ROOT / "docs/evidence/scaling-recorded.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/evidence/scaling-unseen.json")
    options = parser.parse_args()
    start, requests = arrivals(options.clients)
    times = load_service_times("nano-9b-a10g")
    initial = math.ceil(1.4 * _early_need(needs(requests, times)))
    fleet = FleetOptions(min_replicas=1, max_replicas=80, initial=initial, warm_up_s=WARM_UP_S)
    for slo in GOALS:
        race = Scenario(requests, times, slo, fleet)
        found = cheapest(tune("oracle", race, attainment=GOAL), GOAL)
        print(slo, "the oracle reaches it" if found else "the oracle does not reach it", file=sys.stderr, flush=True)
        if found:
            break
    else:
        raise SystemExit("the oracle reaches none of the goals")
    earlier = json.loads(options.recorded.read_text())
    rows: dict[str, Any] = {
        "hour from": start,
        "requests": len(requests),
        "goals": [slo.ttft_s, slo.ttft_per_prompt_token_s, slo.inter_token_s],
        "oracle": [found.settings, found.score.attainment, found.score.replica_hours],
    }
    for policy in ("hybrid", *STOCK):
        setting = "none to tune" if policy == "hybrid" else chosen(earlier, policy, "", list(TRAFFIC))
        config = next(config for config in settings(policy, race) if config.settings == setting)
        score = race.run(config).score
        rows[policy] = [setting, score.attainment, score.replica_hours]
        print(policy, rows[policy], file=sys.stderr, flush=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
    print("| policy | setting | attainment | replica-hours | over the oracle |\n|---|---|---|---|---|")
    for policy in ("oracle", "hybrid", *STOCK):
        setting, share, hours = rows[policy]
        over = hours / rows["oracle"][2] - 1
        print(f"| {policy} | {setting} | {share:.2%} | {hours:.2f} | {over:+.0%} |")


if __name__ == "__main__":
    main()
