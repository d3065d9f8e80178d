"""Settings that change in a running replica: limits, reasoning defaults and the log level."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.errors import ConfigError
from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.limits.rate_limit import RequestLimits
from hybridserve.gateway.state import GatewayState
from hybridserve.runtime.ray_autoscaling import SettingsAutoscalingPolicy
from hybridserve.settings import Settings
from hybridserve.settings.access import AccessSection
from hybridserve.settings.live import LIVE_SETTINGS, with_live_settings

KEY = Key("user", frozenset({"inference"}))


def test_every_live_setting_exists() -> None:
    tree = Settings().model_dump()
    assert all(set(names) <= set(tree[section]) for section, names in LIVE_SETTINGS.items())


def test_live_settings_replace_and_fall_back_to_defaults() -> None:
    started = Settings.model_validate(
        {"access": {"max_streams": 2, "keys_file": "/k"}, "telemetry": {"namespace": "a"}}
    )
    changed = with_live_settings(started, {"telemetry": {"log_level": "debug"}, "access": {"max_choices": 1}})
    assert changed.access.max_streams is None
    assert changed.access.max_choices == 1
    assert changed.access.keys_file == "/k"
    assert (changed.telemetry.log_level, changed.telemetry.namespace) == ("debug", "a")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"engine": {"max_num_seqs": 4}}, "engine.max_num_seqs"),
        ({"access": {"keys_file": "/other"}}, "access.keys_file"),
        ({"telemetry": {"log_level": "loud"}}, "telemetry.log_level"),
    ],
)
def test_other_settings_and_wrong_values_are_refused(changes: dict[str, dict[str, object]], where: str) -> None:
    with pytest.raises(ConfigError) as raised:
        with_live_settings(Settings(), changes)
    assert raised.value.where == where


async def test_changed_limits_apply_to_known_keys_and_keep_running_requests() -> None:
    limits = RequestLimits(AccessSection())
    running = await limits.reserve(KEY, 10)
    limits.apply(AccessSection(max_streams=1, requests_per_minute=1))
    with pytest.raises(APIError) as refused:
        await limits.reserve(KEY, 10)
    assert refused.value.reason == "max_streams"
    running.release()
    (await limits.reserve(KEY, 10)).release()
    await limits.count_request(KEY)
    with pytest.raises(APIError) as refused:
        await limits.count_request(KEY)
    assert refused.value.reason == "requests_per_minute"


async def test_gateway_uses_changed_settings() -> None:
    state = GatewayState(DeploymentSpec(settings=Settings()))
    state.apply(with_live_settings(Settings(), {"reasoning": {"default": "off"}, "access": {"max_in_flight": 1}}))
    assert state.settings.reasoning.default == "off"
    await state.limits.reserve(KEY, 1)
    with pytest.raises(APIError):
        await state.limits.reserve(KEY, 1)


def test_policy_from_settings_is_the_policy_of_the_application() -> None:
    from hybridserve.deployment.resolve import resolve_deployment
    from hybridserve.runtime.ray_app import deployment_options

    settings = Settings.model_validate({"scaling": {"max_replicas": 3, "ttft_s": 5}, "telemetry": {"metrics_port": 0}})
    built = deployment_options(resolve_deployment(settings))["autoscaling_config"].policy.policy_kwargs
    policy = SettingsAutoscalingPolicy(settings.model_dump(mode="json", exclude_unset=True))
    assert policy.spec.ttft_s == 5
    assert asdict(policy.spec.capacity) == built["spec"]["capacity"]
