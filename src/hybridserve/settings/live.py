"""Settings that a running replica takes over without a restart: limits, reasoning defaults and the log level.

In mode rayservice the Helm chart delivers them as Ray Serve's `user_config`, which Serve passes to each replica's
`reconfigure`. Every other setting is an application argument there, and a change of it replaces the replicas.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hybridserve.errors import ConfigError
from hybridserve.settings.faults import config_error
from hybridserve.settings.root import Settings

LIVE_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "access": (
        "requests_per_minute",
        "tokens_per_minute",
        "max_streams",
        "max_in_flight",
        "max_body_bytes",
        "max_prompt_tokens",
        "max_output_tokens",
        "long_output",
        "max_choices",
    ),
    "reasoning": ("switch", "default", "efforts"),
    "telemetry": ("log_level",),
}
"""Section to the settings in it that change in place."""


def with_live_settings(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with every live setting taken from `changes`; a live setting left out there has its default.

    Args:
        settings: what the replica was started with.
        changes: section to settings, such as ``{"telemetry": {"log_level": "debug"}}``.

    Raises:
        ConfigError: `changes` names a setting that needs a restart, or holds a value that is not valid.
    """
    tree = settings.model_dump(mode="json", exclude_unset=True)
    for section, names in LIVE_SETTINGS.items():
        kept = {name: value for name, value in tree.get(section, {}).items() if name not in names}
        tree[section] = kept | dict(changes.get(section) or {})
    for section, values in changes.items():
        for name in values or {}:
            if name not in LIVE_SETTINGS.get(section, ()):
                raise ConfigError(f"{section}.{name}", "does not change in a running replica", "restart the replica")
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise config_error(error, {}) from None
