"""The gate before a start: production refuses, the demo warns, and what was judged is handed over."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from hybridserve.runtime.compliance_gate import ComplianceError, enforce_compliance
from hybridserve.settings import load

HYBRIDSERVE = Path(sys.executable).parent / "hybridserve"
TODAY = date(2026, 11, 23)


def test_the_demo_profile_warns_and_hands_the_findings_over() -> None:
    handover = enforce_compliance(load(environ={}).settings, TODAY)
    compliance = handover.documents["/compliance"]
    assert compliance["verdict"] == "warn"
    assert compliance["counts"]["FAIL"] > 0
    assert handover.documents["/licenses"]["models"][0]["id"] == "demo"


def test_the_production_profile_refuses_with_the_rules_that_failed() -> None:
    with pytest.raises(ComplianceError) as caught:
        enforce_compliance(load(assignments=["server.profile=production"], environ={}).settings, TODAY)
    assert "guard." in caught.value.what
    assert "hybridserve check" in caught.value.fix


def test_serve_ends_with_1_before_anything_is_started() -> None:
    words = [str(HYBRIDSERVE), "serve", "--port", "28999", "--set", "server.profile=production"]
    run = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 1, run.stderr
    assert "starting Ray" not in run.stderr
    assert "Traceback" not in run.stderr
