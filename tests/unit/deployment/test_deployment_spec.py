"""One deployment spec: resolved once, serialized once, and the same in the process that receives it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hybridserve.cli import check, plan, render
from hybridserve.deployment import resolve
from hybridserve.deployment.spec import DeploymentSpec, spec_from_environ
from hybridserve.engine import vllm_middleware
from hybridserve.errors import ConfigError
from hybridserve.planning import resolve as planner
from hybridserve.planning.resolve import engine_args, engine_environment
from hybridserve.runtime import serve
from hybridserve.runtime.backends import standalone
from hybridserve.settings import Settings, load

TODAY = date(2026, 11, 23)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts plans, lookups of the model and serializations of all settings."""
    counts: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(planner, "recommend")
    count(planner, "find_model")
    count(DeploymentSpec, "to_json")
    return counts


class Started(BaseException):
    """Raised in place of starting an engine; no error, which `serve` would report as a failed start."""


@pytest.mark.parametrize("path", ["proxy", "single"])
def test_serve_plans_and_serializes_once(path: str, calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the start of the engine, and in the process that receives the spec."""
    received: list[DeploymentSpec] = []

    def run_ray_application(targets: list[Any], **_: Any) -> None:
        (text,) = targets[0].target._bound_deployment.init_args
        received.append(DeploymentSpec.from_json(text))
        raise Started

    def run_vllm(command: list[str], env: dict[str, str], **_: Any) -> None:
        monkeypatch.setenv("HYBRIDSERVE_SETTINGS_JSON", env["HYBRIDSERVE_SETTINGS_JSON"])
        received.append(vllm_middleware.VLLMMiddleware(lambda *_: None)._spec)  # type: ignore[arg-type]
        raise Started

    import ray
    from ray import serve as ray_serve

    for name in ("check_versions", "check_machine"):
        monkeypatch.setattr(serve, name, lambda *_, **__: None)
    for owner, name in ((serve, "adopt_orphans"), (serve, "kill_descendants"), (vllm_middleware, "configure")):
        monkeypatch.setattr(owner, name, lambda *_: None)
    monkeypatch.setattr(serve.os, "environ", {**serve.os.environ})
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray_serve, "start", lambda **_: None)
    monkeypatch.setattr(ray_serve, "run_many", run_ray_application)
    monkeypatch.setattr(standalone.subprocess, "Popen", run_vllm)
    settings = load(assignments=[f"server.data_path={path}"], environ={}).settings
    with pytest.raises(Started):
        serve.serve(settings, serve.Progress(lambda _: None), lambda _: None)
    assert calls == {"recommend": 1, "find_model": 1, "to_json": 1}
    assert received[0].settings == settings
    assert received[0].documents["/compliance"]["profile"] == "demo"


@pytest.mark.parametrize(
    ("command", "words"),
    [(plan.app, []), (check.app, []), (render.app, ["vllm"]), (render.app, ["helm"])],
    ids=["plan", "check", "render vllm", "render helm"],
)
def test_command_plans_once(command: Any, words: list[str], calls: Counter[str]) -> None:
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    assert (calls["recommend"], calls["find_model"]) == (1, 1)


def test_received_spec_equals_resolved_one() -> None:
    words = ["license.accepted=[{license: apache-2.0, by: me, accepted: 2026-01-02}]", "access.keys_file=/keys"]
    spec = resolve.resolve_deployment(load(assignments=words, environ={}).settings, TODAY)
    received = DeploymentSpec.from_json(spec.to_json())
    assert received == spec
    assert received.settings.license.accepted[0].accepted == date(2026, 1, 2)


def test_spec_has_arguments_environment_capacity_and_scaling() -> None:
    settings = load(assignments=["scaling.max_replicas=3", "scaling.ttft_s=1.5"], environ={}).settings
    spec = resolve.resolve_deployment(settings)
    assert spec.engine_args == engine_args(settings)
    assert spec.engine_environment == engine_environment(settings)
    assert spec.scaling is not None
    assert (spec.scaling.max_replicas, spec.scaling.ttft_s) == (3, 1.5)
    assert spec.capacity.max_num_seqs == spec.engine_args["max_num_seqs"]
    assert spec.plan is not None
    assert spec.capacity.usable_blocks == spec.plan.cache["num_gpu_blocks"] - 1


def test_environment_holds_spec_or_plain_settings(tmp_path: Path) -> None:
    spec = resolve.resolve_deployment(Settings(), TODAY)
    file = tmp_path / "deployment.json"
    file.write_text(spec.to_json())
    assert spec_from_environ({"HYBRIDSERVE_SETTINGS_JSON": str(file)}) == spec
    plain = spec_from_environ({"HYBRIDSERVE_SETTINGS_JSON": json.dumps({"server": {"port": 9000}})})
    assert (plain.settings.server.port, plain.plan) == (9000, None)


@pytest.mark.parametrize("whole", [False, True])
def test_a_wrong_setting_of_the_environment_is_named_without_its_password(whole: bool) -> None:
    settings = {"access": {"limits_url": "rediss://:hunter2@limits:6380/0"}}
    text = json.dumps({"settings": settings} if whole else settings)
    with pytest.raises(ConfigError) as caught:
        spec_from_environ({"HYBRIDSERVE_SETTINGS_JSON": text})
    path = "settings.access.limits_url" if whole else "access.limits_url"
    assert caught.value.where == f"HYBRIDSERVE_SETTINGS_JSON: {path}"
    assert caught.value.what == "the value is not an address such as redis://HOST:6379/0, without a password"
    assert "hunter2" not in str(caught.value)


def test_ray_application_from_settings_and_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As KubeRay's serveConfigV2 starts it, and as `serve run` does."""
    from hybridserve.runtime.ray_app import build_app

    monkeypatch.setenv("HYBRIDSERVE_SETTINGS_JSON", resolve.resolve_deployment(Settings(), TODAY).to_json())
    for args in ({"settings": {}, "start_attempts": 3}, {}):
        deployment = build_app(args)._bound_deployment
        assert DeploymentSpec.from_json(deployment.init_args[0]).plan is not None
        assert deployment._deployment_config.max_constructor_retry_count == (3 if args else 1)
