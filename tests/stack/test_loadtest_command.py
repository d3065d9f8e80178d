"""The `hybridserve loadtest` command against the mock server: exit codes, errors and files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hybridserve.loadtest.load_curve import Constant, arrivals
from hybridserve.loadtest.runner import read_run
from support.loadtest_mock import mock_server
from support.stack_service import free_port

pytestmark = pytest.mark.stack
LOADTESTS = Path(__file__).parents[2] / "loadtests"
COMMAND = [str(Path(sys.executable).parent / "hybridserve"), "loadtest"]
TRACE = LOADTESTS.parent / "tests" / "stack" / "trace.csv"
SCENARIO = """
about: a test
mode: {mode}
curve: {{shape: constant, level: {level}, seconds: {seconds}}}
warm_up: 0.5
mix: [{{name: a, type: tokens, prompt: 20, output: {output}}}]
slo: {{ttft: {ttft}, tpot: 0.1}}
client: {{lag_floor_s: {lag}, max_cpu: {cpu}, timeout_s: 5}}
"""


@pytest.fixture(scope="module")
def mock_url() -> Iterator[str]:
    with mock_server() as url:
        yield url


def write(
    folder: Path,
    mode: str = "closed",
    level: float = 3,
    seconds: float = 1.5,
    output: int = 10,
    ttft: float = 1.0,
    lag: float = 0.5,
    cpu: float = 1.0,
) -> str:
    path = folder / f"{mode}.yaml"
    path.write_text(
        SCENARIO.format(mode=mode, level=level, seconds=seconds, output=output, ttft=ttft, lag=lag, cpu=cpu)
    )
    return str(path)


def command(*flags: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"LOADTEST_API_KEY": key} if key else {})}
    return subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=90, env=environment)


def wait_for_records(out: Path, count: int) -> None:
    records = out / "requests-0.jsonl"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (records.exists() and records.read_text().count("\n") > count):
        time.sleep(0.05)


def test_run_writes_its_files(mock_url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = command(write(tmp_path), "--url", mock_url, "--out", str(out), "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    assert found["verdict"] == "kept"
    summary = found["summary"]
    assert summary["outcomes"] == {"ok": summary["attempted"]}
    assert found["left_out"]["warm_up"] >= 3
    assert found["left_out"]["unfinished"] == 0
    # Three users without pauses (L = lambda W), also on a busy machine.
    assert summary["mean_concurrency"] == pytest.approx(3, abs=0.3)
    assert summary["attempted"] * summary["e2e"]["mean"] == pytest.approx(3 * summary["duration"], rel=0.1)
    assert summary["output_tokens"] == summary["attempted"] * 10
    assert 0.010 <= summary["ttft"]["p50"] < 0.1
    assert 0.005 <= summary["tpot"]["p50"] * 1.02 < 0.05

    page = (out / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert not re.search(r"<script|<link|src=|@import|url\(http", page), "the page has no external resources"
    assert (out / "charts" / "ttft-over-time.png").read_bytes().startswith(b"\x89PNG")
    rows = (out / "requests.csv").read_text().splitlines()
    records = read_run(out)[1]
    assert len(rows) == len(records) + 1
    bench = json.loads((out / "vllm-bench.json").read_text())
    assert bench["completed"] == summary["attempted"] == len(bench["ttfts"])
    assert bench["median_tpot_ms"] == pytest.approx(summary["tpot"]["p50"] * 1000)
    again = command(write(tmp_path), "--url", mock_url, "--out", str(out))
    assert (again.returncode, "contains another run" in again.stderr) == (2, True)


def test_trace_is_replayed(mock_url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["--url", mock_url, "--trace", str(TRACE), "--scale", "0.5", "--out", str(out)]
    ran = command(write(tmp_path, "open"), *flags)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    records = read_run(out)[1]
    due = [record.intended - records[0].intended for record in records]
    assert due == pytest.approx([0, 0.4, 0.8], abs=1e-5), "the times of the trace"
    assert [record.output_tokens for record in records] == [4, 2, 8]
    assert {record.kind for record in records} == {"trace"}


def test_two_workers_share_an_open_loop(mock_url: str, tmp_path: Path) -> None:
    path = write(tmp_path, "open", level=40, seconds=2)
    ran = command(path, "--url", mock_url, "--workers", "2", "--json", "--out", str(tmp_path / "two"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    records = read_run(tmp_path / "two")[1]
    by_worker = [sum(record.worker == worker for record in records) for worker in (0, 1)]
    assert abs(by_worker[0] - by_worker[1]) <= 1
    due = [at for at in arrivals(Constant(level=40, seconds=2), "poisson", 1, 0.5) if at >= 0]
    assert json.loads(ran.stdout)["summary"]["attempted"] == len(due)


def test_open_loop_does_not_wait_for_a_slow_server(tmp_path: Path) -> None:
    # Ten requests/s to a server that takes one second: one closed-loop user would send one request/s.
    with mock_server("--first", "1.0", "--gap", "0.001") as url:
        path = write(tmp_path, "open", level=10, seconds=2, ttft=3)
        ran = command(path, "--url", url, "--json", "--out", str(tmp_path / "out"))
    summary = json.loads(ran.stdout)["summary"]
    assert summary["attempted"] > 10
    assert summary["peak_concurrency"] > 5
    assert summary["completed"] == summary["attempted"], "open requests are completed"


@pytest.mark.parametrize(
    ("change", "code", "verdict"),
    [({"ttft": 0.001}, 1, "missed"), ({"cpu": 0.001}, 3, "void")],
)
def test_exit_codes(mock_url: str, tmp_path: Path, change: dict[str, float], code: int, verdict: str) -> None:
    path = write(tmp_path, seconds=1, **change)  # type: ignore[arg-type]
    ran = command(path, "--url", mock_url, "--json", "--out", str(tmp_path / "out"))
    assert (ran.returncode, json.loads(ran.stdout)["verdict"]) == (code, verdict)


@pytest.mark.parametrize(
    ("flags", "where", "what"),
    [
        (["caht"], "SCENARIO", "there is no scenario"),
        (["chat", "--url", "http://127.0.0.1:1"], "127.0.0.1:1", "does not answer"),
        (["chat", "--model", "gpt"], "--model", "is not served"),
        (["chat", "--find", "rate"], "--find", "is not a search"),
        (["chat", "--sweep", "concurrency"], "--sweep", "type tokens"),
        (["grid", "--scale", "1000"], "--scale", "tokens of context"),
        (["chat", "--level", "-1"], "--level", "not positive"),
        (["--compare", "nowhere", "here"], "nowhere", "no readable run"),
        (["--compare", "same", "same"], "--compare", "compared with itself"),
        (["--report", "nowhere"], "nowhere", "no readable run"),
        (["chat", "--url", "foo"], "--url", "missing"),
        (["chat", "--trace", "none.csv"], "--trace", "not readable"),
        (["chat", "--metrics-port", "70000"], "--metrics-port", "70000"),
        (["chat", "--find", "max-rate", "--trace", str(TRACE)], "--find", "the rate of a trace"),
        ([], "SCENARIO", "missing"),
    ],
)
def test_invalid_input_is_one_error(mock_url: str, tmp_path: Path, flags: list[str], where: str, what: str) -> None:
    url = [] if "--url" in flags else ["--url", mock_url]
    ran = command(*flags, *url, "--out", str(tmp_path / "out"))
    assert ran.returncode == 2
    assert where in ran.stderr.splitlines()[0]
    assert what in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 3


def test_api_key_is_used_and_never_written(tmp_path: Path) -> None:
    with mock_server("--key", "hs-right-key") as url:
        wrong = command("chat", "--url", url, key="wrong")
        assert (wrong.returncode, "refused the key" in wrong.stderr) == (2, True)
        path = write(tmp_path, seconds=0.5)
        right = command(path, "--url", url, "--json", "--out", str(tmp_path / "out"), key="hs-right-key")
    assert json.loads(right.stdout)["summary"]["error_rate"] == 0
    kept = "".join(path.read_text(errors="replace") for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert "hs-right-key" not in kept, "the key must not be written"


def test_server_failure_leaves_partial_results(tmp_path: Path) -> None:
    path = write(tmp_path, seconds=3)
    with mock_server() as url:
        running = subprocess.Popen(
            [*COMMAND, path, "--url", url, "--json", "--out", str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
        )
        wait_for_records(tmp_path / "out", 40)
    output, _ = running.communicate(timeout=60)
    found = json.loads(output)
    assert running.returncode == 1
    assert found["summary"]["outcomes"]["ok"] > 0
    assert found["summary"]["outcomes"]["connect"] > 0
    assert (tmp_path / "out" / "report.html").exists()


def test_interrupted_run_is_judged(mock_url: str, tmp_path: Path) -> None:
    path = write(tmp_path, seconds=60)
    running = subprocess.Popen(
        [*COMMAND, path, "--url", mock_url, "--json", "--out", str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    wait_for_records(tmp_path / "out", 60)
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=30)
    found = json.loads(output)
    assert found["interrupted"] is True
    assert found["summary"]["completed"] > 0


def test_find_sweep_and_compare(mock_url: str, tmp_path: Path) -> None:
    # The mock serves any rate: the SLO is always kept or always missed.
    def search(path: str, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
        return command(path, *flags, "--url", mock_url, "--json", "--seconds", "0.5", "--out", str(tmp_path / name))

    find = ["--find", "max-rate", "--level"]
    never = search(write(tmp_path, "open", ttft=0.001), "never", *find, "0.02")
    assert (never.returncode, json.loads(never.stdout)["max_rate"]) == (1, None)
    always = search(write(tmp_path, "open"), "always", *find, "30", "--highest", "30")
    assert (always.returncode, json.loads(always.stdout)["max_rate"]) == (0, 30)
    swept = search(write(tmp_path), "swept", "--sweep", "concurrency", "--levels", "1,4")
    assert swept.returncode == 0, swept.stdout
    curve = json.loads((tmp_path / "swept" / "operating-curve.json").read_text())
    rates = [point["summary"]["output_throughput"] for point in curve["points"]]
    assert 1.5 < rates[1] / rates[0] < 4.5, "four users, however busy the machine is"
    assert (curve["complete"], curve["points"][1]["folder"]) == (True, "a-4")
    again = search(write(tmp_path), "again", "--sweep", "concurrency", "--levels", "1,4")
    assert again.returncode == 0
    curves = command(
        "--compare", str(tmp_path / "swept"), str(tmp_path / "again"), "--json", "--out", str(tmp_path / "c")
    )
    point = json.loads(curves.stdout)["points"][1]
    assert (curves.returncode, point["concurrency"]) == (0, 4)
    assert point["rows"][2]["quotient"] == pytest.approx(1, abs=0.7)
    sides = [str(tmp_path / "swept" / name) for name in ("a-4", "a-1")]
    against = command("--compare", *sides, "--json", "--out", str(tmp_path / "both"))
    rows = {row["name"]: row for row in json.loads(against.stdout)["rows"]}
    assert rows["tpot p50"]["ratio"]["value"] == pytest.approx(1, abs=0.7)
    assert "<svg" in (tmp_path / "both" / "compare.html").read_text()


def test_scenario_in_locust_and_client_side_metrics(mock_url: str, tmp_path: Path) -> None:
    locust = [sys.executable, "-m", "locust", "-f", str(LOADTESTS / "scenarios.py")]
    port = free_port()
    flags = ["--host", mock_url, "--scenario", write(tmp_path, seconds=4), "--out", str(tmp_path / "out"), "--headless"]
    running = subprocess.Popen([*locust, *flags, "--client-metrics-port", str(port)], stderr=subprocess.PIPE, text=True)
    text = ""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running.poll() is None and 'outcome="ok"' not in text:
        time.sleep(0.2)
        try:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        except httpx.HTTPError:
            continue
    _, error_output = running.communicate(timeout=30)
    assert running.returncode == 0, error_output
    assert 'hybridserve_loadtest_requests_total{kind="a",outcome="ok"}' in text
    assert "hybridserve_loadtest_ttft_seconds_bucket" in text
    assert len((tmp_path / "out" / "requests-0.jsonl").read_text().splitlines()) > 50
    assert json.loads((tmp_path / "out" / "result.json").read_text())["verdict"] == "kept"
    assert (tmp_path / "out" / "report.html").exists()
    missed = tmp_path / "missed"
    flags = ["--host", mock_url, "--scenario", write(tmp_path, seconds=600, ttft=0.001), "--out", str(missed)]
    flags += ["--run-time", "1s"]
    assert subprocess.run([*locust, *flags, "--headless"], capture_output=True).returncode == 1, (
        "plain locust also returns the exit code"
    )
    assert json.loads((missed / "run.json").read_text())["scenario"]["curve"]["seconds"] == 1
    page = (missed / "report.html").read_text()
    assert "The SLO is missed. Not met: attainment." in page
    (missed / "result.json").unlink()
    judged = command("--report", str(missed), "--json")
    assert (judged.returncode, json.loads(judged.stdout)["verdict"]) == (1, "missed")
    assert (missed / "result.json").exists()


def test_distributed_locust(mock_url: str, tmp_path: Path) -> None:
    """A master and two workers, as on three machines; each writes its own records."""
    locust = [sys.executable, "-m", "locust", "-f", str(LOADTESTS / "scenarios.py")]
    port = str(free_port())
    flags = ["--host", mock_url, "--scenario", write(tmp_path, "open", level=20, seconds=2), "--headless"]
    flags += ["--out", str(tmp_path / "out"), "--master", "--expect-workers", "2", "--master-bind-port", port]
    master = subprocess.Popen([*locust, *flags], stderr=subprocess.PIPE, text=True)
    joined = ["--worker", "--master-host", "127.0.0.1", "--master-port", port]
    workers = [subprocess.Popen([*locust, *joined], stderr=subprocess.DEVNULL) for _ in range(2)]
    _, error_output = master.communicate(timeout=60)
    assert [worker.wait(20) for worker in workers] == [0, 0]
    assert master.returncode == 0, error_output
    by_worker = [sum(record.worker == worker for record in read_run(tmp_path / "out")[1]) for worker in (0, 1)]
    assert min(by_worker) > 5
    assert abs(by_worker[0] - by_worker[1]) <= 1


@pytest.mark.parametrize(("end", "code"), [("interrupted", 130), ("gone", 2)])
def test_stopped_search_keeps_its_results(tmp_path: Path, end: str, code: int) -> None:
    out = tmp_path / "out"
    with mock_server() as url:
        flags = ["--url", url, "--find", "max-rate", "--level", "4", "--seconds", "1", "--out", str(out)]
        running = subprocess.Popen([*COMMAND, write(tmp_path, "open"), *flags], stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (out / "rate-8" / "requests-0.jsonl").exists():
            time.sleep(0.05)
        if end == "interrupted":
            running.send_signal(signal.SIGINT)
            running.wait(30)
    running.communicate(timeout=60)
    assert running.returncode == code
    found = json.loads((out / "max-rate.json").read_text())
    assert (found["max_rate"], found["ended"]) == (4, end)
    assert (out / "report.html").exists()
    assert (out / "rate-4" / "result.json").exists()
