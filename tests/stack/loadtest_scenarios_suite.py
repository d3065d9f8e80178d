"""Every packaged scenario for a few seconds on the real service: `make test-loadtest-scenarios`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridserve.loadtest.preflight import preflight
from hybridserve.loadtest.runner import Result, Runner
from hybridserve.loadtest.scenario import built_in, load_scenario, validate_scenario
from support.fake_guard import GuardModel
from support.stack_service import Service

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
# Server and client share the machine here, so the client may be slow.
CLIENT = {"lag_floor_s": 1.0}
NEED_MORE_THAN_A_MODEL = {"guard", "tools"}


def in_seconds(name: str, seconds: float, scale: float) -> dict[str, Any]:
    """A packaged scenario, compressed into a few seconds."""
    tree = load_scenario(name).scaled(scale).model_dump(mode="json")
    curve = tree["curve"]
    whole = curve["each"] * len(curve["levels"]) if curve["shape"] == "steps" else curve["seconds"]
    for field in ("seconds", "each", "every", "length", "period"):
        if field in curve:
            curve[field] *= seconds / whole
    if tree["mode"] == "open" and curve["shape"] == "constant":
        curve["level"] = max(4, curve["level"])
    return tree | {"curve": curve, "warm_up": 0.2, "client": CLIENT}


def run(tree: dict[str, Any], url: str, out: Path) -> Result:
    scenario = validate_scenario(tree, "test")
    return Runner.connect(url, None, None, scenario).run(scenario, out)


@pytest.mark.parametrize("name", sorted(set(built_in()) - NEED_MORE_THAN_A_MODEL))
def test_every_scenario_runs(service: Service, tmp_path: Path, name: str) -> None:
    tree = in_seconds(name, 3, 0.02 if name == "grid" else 0.1)
    if name == "long-context":
        tree["mix"][1]["weight"] = 20
    elif name == "agent":
        tree["mix"][0]["think_s"] = 0.0
    elif name == "reasoning":
        tree["mix"] = [kind | {"max_tokens": 96} | ({"budget": 16} if kind["budget"] else {}) for kind in tree["mix"]]
    found = run(tree, service.url, tmp_path / "out")
    assert found.summary.attempted >= 2
    assert set(found.summary.outcomes) == {"ok"}, found.summary.outcomes
    counted = [record for record in found.records if not record.warm_up]
    if name == "long-context":
        limit = preflight(service.url, None, None, found.scenario).max_model_len
        assert max(record.prompt_tokens + record.output_tokens for record in counted) == limit
    elif name == "agent":
        grown: dict[int, list[int]] = {}
        for record in counted:
            grown.setdefault(record.conversation, []).append(record.prompt_tokens)
        assert max(map(len, grown.values())) > 2
        assert all(turns == sorted(set(turns)) for turns in grown.values()), "each turn has all earlier messages"
    elif name in ("burst", "ramp"):
        assert len({record.level for record in counted}) > 1


def test_guard_traffic_and_forced_tool_calls(start_service: Callable[..., Service], tmp_path: Path) -> None:
    """The guard model is fake; the engine, the guard's client and the grammar are real."""
    guard = GuardModel()
    values = {
        "guard.kind": "model",
        "guard.url": guard.url,
        "guard.model": guard.name,
        "guard.format": "qwen3guard",
    }
    service = start_service(*(part for path, value in values.items() for part in ("--set", f"{path}={value}")))
    tree = in_seconds("guard", 4, 1.0)
    tree["curve"]["level"] = 6
    guarded = run(tree, service.url, tmp_path / "guard")
    assert guarded.summary.error_rate == 0
    assert guarded.summary.outcomes["guard_blocked"] > 0
    assert guarded.summary.outcomes["ok"] > guarded.summary.outcomes["guard_blocked"]
    guard.behavior = "lenient"
    let_through = run(tree | {"seed": 2}, service.url, tmp_path / "lenient")
    assert let_through.summary.error_rate > 0, "an answer instead of a block is an error"
    assert let_through.verdict == "missed"
    guard.behavior = "normal"
    tools = run(in_seconds("tools", 3, 1.0), service.url, tmp_path / "tools")
    guard.close()
    assert set(tools.summary.outcomes) == {"ok"}, tools.summary.outcomes
    assert all(record.status == 200 and record.output_tokens > 0 for record in tools.records)
