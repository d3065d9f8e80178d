"""Questions to a Prometheus, and one clear error when it does not answer them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

from hybridserve.errors import ServiceError

_FIX = "see that Prometheus runs there, as --prometheus http://127.0.0.1:9090"
# Metrics are asked for inside of a cluster or on this machine, never by way of a proxy.
_OPEN = build_opener(ProxyHandler({})).open


@dataclass(frozen=True, slots=True)
class Line:
    """One series of an answer: its labels and its points, (seconds since 1970, value), without NaN."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """The HTTP API of one Prometheus.

    Args:
        url: its address, without a path.
        timeout_s: longest wait for one answer.
    """

    url: str
    timeout_s: float = 10.0

    def now(self, expr: str) -> list[Line]:
        """The value of an expression now.

        Raises:
            ServiceError: no answer, or PromQL that it does not take.
        """
        rows = self.api("query", query=expr)["result"]
        return [Line(row["metric"], _points([row["value"]])) for row in rows]

    def range(self, expr: str, start: float, end: float, step: float) -> list[Line]:
        """The values of an expression over a time, in seconds since 1970.

        Raises:
            ServiceError: no answer, or PromQL that it does not take.
        """
        rows = self.api("query_range", query=expr, start=str(start), end=str(end), step=str(step))["result"]
        return [Line(row["metric"], _points(row["values"])) for row in rows]

    def api(self, path: str, **asked: str) -> Any:
        """Field `data` of any answer.

        Raises:
            ServiceError: no answer, or an error in it.
        """
        try:
            with _OPEN(f"{self.url.rstrip('/')}/api/v1/{path}?{urlencode(asked)}", timeout=self.timeout_s) as answer:
                body = json.load(answer)
        except HTTPError as error:
            detail = error.read(500).decode(errors="replace")
            raise ServiceError("--prometheus", f"{self.url} answers HTTP {error.code}: {detail}", _FIX) from None
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise ServiceError("--prometheus", f"{self.url} cannot be reached: {reason}", _FIX) from None
        except ValueError:
            raise ServiceError("--prometheus", f"{self.url} does not answer like Prometheus", _FIX) from None
        if not isinstance(body, dict) or body.get("status") != "success":
            raise ServiceError("--prometheus", f"{self.url} does not answer like Prometheus", _FIX)
        return body["data"]


def _points(values: list[list[Any]]) -> tuple[tuple[float, float], ...]:
    read = ((float(at), float(value)) for at, value in values)
    return tuple((at, value) for at, value in read if not math.isnan(value))
