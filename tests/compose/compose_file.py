"""docker-compose.yml as data, with its variables at their defaults, without a Docker engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
ENV_EXAMPLE = ROOT / ".env.example"
# Profiles, and the services that compose starts with them; docker_stack.py asks compose itself.
STARTED = {
    "": "",
    "demo": "demo",
    "gpu": "gpu",
    "gpu guard": "gpu guard",
    "monitoring": "prometheus grafana",
    "gpu monitoring": "gpu prometheus grafana",
    "demo monitoring alerting": "demo prometheus grafana alertmanager",
    "loadtest": "loadtest",
    "gpu loadtest": "gpu loadtest",
}
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z][A-Z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def interpolate(text: str, environ: dict[str, str] | None = None) -> str:
    """`${NAME:-default}` replaced as compose does it; a variable without a default and a value is an error."""

    def value(match: re.Match[str]) -> str:
        result = (environ or {}).get(match["name"]) or match["default"]
        assert result is not None, f"{match['name']} has no default"
        return result

    return _VARIABLE.sub(value, text)


def compose(environ: dict[str, str] | None = None) -> dict[str, Any]:
    """The file's content."""
    return dict(yaml.safe_load(interpolate(FILE.read_text(encoding="utf-8"), environ)))


def services() -> dict[str, dict[str, Any]]:
    return dict(compose()["services"])


def started(*profiles: str) -> set[str]:
    """What `docker compose --profile ... up` starts: the services of these profiles, and those without a profile.

    Raises:
        AssertionError: one of them needs a service of another profile.
    """
    every = services()
    found = {name for name, service in every.items() if set(profiles) & set(service.get("profiles", profiles))}
    for name in found:
        for needed, how in every[name].get("depends_on", {}).items():
            assert needed in found or how.get("required") is False, f"{name} needs {needed}"
    return found


def variables() -> dict[str, str | None]:
    """Every variable of the file with its default."""
    text = FILE.read_text(encoding="utf-8")
    return {match["name"]: match["default"] for match in _VARIABLE.finditer(text)}


def settings_file(service: dict[str, Any]) -> Path:
    """The settings that a service is started with, on the host."""
    command = service["command"]
    inside = command[command.index("-c") + 1]
    (source,) = [config["source"] for config in service["configs"] if config["target"] == inside]
    return ROOT / str(compose()["configs"][source]["file"])
