"""A guard that is slow, wrong, talks rubbish or is gone, and a key file that changes, under a load of streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from components import record, slots, told_apart, until
from ledger import Load
from watch import SEEN_S, Watch

from hybridserve.gateway.auth.api_keys import key_line, new_key

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(400)]

CLIENTS = 4


@pytest.fixture(scope="module")
def guard() -> Iterator[Any]:
    from support.fake_guard import GuardModel

    model = GuardModel()
    yield model
    model.close()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    file, secret = tmp_path_factory.mktemp("keys") / "keys.txt", new_key()
    file.write_text(key_line("user", secret, ("inference", "metrics")) + "\n")
    return file, secret


@pytest.fixture
def guarded(start_watched: Callable[..., Any], guard: Any, keys: tuple[Path, str]) -> Iterator[Any]:
    """A new one for each mood: the alert on a guard's errors looks back five minutes."""
    values = {
        "guard.kind": "model", "guard.url": guard.url, "guard.model": guard.name, "guard.format": "qwen3guard",
        "guard.timeout_s": 1, "guard.canary_interval_s": 2, "guard.canary_failures": 2, "guard.breaker_reset_s": 2,
        "access.keys_file": keys[0], "access.anonymous_scopes": "[metrics]",
    }  # fmt: skip
    sets = [word for path, value in values.items() for word in ("--set", f"{path}={value}")]
    watched = start_watched("--data-path", "single", *sets)
    yield watched
    assert watched.service.stop() == 0


def load(guarded: Any, keys: tuple[Path, str]) -> Load:
    return Load(guarded.service.url, CLIENTS, tokens=24, headers={"authorization": f"Bearer {keys[1]}"})


ERRORS = 'increase(hybridserve_guard_verdicts_total{outcome="error"}[30s]) > 0'
WRONG = "hybridserve_guard_canary_ok == 0"


@pytest.mark.parametrize(
    ("mood", "words", "shows", "alert"),
    [
        ("slow", "guard answers after its timeout", ERRORS, "GuardDown"),
        ("garbage", "guard answers rubbish", ERRORS, "GuardDown"),
        ("down", "guard answers 503", ERRORS, "GuardDown"),
        ("lenient", "guard lets everything pass", WRONG, "GuardCanaryFailing"),
    ],
)
async def test_a_sick_guard(
    guarded: Any, guard: Any, keys: tuple[Path, str], mood: str, words: str, shows: str, alert: str
) -> None:
    async with load(guarded, keys) as running, Watch(guarded.prometheus, shows, alert) as watch:
        await running.finished(2 * CLIENTS, 120)
        in_flight, at = len(running.ledger.open), time.monotonic()
        guard.mood = mood
        await until(lambda: bool(running.ledger.failed()), 60, f"{mood}: everybody is served")
        await asyncio.sleep(8)  # nothing may be served from now on
        settled = time.monotonic()
        passed = [entry for entry in running.ledger.between(settled - 4, settled) if entry.outcome == "finished"]
        await until(lambda: watch.saw(alert), SEEN_S, f"{mood}: not seen by metric and alert, {watch.seen}")
        guard.mood = "well"
        well_again = time.monotonic()
        await running.finished(2 * CLIENTS, 120)
        back = time.monotonic() - well_again
    row = told_apart(running.ledger, words, at, in_flight, back, watch.seen)
    record(row)
    assert row.silent == row.cut == 0, row
    assert {entry.why.split()[-1] for entry in running.ledger.failed()} <= {"guard_unavailable", "guard_blocked"}, row
    assert not passed, "nothing is served without a guard that is seen to work"
    assert watch.metric_s is not None
    assert watch.metric_s < SEEN_S, row
    await until(lambda: slots(guarded.service) == 0, 60, "a slot is still taken")


async def test_keys_that_change_under_open_streams(guarded: Any, keys: tuple[Path, str]) -> None:
    """A new file, a broken one, and one without the key: streams go on; the broken file changes nothing."""
    file, _ = keys
    good = file.read_text()
    async with load(guarded, keys) as running:
        await running.finished(CLIENTS, 60)
        in_flight, at = len(running.ledger.open), time.monotonic()
        for text in (good + key_line("other", new_key()) + "\n", "this is no key line\n", good):
            file.write_text(text)
            await running.finished(2 * CLIENTS, 60)
        assert not running.ledger.failed()
        file.write_text(key_line("other", new_key()) + "\n")
        await until(lambda: bool(running.ledger.failed()), 30, "a key that was taken away still opens")
        gone = time.monotonic()
        file.write_text(good)
        await running.finished(2 * CLIENTS, 60)
        back = time.monotonic() - gone
    row = told_apart(running.ledger, "key file changed, broken, key taken away and given back", at, in_flight, back)
    record(row)
    assert row.silent == row.cut == 0, row
    assert {entry.why for entry in running.ledger.failed()} == {"401 invalid_api_key"}
