"""A fake guard model: verdicts in Qwen3Guard's form, from a list of harmful prompts."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from hybridserve.guards.canaries.prompts import HARMFUL

Behavior = Literal["normal", "lenient", "invalid", "down", "slow"]


class GuardModel:
    """An OpenAI endpoint on a free port."""

    name = "fake-qwen3guard"

    def __init__(self) -> None:
        self.behavior: Behavior = "normal"
        self.calls = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._respond({"data": [{"id": outer.name}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.calls += 1
                if outer.behavior == "slow":
                    time.sleep(5)
                self._respond({"choices": [{"message": {"content": outer.verdict(body)}, "finish_reason": "stop"}]})

            def _respond(self, answer: Any) -> None:
                data = json.dumps(answer).encode()
                self.send_response(503 if outer.behavior == "down" else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def verdict(self, body: dict[str, Any]) -> str:
        if self.behavior == "invalid":
            return "I think that is fine."
        text = json.dumps(body["messages"], ensure_ascii=False)
        known = [prompt for group in HARMFUL.values() for prompt in group.values()]
        bad = self.behavior != "lenient" and any(prompt in text for prompt in known)
        return f"Safety: {'Unsafe' if bad else 'Safe'}\nCategories: {'Violent' if bad else 'None'}\nRefusal: No"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
