"""Conversations return to their replica: the real HAProxy with Ray's hardened configuration, and Ray's router."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from hybridserve.engine.patches.haproxy import LOAD_PERCENT, SESSION_HEADER, harden_config
from hybridserve.runtime.ingress import free_ports

NAMES = ("one", "two", "three")
BY_RAY = """
import sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
folder, port, metrics, stats, *servers = sys.argv[1:]
cfg = HAProxyConfig(http_options=HTTPOptions(host="127.0.0.1", port=int(port)), socket_path=folder + "/a",
                    metrics_port=int(metrics), stats_port=int(stats))
cfg.server_state_base, cfg.server_state_file, cfg.metrics_socket_path = folder, folder + "/state", folder + "/m"
pairs = [server.split(":") for server in servers]
servers = [ServerConfig(name=name, host="127.0.0.1", port=int(port)) for name, port in pairs]
backend = BackendConfig(name="app", path_prefix="/", app_name="app", servers=servers)
api = HAProxyApi(cfg=cfg, backend_configs={"app": backend}, config_file_path=folder + "/haproxy.cfg")
api._generate_config_file_internal()
"""


class Replica(BaseHTTPRequestHandler):
    """Answers with the server's name, after `wait` seconds."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        time.sleep(float(self.headers.get("wait") or 0))
        name: bytes = self.server.name  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(name)))
        self.end_headers()
        self.wfile.write(name)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def replicas() -> Iterator[dict[str, int]]:
    """Name to port of three servers."""
    servers = {name: ThreadingHTTPServer(("127.0.0.1", 0), Replica) for name in NAMES}
    for name, server in servers.items():
        server.name = name.encode()  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {name: server.server_address[1] for name, server in servers.items()}
    for server in servers.values():
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def by_ray(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ray's configuration, with names in the place of ports."""
    folder = tmp_path_factory.mktemp("ray")
    ports = ("10001", "10002", "10003")
    servers = [f"{name}:{port}" for name, port in zip(NAMES, ("20001", "20002", "20003"), strict=True)]
    words = [sys.executable, "-c", BY_RAY, str(folder), *ports, *servers]
    made = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr[-2000:]
    return (folder / "haproxy.cfg").read_text().replace(str(folder), "FOLDER")


@pytest.fixture(scope="module")
def proxied(
    by_ray: str, replicas: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., httpx.Client]]:
    """A function that starts HAProxy in front of some of the servers."""
    stack: list[tuple[subprocess.Popen[bytes], httpx.Client]] = []

    def start(*names: str, dead: str | None = None) -> httpx.Client:
        folder, (port, metrics, stats, closed) = tmp_path_factory.mktemp("h"), free_ports(4)
        text = by_ray.replace("FOLDER", str(folder))
        for old, new in zip((10001, 10002, 10003), (port, metrics, stats), strict=True):
            text = text.replace(f":{old}", f":{new}")
        servers = {found[1]: found[0] for found in re.finditer(r"^    server (\S+) 127\S+ check.*\n", text, re.M)}
        lines = [re.sub(r":\d+", f":{closed if name == dead else replicas[name]}", servers[name]) for name in names]
        text = text.replace("".join(servers.values()), "".join(lines))
        (folder / "haproxy.cfg").write_text(text)
        program = Path(sys.executable).with_name("hybridserve-haproxy")
        process = subprocess.Popen([program, "-db", "-f", str(folder / "haproxy.cfg")], stderr=subprocess.DEVNULL)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)
        stack.append((process, client))
        for _ in range(200):
            try:
                if client.get("/v1/models").text in NAMES:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        return client

    yield start
    for process, client in stack:
        client.close()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def three(proxied: Callable[..., httpx.Client]) -> httpx.Client:
    return proxied(*NAMES)


def chat(first: str, turns: int = 1, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "You are an agent."}, {"role": "user", "content": first}]
    for turn in range(turns - 1):
        messages += [{"role": "assistant", "content": f"answer {turn}"}, {"role": "user", "content": "go on"}]
    return {"model": "demo", "messages": messages, **fields}


def homes(client: httpx.Client, count: int = 60) -> dict[str, str]:
    """Session to the replica that serves it."""
    return {
        key: client.post("/v1/chat/completions", headers={SESSION_HEADER: key}, json={}).text
        for key in (f"session-{number}" for number in range(count))
    }


@pytest.mark.parametrize(
    "request_of",
    [
        lambda turn: ({SESSION_HEADER: "s1"}, chat(f"first {turn}")),
        lambda turn: ({}, chat(f"first {turn}", prompt_cache_key="agent-7")),
        lambda turn: ({}, chat(f"first {turn}", user="ann")),
        lambda turn: ({}, chat(f"first {turn}", metadata={"user_id": "ann"})),
        lambda turn: ({}, chat("What is this?", turns=turn + 1)),
        lambda turn: ({}, chat("What is this?", turns=400 * turn + 1, user="beyond the buffer" * 9000)),
    ],
    ids=["header", "prompt_cache_key", "user", "metadata", "first messages", "longer than the buffer"],
)
def test_turns_of_one_conversation_reach_one_replica(
    three: httpx.Client, request_of: Callable[[int], tuple[dict[str, str], dict[str, Any]]]
) -> None:
    answers = set()
    for turn in range(6):
        headers, body = request_of(turn)
        answers.add(three.post("/v1/chat/completions", headers=headers, json=body).text)
    assert len(answers) == 1
    assert answers <= set(NAMES)


