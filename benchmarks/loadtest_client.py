"""Cost of the load test client per streamed token, and its measurement error: `make bench-loadtest`.

The mock server of `loadtests/` sends the first token after 200 ms and the others every 20 ms, on a growing number of
streams. The difference to these times is the error of client and mock server together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hybridserve.loadtest.runner import Runner
from hybridserve.loadtest.scenario import validate_scenario

MOCK = Path(__file__).parents[1] / "loadtests" / "mock_server.py"
FIRST_S, GAP_S, TOKENS = 0.200, 0.020, 100


def main() -> None:
    """Print a line for each concurrency."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", default="1,8,32,64,128,256")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    flags = ["--first", str(FIRST_S), "--gap", str(GAP_S)]
    server = subprocess.Popen([sys.executable, str(MOCK), *flags], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for level in (int(level) for level in options.levels.split(",")):
                rows.append(_measure(url, level, options.seconds, Path(folder) / str(level)))
                if not options.json:
                    print(_line(rows[-1]), flush=True)
    finally:
        server.terminate()
        server.wait(10)
    if options.json:
        print(json.dumps(rows, indent=2))


def _measure(url: str, level: int, seconds: float, out: Path) -> dict[str, Any]:
    scenario = validate_scenario(
        {
            "about": "client calibration",
            "mode": "closed",
            "curve": {"shape": "constant", "level": level, "seconds": seconds},
            "warm_up": 3,
            "mix": [{"name": "mock", "type": "tokens", "prompt": 16, "output": TOKENS}],
        },
        "calibration",
    )
    result = Runner.connect(url, None, None, scenario).run(scenario, out)
    summary, client = result.summary, result.health
    assert summary.ttft is not None
    assert summary.tpot is not None
    assert summary.itl is not None
    return {
        "streams": level,
        "tokens_per_s": summary.output_throughput,
        "cpu": client.cpu,
        "us_per_token": client.cpu / summary.output_throughput * 1e6,
        "ttft_ms": summary.ttft.p50 * 1000,
        "ttft_p99_ms": summary.ttft.p99 * 1000,
        "tpot_ms": summary.tpot.p50 * 1000,
        "itl_p50_ms": summary.itl.p50 * 1000,
        "itl_p99_ms": summary.itl.p99 * 1000,
        "loop_lag_p99_ms": client.lag_p99 * 1000,
        "verdict": list(client.faults) or "valid",
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"| {row['streams']} | {row['tokens_per_s']:,.0f} | {row['us_per_token']:.0f} | {row['cpu']:.0%} | "
        f"{row['ttft_ms']:.1f} / {row['ttft_p99_ms']:.1f} | {row['itl_p50_ms']:.2f} / {row['itl_p99_ms']:.2f} | "
        f"{row['loop_lag_p99_ms']:.1f} | {row['verdict']} |"
    )


if __name__ == "__main__":
    main()
