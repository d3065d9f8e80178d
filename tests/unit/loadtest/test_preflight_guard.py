"""The scenario of a guard needs a service with a guard: the check before a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hybridserve.errors import ServiceError
from hybridserve.loadtest.preflight import preflight
from hybridserve.loadtest.scenario import load_scenario
from support.http_answers import http_answers

MODELS = {"data": [{"id": "demo", "max_model_len": 4096}]}


@contextmanager
def service(about: Any) -> Iterator[str]:
    """An API with these answers of /about (None: 404) and of /v1/models."""
    bodies = {"/v1/models": MODELS, "/about": about}
    with http_answers(lambda path: None if bodies.get(path) is None else json.dumps(bodies[path]).encode()) as url:
        yield url


def test_service_without_a_guard_is_one_error() -> None:
    with service({"service": "hybridserve", "guard": None}) as url:
        with pytest.raises(ServiceError, match=r"has no guard \(guard.kind is none\).*guard.kind=rules"):
            preflight(url, None, None, load_scenario("guard"))
        assert preflight(url, None, None, load_scenario("chat")).model == "demo"


@pytest.mark.parametrize(
    "about", [{"service": "hybridserve", "guard": {"name": "rules"}}, {"service": "other", "guard": None}, [], None]
)
def test_service_with_a_guard_or_of_another_kind_is_tried(about: Any) -> None:
    with service(about) as url:
        assert preflight(url, None, None, load_scenario("guard")).model == "demo"
