"""The compliance gate: the production profile refuses, the demo profile warns."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from hybridserve.deployment.resolve import resolve_deployment
from hybridserve.runtime.compliance_gate import ComplianceError, enforce_compliance
from hybridserve.settings import load

HYBRIDSERVE = Path(sys.executable).parent / "hybridserve"
TODAY = date(2026, 11, 23)


def test_demo_profile_warns_and_spec_has_documents() -> None:
    spec = resolve_deployment(load(environ={}).settings, TODAY)
    enforce_compliance(spec)
    compliance = spec.documents["/compliance"]
    assert compliance["verdict"] == "warn"
    assert compliance["counts"]["FAIL"] > 0
    assert spec.documents["/licenses"]["models"][0]["id"] == "demo"


def test_production_profile_refuses_and_names_failed_rules() -> None:
    spec = resolve_deployment(load(assignments=["server.profile=production"], environ={}).settings, TODAY)
    with pytest.raises(ComplianceError) as caught:
        enforce_compliance(spec)
    assert "guard." in caught.value.what
    assert "hybridserve check" in caught.value.fix


def test_serve_exits_with_1_before_anything_is_started() -> None:
    words = [str(HYBRIDSERVE), "serve", "--port", "28999", "--set", "server.profile=production"]
    run = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 1, run.stderr
    assert "starting Ray" not in run.stderr
    assert "Traceback" not in run.stderr
