"""Mutated network input: requests, an engine's stream, a guard's verdict, and a stream that the load test reads."""

from __future__ import annotations

import asyncio
import json
import os
import random
from typing import Any

import pytest

from hybridserve.gateway import GatewayMiddleware
from hybridserve.guards import GuardError
from hybridserve.guards.parsers import PARSERS, ParsedVerdict
from hybridserve.loadtest.stream import parse_stream
from hybridserve.settings import Settings
from support.fake_engine import DONE, FakeEngine, Response, chunk, request, sse
from support.fuzz_bodies import BODIES, HEADERS
from support.mutate import WRONG, mutate_text, mutate_tree

pytestmark = pytest.mark.timeout(7200)

MANY = int(os.environ.get("FUZZ_FILES", "200"))
SEED = int(os.environ.get("FUZZ_SEED", "11"))

STREAM = [sse(chunk()), sse(chunk("one ")), sse(chunk("two")), sse({"choices": [], "usage": {"total_tokens": 7}}), DONE]
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}], "usage": {"total_tokens": 50}}


def settings(**sections: Any) -> Settings:
    access = {"tokens_per_minute": 10**9, "max_streams": 100, "max_output_tokens": 50, "max_prompt_tokens": 10_000}
    return Settings.model_validate({"access": access, **sections})


@pytest.mark.parametrize("guarded", [False, True])
def test_mutated_requests_get_200_or_4xx(guarded: bool) -> None:
    """Every mutated request gets a complete response of 200 or 4xx, and no slot leaks."""
    guard = {"kind": "rules", "canary_interval_s": 3600} if guarded else {}
    app = GatewayMiddleware(FakeEngine(STREAM, ANSWER), settings(guard=guard))
    app.state.start = lambda _: None  # type: ignore[method-assign]
    seen: set[int] = set()

    async def run() -> None:
        for number in range(MANY):
            rng = random.Random(f"{SEED}/http/{number}")
            path = rng.choice(sorted(BODIES))
            tree = mutate_tree(BODIES[path], rng)
            raw = json.dumps(tree).encode("utf-8", "surrogatepass")
            if rng.random() < 0.2:
                raw = mutate_text(json.dumps(BODIES[path]), rng)
            headers = {}
            if rng.random() < 0.3:
                value = str(rng.choice(WRONG)).encode("latin-1", "replace").decode("latin-1")
                headers[rng.choice(HEADERS)] = (
                    value.encode("utf-8", "replace").decode("latin-1").encode().decode("latin-1")
                )
            where = f"seed {SEED} number {number} {path} {headers}\n{raw[:2000]!r}"
            try:
                result = await request(app, path, raw=raw, headers=headers, pieces=rng.choice((1, 1, 3)))
            except Exception as error:
                raise AssertionError(f"{type(error).__name__}: {error}: {where}") from error
            seen.add(result.status)
            assert result.status == 200 or 400 <= result.status < 500, f"{result.status} {result.body[:300]!r} {where}"
            assert result.complete, where
            assert b"Traceback" not in result.body, where

    asyncio.run(run())
    assert app.state.lifecycle.active == 0
    assert app.state.limits.running == 0
    assert {200, 400} <= seen


def shows_how_it_ended(result: Response) -> bool:
    """[DONE] and no error, or an error and no [DONE]; or an error status."""
    if result.status != 200:
        return "error" in result.json()
    text = result.body.decode("utf-8", "replace")
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line]
    failed = any(line.startswith('data: {"error"') for line in lines)
    done = any(line.startswith(("data: [DONE]", "data:[DONE]")) for line in lines)
    return failed != done


@pytest.mark.parametrize("guarded", [False, True])
def test_mutated_engine_stream_ends_with_done_or_error(guarded: bool) -> None:
    """A mutated stream always ends with [DONE] or an error."""
    guard = {"kind": "rules", "canary_interval_s": 3600} if guarded else {}

    async def run() -> None:
        for number in range(MANY):
            rng = random.Random(f"{SEED}/stream/{number}")
            whole = mutate_text(b"".join(STREAM).decode(), rng)
            size = rng.choice((1, 7, 50, 10_000))
            pieces: list[Any] = [whole[i : i + size] for i in range(0, len(whole), size)]
            if rng.random() < 0.1:
                pieces.insert(rng.randrange(len(pieces) + 1), RuntimeError("engine"))
            app = GatewayMiddleware(FakeEngine(pieces, no_end=rng.random() < 0.1), settings(guard=guard))
            body = {"stream": True, "messages": [{"role": "user", "content": "a"}]}
            result = await request(app, body=body)
            assert shows_how_it_ended(result), f"seed {SEED} number {number}\n{whole!r}\n{result.body!r}"
            assert result.complete
            assert app.state.lifecycle.active == app.state.limits.running == 0

    asyncio.run(run())


VERDICTS = {
    "nemotron_safety_guard": '{"User Safety": "unsafe", "Response Safety": "unsafe", "Safety Categories": "Violence"}',
    "nemotron_content_safety": "User Safety: unsafe\nResponse Safety: unsafe\nSafety Categories: Violence",
    "nemotron_reasoning": "<think>hm</think>\nPrompt harm: harmful\nResponse harm: harmful",
    "qwen3guard": "Safety: Unsafe\nCategories: Violent\nRefusal: No",
    "granite_guardian": "<think>hm</think><score>yes</score>",
    "llama_guard": "unsafe\nS1",
}


@pytest.mark.parametrize("form", sorted(VERDICTS))
def test_mutated_guard_verdict_is_parsed_or_rejected(form: Any) -> None:
    """A mutated verdict is parsed or raises GuardError, and nothing else."""
    for number in range(MANY):
        rng = random.Random(f"{SEED}/verdict/{number}")
        text = mutate_text(VERDICTS[form], rng).decode("utf-8", "replace")
        for stage in ("input", "output"):
            try:
                verdict = PARSERS[form](text, stage)  # type: ignore[arg-type]
            except GuardError:
                continue
            assert isinstance(verdict, ParsedVerdict)


def test_load_test_parses_mutated_streams() -> None:
    """The load test reads streams of other servers: it counts what it can and raises nothing."""
    events = [chunk("a"), {"choices": [], "usage": {"completion_tokens": 2, "prompt_tokens": 3, "total_tokens": 5}}]
    for number in range(MANY):
        rng = random.Random(f"{SEED}/client/{number}")
        text = "".join(f"data: {json.dumps(mutate_tree(event, rng))}\n\n" for event in events * 2) + "data: [DONE]\n\n"
        data = text.encode("utf-8", "surrogatepass") if rng.random() < 0.7 else mutate_text(text, rng)
        where = f"seed {SEED} number {number}\n{data!r}"
        try:
            stream = parse_stream([(float(i), line) for i, line in enumerate(data.split(b"\n"))])
            numbers = (stream.output_tokens, stream.prompt_tokens, stream.cached_tokens or 0, stream.reasoning_tokens)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}: {where}") from error
        assert all(isinstance(count, int) for count in numbers), where
