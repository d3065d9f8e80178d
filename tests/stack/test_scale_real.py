"""Scaling on real Ray: 1 -> 2 -> 1 and 1 -> 0 -> 1 under load, and no request fails in any step.

Times of every step are written to the file that SCALE_REPORT names.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.stack, pytest.mark.scale, pytest.mark.timeout(900)]

START_UP_S = 20.0


class Load:
    """Streams in threads, each reopened as soon as it ends, until `stop`."""

    def __init__(self, url: str, model: str, streams: int, tokens: int) -> None:
        self.url, self.model, self.tokens = url, model, tokens
        self.ended = threading.Event()
        self.finished = 0
        self.failures: list[str] = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._one, daemon=True) for _ in range(streams)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Open no more streams, and wait until the open ones end."""
        self.ended.set()
        for thread in self.threads:
            thread.join(timeout=300)
            assert not thread.is_alive(), "a stream did not end"

    def _one(self) -> None:
        body = {
            "model": self.model,
            "prompt": [5, 6, 7, 8] * 8,
            "max_tokens": self.tokens,
            "min_tokens": self.tokens,
            "ignore_eos": True,
            "stream": True,
        }
        with httpx.Client(base_url=self.url, timeout=300, trust_env=False) as client:
            while not self.ended.is_set():
                problem = answer_of(client, body)
                with self.lock:
                    if problem:
                        self.failures.append(problem)
                    else:
                        self.finished += 1


def answer_of(client: httpx.Client, body: dict[str, Any]) -> str | None:
    """The problem of one stream, or None: status, an error event, or an end without [DONE]."""
    done = False
    try:
        with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                return f"{answer.status_code}: {answer.read().decode()[:200]}"
            for line in answer.iter_lines():
                if '"error"' in line:
                    return line[:200]
                done = done or line == "data: [DONE]"
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    return None if done else "the stream ended without [DONE]"


def replicas(service: Any) -> list[psutil.Process]:
    """Replica processes of the engine deployment that are alive; Ray names them after the class."""
    found = []
    for process in service.family():
        try:
            if "ServeReplica:hybridserve:engine" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(count: int, service: Any, timeout_s: float) -> float:
    """Seconds until there are `count` replica processes."""
    began = time.monotonic()
    while len(replicas(service)) != count:
        if time.monotonic() - began > timeout_s:
            pytest.fail(f"{len(replicas(service))} replicas after {timeout_s:.0f} s, not {count}")
        time.sleep(0.5)
    return time.monotonic() - began


def decisions(service: Any) -> list[str]:
    """Decisions of the scaling policy, in order: log lines with a change of the replica count."""
    return [line[line.index("event=scale") :] for line in service.log.read_text().splitlines() if "event=scale" in line]


def report(name: str, times: dict[str, float]) -> None:
    target = os.environ.get("SCALE_REPORT")
    if target:
        file = Path(target)
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**known, name: {step: round(value, 1) for step, value in times.items()}}, indent=1))


def test_killed_replica_is_replaced_once(start_service: Callable[..., Any]) -> None:
    """With load for one replica, exactly one new replica replaces a killed one."""
    service = start_service("--set", "scaling.max_replicas=2", "--set", f"scaling.start_up_s={START_UP_S}")
    load = Load(service.url, service.model, streams=1, tokens=50)
    while load.finished < 3:
        time.sleep(0.5)
    (victim,) = replicas(service)
    victim.kill()
    began = time.monotonic()
    before = load.finished
    while not [process for process in replicas(service) if process.pid != victim.pid]:
        assert time.monotonic() - began < 120, "the killed replica was not replaced"
        time.sleep(0.2)
    back = time.monotonic() - began
    while load.finished < before + 3:
        assert time.monotonic() - began < 240, f"no request succeeded; failed: {load.failures}"
        time.sleep(0.2)
    serving = time.monotonic() - began
    counts = []
    for _ in range(60):  # three start-up times: any oscillation would show
        counts.append(len(replicas(service)))
        time.sleep(1)
    load.stop()
    changes = decisions(service)
    assert counts == [1] * 60, changes
    assert changes == []
    # The stream on the killed replica is aborted; without any replica, requests get `engine_unavailable`.
    assert len([failure for failure in load.failures if "engine_unavailable" not in failure]) <= 1, load.failures
    report("killed", {"process is there": back, "three streams answered": serving, "streams": float(load.finished)})


def test_idle_service_scales_to_zero_and_back(start_service: Callable[..., Any]) -> None:
    """When idle it scales to zero; the first request waits for a start and succeeds."""
    service = start_service(
        "--set", "scaling.min_replicas=0", "--set", f"scaling.start_up_s={START_UP_S}", "--set", "scaling.idle_s=15"
    )
    times = {"idle to zero": wait_for(0, service, 180)}
    body = {"model": service.model, "prompt": "Hello", "max_tokens": 8, "stream": True}
    began = time.monotonic()
    with httpx.Client(base_url=service.url, timeout=300, trust_env=False) as client:
        assert answer_of(client, body) is None
    times["first request from zero"] = time.monotonic() - began
    assert len(replicas(service)) == 1
    report("1-0-1", times)


def test_load_adds_a_replica_and_idle_removes_it(start_service: Callable[..., Any]) -> None:
    """Load for more than one replica adds a second; afterwards it is removed; every stream is complete."""
    service = start_service(
        "--set", "scaling.max_replicas=2", "--set", f"scaling.start_up_s={START_UP_S}",
        "--set", "engine.max_num_seqs=4", "--set", "server.drain_timeout_s=120",
    )  # fmt: skip
    assert len(replicas(service)) == 1
    load = Load(service.url, service.model, streams=12, tokens=100)
    times = {"load to second process": wait_for(2, service, 120)}
    time.sleep(60)  # both replicas serve streams
    before = load.finished
    assert before > 0
    # A few long streams stay open across the step down.
    long = Load(service.url, service.model, streams=2, tokens=800)
    load.stop()
    times["end of load to one process"] = wait_for(1, service, 300)
    long.stop()
    assert load.failures == []
    assert long.failures == []
    changes = decisions(service)
    assert [line.split(" cause")[0] for line in changes] == ["event=scale from=1 to=2", "event=scale from=2 to=1"], (
        changes
    )
    report("1-2-1", times | {"requests": float(load.finished + long.finished)})
