"""The preStop hook of a Ray worker, with a fake of Ray's GcsClient.

`make test-cluster PART=ray-drain` runs it with a real one.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from runpy import run_path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

HOOK = Path(__file__).parents[2] / "helm/hybridserve/files/drain.py"


class Head:
    """A head that fails for some calls, and then accepts a drain of the nodes it knows."""

    def __init__(self, failures: int, address: str = "10.0.0.7") -> None:
        self.failures = failures
        self.drains: list[tuple[Any, ...]] = []
        self.node = SimpleNamespace(node_manager_address=address, state=0)

    def get_all_node_info(self, timeout: float) -> dict[bytes, SimpleNamespace]:
        self.failures -= 1
        if self.failures >= 0:
            raise RuntimeError("Timed out while waiting for GCS to become available.")
        return {b"\x01\x02": self.node}

    def drain_node(self, *words: Any, timeout: float) -> tuple[bool, str]:
        self.drains.append(words)
        return True, ""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the hook with this head on a clock of its own; its seconds, and the commands that it started."""
    now = [1000.0]
    commands: list[list[str]] = []
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setenv("POD_IP", "10.0.0.7")
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(subprocess, "run", lambda words, **_: commands.append(words))

    def hook(head: Head) -> tuple[float, list[list[str]]]:
        raylet = ModuleType("ray._raylet")
        raylet.GcsClient = lambda **_: head  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
        monkeypatch.setitem(sys.modules, "ray._raylet", raylet)
        script = run_path(str(HOOK))
        script["main"].__globals__["serving"] = lambda: False
        script["main"](5, 25)
        return now[0] - 1000, commands

    return hook


def test_the_deadline_counts_from_the_start_of_the_hook(run: Any) -> None:
    """A head that answers late must not make Ray drain for longer than the pod lives."""
    head = Head(failures=4)
    seconds, commands = run(head)
    assert [words[0] for words in head.drains] == ["0102"]
    assert head.drains[0][3] == 1_025_000
    assert (seconds, commands) == (9, [["ray", "stop"]])


@pytest.mark.parametrize("head", [Head(failures=1000), Head(failures=0, address="10.0.0.8")])
def test_without_a_drain_the_worker_serves_until_the_time_is_over(run: Any, head: Head) -> None:
    seconds, commands = run(head)
    assert head.drains == []
    assert 25 <= seconds <= 30
    assert commands == [["ray", "stop"]]
