"""A guard that is slow, invalid, lenient or down, and a key file that changes, under load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_run import fault_under_load
from load import LoadGenerator
from processes import until

from hybridserve.gateway.auth.api_keys import key_line, new_key

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(400)]

CLIENTS = 4
VERDICT_ERRORS = 'increase(hybridserve_guard_verdicts_total{outcome="error"}[30s]) > 0'
CANARY_FAILED = "hybridserve_guard_canary_ok == 0"


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
    """A new service for each test: the alert on a guard's errors looks back five minutes."""
    guard.behavior = "normal"  # a test that failed leaves its own
    watched = start_watched(
        "single", guard__kind="model", guard__url=guard.url, guard__model=guard.name, guard__format="qwen3guard",
        guard__timeout_s=1, guard__canary_interval_s=2, guard__canary_failures=2, guard__breaker_reset_s=2,
        access__keys_file=keys[0], access__anonymous_scopes="[metrics]",
    )  # fmt: skip
    yield watched
    assert watched.service.stop() == 0


def load(guarded: Any, keys: tuple[Path, str]) -> LoadGenerator:
    return LoadGenerator(guarded.service.url, CLIENTS, tokens=24, headers={"authorization": f"Bearer {keys[1]}"})


@pytest.mark.parametrize(
    ("behavior", "fault", "shows", "alert"),
    [
        ("slow", "guard answers after its timeout", VERDICT_ERRORS, "GuardDown"),
        ("invalid", "guard returns invalid output", VERDICT_ERRORS, "GuardDown"),
        ("down", "guard answers 503", VERDICT_ERRORS, "GuardDown"),
        ("lenient", "guard allows everything", CANARY_FAILED, "GuardCanaryFailing"),
    ],
)
async def test_requests_are_rejected_while_the_guard_fails(
    guarded: Any, guard: Any, keys: tuple[Path, str], behavior: str, fault: str, shows: str, alert: str
) -> None:
    async with fault_under_load(guarded, fault, load(guarded, keys), alert, shows) as run:
        guard.behavior = behavior

        def all_rejected() -> bool:
            recent = run.load.log.ended_since(4)
            return len(recent) >= CLIENTS and all(entry.outcome != "finished" for entry in recent)

        await until(all_rejected, 60, f"{fault}: requests are still served")
        served = run.load.log.counts()["finished"]
        await until(lambda: run.watch.saw(alert), 60, f"{fault}: not visible in metric and alert")
        assert run.load.log.counts()["finished"] == served, "a request was served without a working guard"
        guard.behavior = "normal"
        await run.load.wait_for_finished(2 * CLIENTS, 120)
        run.recovered()
    assert run.row.connection_broken == 0, run.row
    codes = {entry.reason.split()[-1] for entry in run.load.log.failed()}
    assert codes <= {"guard_unavailable", "guard_blocked"}, run.row


async def test_key_file_changes_apply_while_streams_run(guarded: Any, keys: tuple[Path, str]) -> None:
    """An added key, an invalid line and a removed key: an invalid line revokes no other key, open streams continue."""
    file, _ = keys
    valid, other = file.read_text(), key_line("other", new_key()) + "\n"
    fault = "key file changed, broken, key removed and restored"
    async with fault_under_load(guarded, fault, load(guarded, keys)) as run:
        for text in (valid + other, valid + "not a key line\n", valid):
            file.write_text(text)
            await asyncio.sleep(2)  # the service looks once a second
            await run.load.wait_for_finished(2 * CLIENTS, 60)
        assert not run.load.log.failed()
        file.write_text(other)
        await until(lambda: bool(run.load.log.failed()), 30, "a removed key is still accepted")
        file.write_text(valid)
        await run.load.wait_for_finished(2 * CLIENTS, 60)
        run.recovered()
    assert run.row.connection_broken == 0, run.row
    assert {entry.reason for entry in run.load.log.failed()} == {"401 invalid_api_key"}