def test_conversations_are_spread_over_the_replicas(three: httpx.Client) -> None:
    counts = Counter(homes(three, 90).values())
    assert set(counts) == set(NAMES)
    assert max(counts.values()) < 60
    assert {three.get("/v1/models").text for _ in range(30)} == set(NAMES)


def test_scaling_moves_only_the_conversations_of_the_changed_replica(
    three: httpx.Client, proxied: Callable[..., httpx.Client]
) -> None:
    before, after = homes(three), homes(proxied("three", "one"))
    moved = {key for key, name in before.items() if after[key] != name}
    assert moved == {key for key, name in before.items() if name == "two"}


def test_conversations_of_a_dead_replica_go_elsewhere(
    three: httpx.Client, proxied: Callable[..., httpx.Client]
) -> None:
    before, after = homes(three), homes(proxied(*NAMES, dead="two"))
    assert "two" not in after.values()
    assert {key for key, name in before.items() if after[key] != name} == {
        key for key, name in before.items() if name == "two"
    }


def test_hot_session_does_not_overload_its_replica(three: httpx.Client) -> None:
    count = 24

    def send(_: int) -> str:
        headers = {SESSION_HEADER: "hot", "wait": "1.5"}
        return three.post("/v1/chat/completions", headers=headers, json={}).text

    with ThreadPoolExecutor(count) as pool:
        answers = Counter(pool.map(send, range(count)))
    assert len(answers) > 1
    assert max(answers.values()) <= count / len(NAMES) * LOAD_PERCENT / 100 + 1


def test_order_of_servers_does_not_change_their_numbers() -> None:
    lines = ["    server a 127.0.0.1:1 check", "    server b 127.0.0.1:2 check"]
    head = (
        "frontend http_frontend\n    bind 127.0.0.1:1\nlisten stats\n  bind *:2\n    stats socket x mode 666 y\n"
        "    option splice-request\n    errorfile 503 x\n    option abortonclose\nfrontend prometheus\n    bind :3\n"
    )
    found = [
        sorted(line for line in harden_config(head + "\n".join(order), "e").splitlines() if " id " in line)
        for order in (lines, lines[::-1])
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 2


def ray_router(*names: str) -> Callable[[str], str]:
    """Ray's proxy: from a session to its replica on Ray's own ring, which then has one more request."""
    from ray.serve._private.common import DeploymentID, ReplicaID
    from ray.serve._private.request_router.common import ReplicaQueueLengthCache

    from hybridserve.runtime.session_router import SessionRouter

    deployment = DeploymentID("engine", "app")
    replicas = {key: SimpleNamespace(replica_id=key) for key in (ReplicaID(name, deployment) for name in names)}
    router, loads = SessionRouter.__new__(SessionRouter), ReplicaQueueLengthCache()
    router._deployment_id, router._replicas, router._replica_queue_len_cache = deployment, replicas, loads
    router._num_virtual_nodes, router._num_fallback_replicas = 100, 2
    router._rebuild_ring(frozenset(replicas))

    def send(session: str) -> str:
        metadata = SimpleNamespace(session_id=session, internal_request_id="-")
        pending = SimpleNamespace(metadata=metadata, routing_context=SimpleNamespace())
        chosen = asyncio.run(router.choose_replicas(list(replicas.values()), pending))[0][0].replica_id
        loads.update(chosen, (loads.get(chosen) or 0) + 1)
        return str(chosen.unique_id)

    return send


def test_ray_router_moves_only_the_sessions_of_the_changed_replica() -> None:
    sessions = [f"session-{number}" for number in range(60)]
    before = {key: ray_router(*NAMES)(key) for key in sessions}
    after = {key: ray_router("one", "three")(key) for key in sessions}
    assert set(before.values()) == set(NAMES)
    assert {key for key in sessions if after[key] != before[key]} == {key for key in sessions if before[key] == "two"}


def test_ray_router_spreads_a_hot_session() -> None:
    send, count = ray_router(*NAMES), 24
    answers = Counter(send("hot") for _ in range(count))
    assert len(answers) > 1
    assert max(answers.values()) <= count / len(NAMES) * LOAD_PERCENT / 100 + 1


@pytest.mark.parametrize(
    ("loads", "order"),
    [
        ((0, 0, 0), "abc"),
        ((3, 1, 1), "bca"),
        ((2, 2, 2), "abc"),
        ((9, 3, 1), "bca"),
        ((1, 0, 0), "bca"),
        ((1, 1, 1), "abc"),
    ],
)
def test_ray_router_skips_a_replica_with_more_than_its_share(loads: tuple[int, ...], order: str) -> None:
    from hybridserve.runtime.session_router import within_bound

    ranked = [[SimpleNamespace(replica_id=name)] for name in "abc"]
    found = within_bound(ranked, dict(zip("abc", loads, strict=True)))
    assert "".join(replica.replica_id for (replica,) in found) == order
