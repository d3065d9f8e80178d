"""One request: its spans at an OTLP receiver, and its lines in the logs of gateway, Ray and engine, without secrets."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hybridserve.gateway.auth.api_keys import key_line, new_key
from support.stack_service import Service, start

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

TRACE = "0af7651916cd43dd8448eb211c80319c"
SECRET = "a prompt that no log may contain"
# Log files of Ray and of the engine below the folder of `serve`, by data path.
RAY, ENGINE = (
    "hybridserve-*/r/session_latest/logs/serve/replica_*.log",
    {
        "haproxy": "hybridserve-*/r/session_latest/logs/worker-*.err",
        "single": "hybridserve-*/engine.log",
    },
)


class Receiver:
    """An OTLP/HTTP receiver that stores every span."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                message = ExportTraceServiceRequest.FromString(body)
                for resource in message.resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def named(self, name: str, trace: str, timeout_s: float = 30.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            for span in list(self.spans):
                if span.name.startswith(name) and span.trace_id.hex() == trace:
                    return span
            assert time.monotonic() < deadline, [(span.name, span.trace_id.hex()) for span in self.spans]
            time.sleep(0.2)


@dataclass
class TracedService:
    """A service with its receiver of spans and its log files."""

    service: Service
    receiver: Receiver
    key: str
    log: Path
    scratch: Path
    path: str

    def post(self, ident: str, trace: str) -> httpx.Response:
        headers = {
            "authorization": f"Bearer {self.key}",
            "x-request-id": ident,
            "traceparent": f"00-{trace}-b7ad6b7169203331-01",
        }
        body = {"model": "demo", "max_tokens": 8, "messages": [{"role": "user", "content": SECRET}]}
        answer = httpx.post(f"{self.service.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        assert answer.status_code == 200
        return answer

    def lines(self, pattern: str, ident: str) -> list[dict[str, Any]]:
        """The JSON lines of these files with the id, once there are any. No file contains a secret.

        Ray also writes its access line as text to the worker's standard error, whatever the format of its file.
        """
        deadline = time.monotonic() + 20
        while True:
            texts = [file.read_text(errors="replace") for file in self.scratch.glob(pattern)]
            assert not any(secret in text for text in texts for secret in (SECRET, self.key))
            found = [line for text in texts for line in text.splitlines() if ident in line]
            found = [line for line in found if f"{ident} -- POST /v1/chat/completions" not in line]
            if found:
                return [json.loads(line) for line in found]
            assert time.monotonic() < deadline, [text[-1000:] for text in texts]
            time.sleep(0.2)


@pytest.fixture(scope="module", params=["haproxy", "single"])
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TracedService]:
    receiver, key = Receiver(), new_key()
    folder = tmp_path_factory.mktemp("watched")
    keys = folder / "keys.txt"
    keys.write_text(f"{key_line('user', key, tpm=100_000)}\n")
    flags = [f"access.keys_file={keys}", f"telemetry.otlp_endpoint={receiver.url}", "telemetry.log_format=json",
             "telemetry.log_requests=true"]  # fmt: skip
    patch = pytest.MonkeyPatch()
    scratch = Path(tempfile.mkdtemp(prefix="t-"))  # a short name: Ray's sockets are below it
    patch.setenv("TMPDIR", str(scratch))
    patch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    log = folder / "stderr.log"
    service = start(["--data-path", request.param, *[w for flag in flags for w in ("--set", flag)]], log=log)
    yield TracedService(service, receiver, key, log, scratch, request.param)
    assert service.stop() == 0
    patch.undo()
    shutil.rmtree(scratch)
    receiver.server.shutdown()


def test_ray_and_engine_log_the_request_id_in_json(watched: TracedService) -> None:
    watched.post("followed-by-a-test", "1" * 32)
    engine = watched.lines(ENGINE[watched.path], "followed-by-a-test")
    assert any(line["logger"].startswith("vllm.") for line in engine)
    if watched.path != "single":
        rays = watched.lines(RAY, "followed-by-a-test")
        assert {line["request_id"] for line in rays} == {"followed-by-a-test"}


def test_request_has_one_trace_and_one_log_line(watched: TracedService) -> None:
    receiver, key, log = watched.receiver, watched.key, watched.log
    answer = watched.post("traced-by-a-test", TRACE)
    gateway_span = receiver.named("hybridserve chat", TRACE)
    engine_span = receiver.named("llm_request", TRACE)
    assert gateway_span.parent_span_id.hex() == "b7ad6b7169203331"
    assert engine_span.parent_span_id == gateway_span.span_id
    attributes = {attribute.key: attribute.value.string_value for attribute in engine_span.attributes}
    assert "traced-by-a-test" in attributes["gen_ai.request.id"]

    deadline = time.monotonic() + 10
    lines: list[dict[str, Any]] = []
    while not lines:
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        texts = [line for line in log.read_text().splitlines() if "traced-by-a-test" in line]
        lines = [json.loads(line) for line in texts]
        time.sleep(0.1)
    (line,) = lines
    assert (line["event"], line["id"], line["key"], line["status"]) == ("request", "traced-by-a-test", "user", 200)
    assert line["tokens"] == answer.json()["usage"]["total_tokens"]
    spans = " ".join(str(span) for span in receiver.spans)
    for where in (log.read_text(), spans):
        assert SECRET not in where
        assert key not in where
