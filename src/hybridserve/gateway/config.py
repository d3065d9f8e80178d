"""Everything the middleware is built from, as one JSON value: how `vllm serve --middleware` gets it, which can pass
no arguments."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hybridserve.errors import ConfigError
from hybridserve.settings import Settings
from hybridserve.settings.load import SETTINGS_JSON


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Settings, and what other rooms found out from them.

    Args:
        documents: JSON values served as they are at ``/about``, ``/licenses``, ``/compliance``, ``/plan``.
        headers: put on every answer, as a license may ask.
    """

    settings: Settings
    documents: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """For the environment variable, or a file it names."""
        return json.dumps(
            {
                "settings": self.settings.model_dump(mode="json"),
                "documents": dict(self.documents),
                "headers": dict(self.headers),
            }
        )


def from_environ(environ: Mapping[str, str] | None = None) -> GatewayConfig:
    """What ``HYBRIDSERVE_SETTINGS_JSON`` holds, or the file that it names: a handover, or plain settings.

    Raises:
        ConfigError: it is not set, cannot be read, or is not valid. Without settings no door: nothing is guessed.
    """
    text = (os.environ if environ is None else environ).get(SETTINGS_JSON, "").strip()
    if not text:
        raise ConfigError(SETTINGS_JSON, "is not set", "set it to the settings as JSON, or to a file that holds them")
    if not text.startswith("{"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(SETTINGS_JSON, f"{text} cannot be read: {error}", "name a readable file") from None
    try:
        tree = json.loads(text)
        whole = tree if "settings" in tree else {"settings": tree}
        settings = Settings.model_validate(whole["settings"])
    except (ValueError, TypeError, ValidationError) as error:
        detail = " ".join(str(error).split())[:300]
        raise ConfigError(
            SETTINGS_JSON, f"does not hold settings: {detail}", "write it with GatewayConfig.to_json"
        ) from None
    return GatewayConfig(settings, whole.get("documents", {}), whole.get("headers", {}))
