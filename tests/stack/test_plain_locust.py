"""`loadtests/locustfile.py` with locust alone, against the mock server, watched over the API of locust's page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.loadtest_mock import mock_server
from support.stack_service import free_port

pytestmark = pytest.mark.stack
FILE = Path(__file__).parents[2] / "loadtests" / "locustfile.py"
# As in an environment with locust only: hybridserve cannot be imported.
WITHOUT = "import sys; sys.modules['hybridserve'] = None\nfrom locust.main import main; main()"


def watch(enough: Callable[[dict[str, Any]], bool], *flags: str, key: str = "") -> dict[str, Any]:
    """Run two users until locust's page has enough; returns what it shows."""
    port = free_port()
    page = ["--web-port", str(port), "--web-host", "127.0.0.1", "--autostart", "--users", "2"]
    environment = {**os.environ, "OPENAI_API_KEY": key}
    running = subprocess.Popen([sys.executable, "-c", WITHOUT, "-f", str(FILE), *page, *flags], env=environment)
    shown: dict[str, Any] = {"stats": [], "errors": []}
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and running.poll() is None and not enough(shown):
            time.sleep(0.2)
            try:
                shown = httpx.get(f"http://127.0.0.1:{port}/stats/requests").json()
            except httpx.HTTPError:
                continue
    finally:
        running.terminate()
        running.wait(30)
    return shown


def test_tables_have_first_token_and_inter_token_times() -> None:
    def enough(shown: dict[str, Any]) -> bool:
        return any(row["name"] == "inter-token" and row["num_requests"] > 5 for row in shown["stats"])

    with mock_server("--first", "0.05", "--gap", "0.01", "--tokens", "11", "--key", "sk-1") as url:
        shown = watch(enough, "--host", f"{url}/v1", key="sk-1")
    assert not shown["errors"]
    average = {row["name"]: row["avg_response_time"] for row in shown["stats"]}
    # 50 ms to the first token and ten gaps of 10 ms; a busy machine adds to it.
    assert 50 <= average["first token"] < 250
    assert 9.5 <= average["inter-token"] < 50
    assert 150 <= average["chat"] < 900
    assert {"chat", "first token", "inter-token", "Aggregated"} == set(average)
    count = {row["name"]: row["num_requests"] for row in shown["stats"]}
    assert count["Aggregated"] == count["chat"] >= count["first token"] > 0
    assert average["Aggregated"] == average["chat"]


def test_refused_requests_are_failures_with_their_reason() -> None:
    with mock_server("--key", "sk-1") as url:
        shown = watch(lambda shown: bool(shown["errors"]), "--host", url, "--model", "mock")
    assert all("HTTP 401" in error["error"] for error in shown["errors"])
    assert {row["name"] for row in shown["stats"]} == {"chat", "Aggregated"}


def test_run_without_a_finished_request_fails() -> None:
    with mock_server("--first", "60") as url:
        flags = ["-f", str(FILE), "--host", url, "--headless", "--users", "1", "--run-time", "1s"]
        done = subprocess.run([sys.executable, "-c", WITHOUT, *flags], capture_output=True, text=True, timeout=90)
    assert done.returncode == 1
    assert "error: no request finished" in done.stderr


def test_missing_server_is_a_failure_that_names_the_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    shown = watch(lambda shown: bool(shown["errors"]), "--host", url)
    assert f"no list of models at {url}/v1/models: " in shown["errors"][0]["error"]


def test_host_has_a_default() -> None:
    read_host = "import sys, runpy; print(runpy.run_path(sys.argv[1])['Chat'].host)"
    done = subprocess.run([sys.executable, "-c", read_host, str(FILE)], capture_output=True, text=True, timeout=90)
    assert done.stdout.strip() == "http://127.0.0.1:8000", done.stderr


@pytest.mark.parametrize(
    ("stream", "tokens", "problem"),
    [
        ([{"delta": {"role": "assistant", "content": ""}}, {"delta": {"content": "a"}}, "[DONE]"], [1.0], ""),
        ([{"delta": {"reasoning": "a"}}, {"delta": {"tool_calls": [{}]}}, "[DONE]"], [0.0, 1.0], ""),
        ([{"delta": {"content": "a"}}], [0.0], "the stream ended without [DONE]"),
        (["[DONE]"], [], "no token"),
        ([None, "[DONE]"], [], "error in the stream: {'code': 500}"),
    ],
)
def test_stream_is_read(stream: list[Any], tokens: list[float], problem: str) -> None:
    source = FILE.read_text().partition("def read(")
    names: dict[str, Any] = {"json": json}
    exec(source[1] + source[2], names)  # importing the file would register its options in this process
    events = [
        part if part == "[DONE]" else json.dumps({"choices": [part]} if part else {"error": {"code": 500}})
        for part in stream
    ]
    lines = [(float(at), f"data: {event}\n".encode()) for at, event in enumerate(events)]
    assert names["read"](lines) == (tokens, problem)
