"""A first load: users that chat with the demo model and wait for whole answers.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --headless -u 8 -r 8 -t 30s

Time to first token and inter-token latency need a streaming user, which this one is not: what locust reports here is
the time of the whole answer.
"""

from __future__ import annotations

import random

from locust import FastHttpUser, between, task

QUESTIONS = ["What is this?", "How do I plan?", "What is a state slot?", "Hello", "What is 2 plus 3?"]


class Chat(FastHttpUser):
    """One person who asks, reads, and asks again."""

    wait_time = between(0.1, 0.5)

    @task
    def ask(self) -> None:
        """One question, answered whole; an answer without text or an unfinished one is a failure."""
        body = {"model": "demo", "messages": [{"role": "user", "content": random.choice(QUESTIONS)}], "temperature": 0}
        with self.client.post("/v1/chat/completions", json=body, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"HTTP {answer.status_code}")
                return
            choice = answer.json()["choices"][0]
            if not choice["message"]["content"] or choice["finish_reason"] != "stop":
                answer.failure("no whole answer")
