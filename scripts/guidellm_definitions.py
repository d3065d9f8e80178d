"""Hold the load test's measures against GuideLLM's own: the same requests, each number from both.

    python scripts/guidellm_definitions.py

GuideLLM's wheel is unpacked (`--no-deps`) into a folder that is kept, and its class of one request's statistics is
loaded in a process of its own. Exit code 1 says that a measure differs.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from hybridserve.loadtest.request_record import Outcome, Record

VERSION = "0.8.1"
FOLDER = Path(__file__).resolve().parent.parent / ".venv" / f"guidellm-{VERSION}"
REQUESTS = 500
# Ours, and GuideLLM's word for it.
NAMES = {
    "ttft": "time_to_first_token_ms",
    "tpot": "inter_token_latency_ms",
    "e2e": "request_latency",
    "norm_tpot": "time_per_output_token_ms",
    "ttfa": "time_to_first_output_token_ms",
}


def main() -> int:
    """Install, ask, compare."""
    if sys.argv[1:] == ["ask"]:
        json.dump([theirs(Record.from_json(line)) for line in json.load(sys.stdin)], sys.stdout)
        return 0
    if not (FOLDER / f"guidellm-{VERSION}.dist-info" / "RECORD").exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER)]
        subprocess.run([*install, f"guidellm=={VERSION}"], check=True)
    records = [drawn(random.Random(seed)) for seed in range(REQUESTS)]
    asked = subprocess.run(
        [sys.executable, __file__, "ask"],
        input=json.dumps([one.to_json() for one in records]),
        env=os.environ | {"PYTHONPATH": str(FOLDER)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    worst = dict.fromkeys(NAMES, 0.0)
    absent = dict.fromkeys(NAMES, 0)
    for record, answer in zip(records, json.loads(asked.stdout), strict=True):
        for name, value in ours(Record.from_json(record.to_json())).items():
            if (value is None) != (answer[name] is None):
                absent[name] += 1
            elif value is not None:
                worst[name] = max(worst[name], abs(value - answer[name]) * 1000)
    for name, word in NAMES.items():
        print(f"{name:<10}{word:<32}largest difference {worst[name]:.6f} ms, {absent[name]} in only one")
    return int(max(worst.values()) > 0.001 or any(absent.values()))


def drawn(source: random.Random) -> Record:
    """A request with reasoning, merged tokens, and a usage event right at the last token, as vLLM sends it."""
    times = [source.uniform(0.05, 0.4)]
    for _ in range(source.randint(0, 40)):
        times.append(times[-1] + source.uniform(0.001, 0.05))
    tokens = len(times) + source.randint(0, 5)
    start = 1_700_000_000 + source.uniform(0, 100)
    first = times[source.randrange(len(times))]
    return Record(start, start, times[-1], Outcome.OK, chunks=tuple(times), first_answer=first, output_tokens=tokens)


def ours(one: Record) -> dict[str, float | None]:
    """Seconds."""
    first = None if one.first_answer is None else one.queued + one.first_answer
    return {"ttft": one.ttft, "tpot": one.tpot, "e2e": one.e2e, "norm_tpot": one.e2e / one.output_tokens, "ttfa": first}


def theirs(one: Record) -> dict[str, float | None]:
    """Seconds, worked out by GuideLLM from the same instants."""
    from guidellm.schemas.base.info import RequestInfo, RequestTimings
    from guidellm.schemas.base.request import UsageMetrics
    from guidellm.schemas.base.request_stats import GenerativeRequestStats

    timings = RequestTimings(
        request_start=one.sent,
        first_token_iteration=one.sent + one.chunks[0],
        first_output_token_iteration=None if one.first_answer is None else one.sent + one.first_answer,
        last_token_iteration=one.sent + one.chunks[-1],
        request_end=one.sent + one.end,
        resolve_end=one.sent + one.end,
        token_iterations=len(one.chunks),
    )
    stats: Any = GenerativeRequestStats(
        request_id="r",
        info=RequestInfo(request_id="r", status="completed", timings=timings),
        input_metrics=UsageMetrics(text_tokens=8),
        output_metrics=UsageMetrics(text_tokens=one.output_tokens),
    )
    found = {name: getattr(stats, word) for name, word in NAMES.items()}
    return {
        name: value if value is None or word == "request_latency" else value / 1000
        for (name, word), value in zip(NAMES.items(), found.values(), strict=True)
    }


if __name__ == "__main__":
    raise SystemExit(main())
