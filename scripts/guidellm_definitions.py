"""Compare the load test's measures with GuideLLM's for the same requests.

    python scripts/guidellm_definitions.py

GuideLLM's wheel is unpacked (`--no-deps`) into a folder, and its statistics of a request are computed in a separate
process. Exit code 1: a measure differs.
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
# Measures of this package, with GuideLLM's names.
NAMES = {
    "ttft": "time_to_first_token_ms",
    "tpot": "inter_token_latency_ms",
    "e2e": "request_latency",
    "norm_tpot": "time_per_output_token_ms",
    "ttfa": "time_to_first_output_token_ms",
}


def main() -> int:
    """Install, compute, compare."""
    if sys.argv[1:] == ["compute"]:
        json.dump([guidellm(Record.from_json(line)) for line in json.load(sys.stdin)], sys.stdout)
        return 0
    if not (FOLDER / f"guidellm-{VERSION}.dist-info" / "RECORD").exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER)]
        subprocess.run([*install, f"guidellm=={VERSION}"], check=True)
    records = [random_record(random.Random(seed)) for seed in range(REQUESTS)]
    computed = subprocess.run(
        [sys.executable, __file__, "compute"],
        input=json.dumps([record.to_json() for record in records]),
        env=os.environ | {"PYTHONPATH": str(FOLDER)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    worst = dict.fromkeys(NAMES, 0.0)
    absent = dict.fromkeys(NAMES, 0)
    for record, answer in zip(records, json.loads(computed.stdout), strict=True):
        for name, value in ours(Record.from_json(record.to_json())).items():
            if (value is None) != (answer[name] is None):
                absent[name] += 1
            elif value is not None:
                worst[name] = max(worst[name], abs(value - answer[name]) * 1000)
    for name, other in NAMES.items():
        print(f"{name:<10}{other:<32}largest difference {worst[name]:.6f} ms, {absent[name]} in only record")
    return int(max(worst.values()) > 0.001 or any(absent.values()))


def random_record(source: random.Random) -> Record:
    """A random request with reasoning, merged tokens, and the usage event at the last token, as vLLM sends it."""
    times = [source.uniform(0.05, 0.4)]
    for _ in range(source.randint(0, 40)):
        times.append(times[-1] + source.uniform(0.001, 0.05))
    tokens = len(times) + source.randint(0, 5)
    start = 1_700_000_000 + source.uniform(0, 100)
    first = times[source.randrange(len(times))]
    return Record(start, start, times[-1], Outcome.OK, chunks=tuple(times), first_answer=first, output_tokens=tokens)


def ours(record: Record) -> dict[str, float | None]:
    """This package's measures, in seconds."""
    first = None if record.first_answer is None else record.queued + record.first_answer
    return {
        "ttft": record.ttft,
        "tpot": record.tpot,
        "e2e": record.e2e,
        "norm_tpot": record.e2e / record.output_tokens,
        "ttfa": first,
    }


def guidellm(record: Record) -> dict[str, float | None]:
    """GuideLLM's measures, in seconds."""
    from guidellm.schemas.base.info import RequestInfo, RequestTimings
    from guidellm.schemas.base.request import UsageMetrics
    from guidellm.schemas.base.request_stats import GenerativeRequestStats

    timings = RequestTimings(
        request_start=record.sent,
        first_token_iteration=record.sent + record.chunks[0],
        first_output_token_iteration=None if record.first_answer is None else record.sent + record.first_answer,
        last_token_iteration=record.sent + record.chunks[-1],
        request_end=record.sent + record.end,
        resolve_end=record.sent + record.end,
        token_iterations=len(record.chunks),
    )
    stats: Any = GenerativeRequestStats(
        request_id="r",
        info=RequestInfo(request_id="r", status="completed", timings=timings),
        input_metrics=UsageMetrics(text_tokens=8),
        output_metrics=UsageMetrics(text_tokens=record.output_tokens),
    )
    found = {name: getattr(stats, other) for name, other in NAMES.items()}
    return {
        name: value if value is None or other == "request_latency" else value / 1000
        for (name, other), value in zip(NAMES.items(), found.values(), strict=True)
    }


if __name__ == "__main__":
    raise SystemExit(main())
