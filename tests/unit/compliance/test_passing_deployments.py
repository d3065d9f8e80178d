"""What is right passes: the four shapes that later tests break."""

from __future__ import annotations

import pytest

from hybridserve.compliance import compliance_status
from support.compliance_cases import Case


@pytest.mark.parametrize("name", ["case", "baked", "llama_guard", "gemma_guard"])
def test_ready(name: str, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(name)
    findings = case.findings()
    wrong = [f"{one.rule} {one.subject}: {one.evidence}" for one in findings if one.status != "PASS"]
    assert wrong == []
    assert compliance_status(findings, "production") == "ready"
