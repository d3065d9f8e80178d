"""Load on any OpenAI-compatible server. It needs locust and nothing else:

    pip install locust
    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000

The web UI is at http://127.0.0.1:8089; without it: --headless --users 8 --run-time 1m. Each user streams one chat
completion after the other. locust's tables have three rows: `chat` is the whole request, `first token` the time to it,
and `inter-token` the mean time between the tokens of a request. `Aggregated` counts requests only, so it equals `chat`.
The key is read from OPENAI_API_KEY.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from locust import FastHttpUser, constant, events, task

PROMPTS = ["What is this?", "Explain the difference between a state and a cache in three sentences.", "Write a haiku."]

# As locust's client: no proxy, and any certificate.
TLS = ssl.create_default_context()
TLS.check_hostname = False
TLS.verify_mode = ssl.CERT_NONE
MODELS = build_opener(ProxyHandler({}), HTTPSHandler(context=TLS))

BACK_OFF_S = 0.25  # after a failure, so that a server in trouble is not flooded


@events.init_command_line_parser.add_listener
def options(parser: Any) -> None:
    """Options of this file."""
    group = parser.add_argument_group("OpenAI", "what is sent")
    group.add_argument("--model", default="", help="served name; default: the first of /v1/models")
    group.add_argument("--max-tokens", type=int, default=128, help="longest answer, in tokens")
    group.add_argument("--prompts", default="", help="file with one prompt a line")


class Chat(FastHttpUser):
    """Sends the next request when the answer is complete."""

    host = "http://127.0.0.1:8000"
    """Where --host is not given."""
    wait_time = constant(0)
    network_timeout = 120.0

    def on_start(self) -> None:
        """Ask the server for its model and read the prompts."""
        given = self.environment.parsed_options
        key = os.environ.get("OPENAI_API_KEY")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.base = "" if (self.host or "").rstrip("/").endswith("/v1") else "/v1"
        self.model = given.model or self.first_model()
        self.prompts = PROMPTS
        if given.prompts:
            lines = Path(given.prompts).read_text(encoding="utf-8").splitlines()
            self.prompts = [line.strip() for line in lines if line.strip()]
        self.sent = 0

    def first_model(self) -> str:
        """The first model that the server lists; empty, and a failure in locust's tables, where it lists none."""
        # Not with locust's client, which would count it as a request of the load.
        url = f"{str(self.host).rstrip('/')}{self.base}/models"
        try:
            with MODELS.open(Request(url, headers=self.headers), timeout=self.network_timeout) as answer:
                return str(json.load(answer)["data"][0]["id"])
        except (OSError, HTTPException, ValueError, TypeError, KeyError, IndexError) as error:
            self.environment.events.request.fire(
                request_type="GET",
                name="models",
                response_time=0,
                response_length=0,
                exception=RuntimeError(f"no list of models at {url}: {error}"),
                context={},
            )
            return ""

    @task
    def chat(self) -> None:
        """Stream one answer and report its times."""
        question = self.prompts[self.sent % len(self.prompts)]
        self.sent += 1
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": self.environment.parsed_options.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        lines: list[tuple[float, bytes]] = []
        path, start = f"{self.base}/chat/completions", time.perf_counter()
        with self.client.post(
            path, json=body, headers=self.headers, name="chat", stream=True, catch_response=True
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"HTTP {answer.status_code}: {(answer.text or '')[:200]}")
                time.sleep(BACK_OFF_S)
                return
            # Lines are timed as they arrive; their JSON is parsed after the last one.
            while line := answer.stream.readline(b"\n"):
                lines.append((time.perf_counter() - start, line))
            tokens, problem = read(lines)
            answer.request_meta["response_time"] = (time.perf_counter() - start) * 1000
            answer.request_meta["response_length"] = sum(len(line) for _, line in lines)
            if problem:
                answer.failure(problem)
                time.sleep(BACK_OFF_S)
                return
            answer.success()
        self.report("first token", tokens[0])
        if len(tokens) > 1:
            self.report("inter-token", (tokens[-1] - tokens[0]) / (len(tokens) - 1))

    def report(self, name: str, seconds: float) -> None:
        """Add a time to locust's tables, in a row of its own: an event would count it as a request of `Aggregated`."""
        self.environment.stats.get(name, "time").log(round(seconds * 1000, 3), 0)


@events.quitting.add_listener
def require_a_request(environment: Any, **_: Any) -> None:
    """Fail a run without the page in which nothing finished: an empty table is no result."""
    is_worker = hasattr(environment.runner, "master_host")
    if environment.parsed_options.headless and not is_worker and not environment.stats.total.num_requests:
        print("error: no request finished: give --run-time more seconds than one answer takes", file=sys.stderr)
        environment.process_exit_code = 1


def read(lines: list[tuple[float, bytes]]) -> tuple[list[float], str]:
    """Times of the chunks with text, reasoning or a tool call, and why the stream is not complete, if it is not."""
    times, done = [], False
    for at, line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            done = True
            break
        event = json.loads(data)
        if "error" in event:
            return times, f"error in the stream: {event['error']}"
        for choice in event.get("choices", ()):
            delta = choice.get("delta", {})
            if any(delta.get(name) for name in ("content", "reasoning", "reasoning_content", "tool_calls")):
                times.append(at)
    problem = "the stream ended without [DONE]" if not done else "" if times else "no token"
    return times, problem
