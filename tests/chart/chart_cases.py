"""The values files that every check of the rendered chart goes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_helm import CHART

from hybridserve.cli import main

PROFILES = sorted((CHART / "profiles").glob("*.yaml"))
CI = sorted((CHART / "ci").glob("*-values.yaml"))
CASES: dict[str, Path | None] = {"defaults": None} | {
    file.stem.removesuffix("-values"): file for file in [*PROFILES, *CI]
}

# Commits that nobody has read are not in the catalogue, and the chart downloads at a commit only: as the user would.
SOME_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def values_of(case: str) -> dict[str, Any]:
    """The values of one case, complete enough to render."""
    file = CASES[case]
    values: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8")) if file else {}
    if values.get("weights", {}).get("download"):
        values["settings"]["model"].setdefault("revision", SOME_COMMIT)
    return values


def check_exit_code(text: str, folder: Path) -> int:
    """Exit code of `hybridserve check` on settings, without the license bundle, which only the Job mounts."""
    tree = yaml.safe_load(text)
    tree.get("license", {}).pop("bundle", None)
    if "keys_file" in tree.get("access", {}):
        tree["access"]["keys_file"] = str(folder / "keys")
        (folder / "keys").touch()
    file = folder / "hybridserve.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(SystemExit) as ended:
        main(["check", "-c", str(file)])
    return int(ended.value.code or 0)
