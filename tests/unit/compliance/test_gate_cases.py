"""The production gate on whole deployments: a table of changes to the example, with the right verdict."""

from __future__ import annotations

import copy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridserve.compliance import compliance_status, evaluate
from hybridserve.deployment.compliance_view import build_view
from hybridserve.errors import ConfigError
from hybridserve.settings import load
from support.compliance_cases import EXAMPLE

TODAY = date(2026, 11, 26)
CASES: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("gate_cases.yaml").read_text())


@pytest.mark.parametrize("name", CASES)
def test_gate_judges_deployment(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    for file, text in case.get("files", {}).items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(changed(yaml.safe_load(EXAMPLE.read_text()), case.get("set", {}))))
    if "error" in case:
        with pytest.raises(ConfigError) as raised:
            build_view(load(config, ()).settings, "production")
        assert raised.value.where == case["error"]
        return
    findings = evaluate(build_view(load(config, ()).settings, "production"), TODAY)
    broken = {finding.rule for finding in findings if finding.blocks("production")}
    assert broken == set(case.get("rules", ()))
    if not broken:
        assert [found for found in findings if found.open] == []
        assert compliance_status(findings, "production") == "ready"


def changed(tree: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The settings with values by dotted path; None removes a setting."""
    tree = copy.deepcopy(tree)
    for path, value in values.items():
        node = tree
        *parents, last = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
    return tree
