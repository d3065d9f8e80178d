"""The controller that scales pods without Ray: reads the pods' metrics and serves the number of pods that is wanted.

It changes nothing itself and needs no access to the Kubernetes API. KEDA reads ``GET /desired-replicas`` (scaler
`metrics-api`); Prometheus reads ``GET /metrics``, from which an adapter makes an external metric for a
HorizontalPodAutoscaler. Whenever it does not know better it serves the last number, and before its first decision 503:
both scalers then leave the number of pods as it is.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from hybridserve.autoscaling.pods import PodFleet, PodReport, decide_pods
from hybridserve.autoscaling.policy import Decision
from hybridserve.autoscaling.replica_metrics import metrics_from_numbers
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.errors import ConfigError, ServiceError
from hybridserve.observability.collectors.autoscaler import record_decision
from hybridserve.observability.http_server import serve_wsgi, text_app
from hybridserve.observability.metrics import AutoscalerMetrics
from hybridserve.observability.prometheus_api import get

logger = logging.getLogger("hybridserve.autoscaling")

POLL_S = 2.0
READ_TIMEOUT_S = 2.0
# A decision older than this is not served: the loop hangs.
STALE_S = 30.0
_INPUT, _DRAINING = "hybridserve_scaling_input", "hybridserve_draining"


def pod_addresses(name: str, port: int) -> list[str]:
    """``IP:port`` of every pod behind a name, such as that of a headless Service.

    Raises:
        ServiceError: the name does not resolve, as when no pod exists.
    """
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ServiceError(name, f"does not resolve: {error}", "give the name of the pods' headless Service") from None
    hosts = sorted({str(address[0]) for *_, address in found})
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]


def pod_report(text: str) -> PodReport:
    """The report in the text of a pod's metrics port."""
    # A tenth of the lines: vLLM's own metrics are not needed.
    lines = [line for line in text.splitlines() if line.startswith((_INPUT, _DRAINING))]
    numbers: dict[str, float] = {}
    draining = False
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name == _INPUT:
                numbers[sample.labels["field"]] = sample.value
            draining = draining or (sample.name == _DRAINING and sample.value > 0)
    return PodReport(metrics_from_numbers("", numbers), draining)


def read_pod(address: str) -> PodReport | None:
    """The report of one pod; None if its metrics port does not answer with metrics."""
    try:
        return pod_report(get(f"http://{address}/metrics", READ_TIMEOUT_S).text)
    except (httpx.HTTPError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Served:
    """What is served until the next decision."""

    replicas: int
    decision: Decision
    at: float


class PodAutoscaler:
    """The control loop and its HTTP application.

    Args:
        spec: of the deployment. Its limits are numbers of pods.
        find: addresses of every pod that exists, also of those that start or stop.
        start_limit_s: longest start of a pod.
        clock: monotonic time in seconds.

    Raises:
        ConfigError: settings with which pods cannot scale.
    """

    def __init__(
        self,
        spec: ScalingSpec,
        find: Callable[[], Sequence[str]],
        start_limit_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if spec.policy != "hybrid":
            raise ConfigError("scaling.policy", f"{spec.policy} is Ray Serve's own policy", "set it to hybrid")
        if spec.min_replicas == 0:
            raise ConfigError("scaling.min_replicas", "0 pods: nothing would queue the first request", "set 1 or more")
        self._spec, self._find, self._start_limit_s, self._clock = spec, find, start_limit_s, clock
        registry = CollectorRegistry()
        self.metrics = AutoscalerMetrics(registry)
        self._registry = registry
        # Its initial 0 would be read as a request for no pods.
        registry.unregister(self.metrics.target_replicas)
        self._metrics_app = text_app(registry)
        self._readers = ThreadPoolExecutor(16, thread_name_prefix="read-pod")
        self._fleet = PodFleet()
        self._served: Served | None = None
        self._problem = ""
        self._stepped = clock()

    def step(self) -> None:
        """Read every pod and decide once. After an error the last number stays."""
        try:
            addresses = self._find()
            if not addresses:
                raise ServiceError("pods", "none exists", "see the Deployment's events")
            reports = dict(zip(addresses, self._readers.map(read_pod, addresses), strict=True))
            now = self._clock()
            fleet, decision, self._fleet = decide_pods(now, reports, self._spec, self._fleet, self._start_limit_s)
            record_decision(self.metrics, fleet, self._spec, decision)
            if self._served is None:
                self._registry.register(self.metrics.target_replicas)
            assert self._fleet.target is not None
            self._served = Served(self._fleet.target, decision, now)
            self._problem = ""
        except Exception as error:  # the loop must go on: without it nothing is ever scaled again
            self.metrics.errors.inc()
            problem = f"{type(error).__name__}: {error}"
            if problem != self._problem:
                expected = isinstance(error, ServiceError)
                logger.error("autoscaler_error", extra={"problem": problem}, exc_info=not expected)
                self._problem = problem
        self._stepped = self._clock()

    def run(self, stopped: Event) -> None:
        """Decide every `POLL_S` seconds until `stopped`."""
        while not stopped.is_set():
            self.step()
            stopped.wait(POLL_S)

    def listen(self, host: str, port: int) -> int:
        """Serve the application in a thread; returns the port.

        Raises:
            OSError: the port is not free.
        """
        return serve_wsgi(host, port, self._app)

    def _app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            body: Iterable[bytes] = self._metrics_app(environ, start_response)
            return body
        status, answer = self._answer(path)
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]

    def _answer(self, path: str) -> tuple[str, dict[str, Any]]:
        stuck_s = self._clock() - self._stepped
        if path not in ("/desired-replicas", "/health"):
            return "404 Not Found", {"error": f"no route {path}"}
        if stuck_s > STALE_S:
            return "503 Service Unavailable", {"error": f"no decision for {stuck_s:.0f} s"}
        if path == "/health":
            return "200 OK", {"status": "ok"}
        served = self._served
        if served is None:
            return "503 Service Unavailable", {"error": f"no decision yet: {self._problem or 'starting'}"}
        return "200 OK", {
            "desired_replicas": served.replicas,
            "cause": served.decision.cause.value,
            "reason": served.decision.reason,
            "age_s": round(self._clock() - served.at, 1),
        }
