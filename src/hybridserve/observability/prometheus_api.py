"""Client for the HTTP API of Prometheus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx

from hybridserve.errors import ServiceError

_HINT = "check that Prometheus runs at this address, for example --prometheus http://127.0.0.1:9090"


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a result: its labels and its points, (seconds since 1970, value), without NaN."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """The HTTP API of one Prometheus.

    Args:
        url: its address, without a path.
        timeout_s: longest wait for a response.
    """

    url: str
    timeout_s: float = 10.0

    def query(self, expr: str) -> list[Series]:
        """The current value of an expression.

        Raises:
            ServiceError: no response, or invalid PromQL.
        """
        rows = self.api("query", query=expr)["result"]
        return [Series(row["metric"], _points([row["value"]])) for row in rows]

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        """The values of an expression over a time range, in seconds since 1970.

        Raises:
            ServiceError: no response, or invalid PromQL.
        """
        rows = self.api("query_range", query=expr, start=str(start), end=str(end), step=str(step))["result"]
        return [Series(row["metric"], _points(row["values"])) for row in rows]

    def api(self, path: str, **params: str) -> Any:
        """Field `data` of a response.

        Raises:
            ServiceError: no response, or an error.
        """
        try:
            response = get(f"{self.url.rstrip('/')}/api/v1/{path}", self.timeout_s, params)
            body = response.json()
        except httpx.HTTPStatusError as error:
            what = f"{self.url} returned HTTP {error.response.status_code}: {error.response.text[:500]}"
            raise ServiceError("--prometheus", what, _HINT) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceError("--prometheus", f"{self.url} cannot be reached: {error}", _HINT) from None
        except ValueError:
            body = None
        if not isinstance(body, dict) or body.get("status") != "success":
            raise ServiceError("--prometheus", f"{self.url} is not the HTTP API of Prometheus", _HINT)
        return body["data"]


def get(url: str, timeout_s: float, params: dict[str, str] | None = None) -> httpx.Response:
    """GET, never through a proxy: metrics are inside the cluster or on this machine.

    Raises:
        httpx.HTTPError: no response, or an error status.
    """
    return _client().get(url, params=params, timeout=timeout_s).raise_for_status()


@cache
def _client() -> httpx.Client:
    """One client per process: a new one costs 20 ms for its TLS settings."""
    return httpx.Client(trust_env=False)


def _points(values: list[list[Any]]) -> tuple[tuple[float, float], ...]:
    points = ((float(at), float(value)) for at, value in values)
    return tuple((at, value) for at, value in points if not math.isnan(value))
