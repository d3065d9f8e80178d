"""Rule `engine.ssm-dtype` of models from the catalog: only where the setting decides the type of the state."""

from __future__ import annotations

from datetime import date

import pytest

from hybridserve.compliance import evaluate
from hybridserve.deployment.compliance_view import build_view
from hybridserve.settings import Settings


@pytest.mark.parametrize(
    ("model", "status", "applies"),
    [
        ("nemotron-3-nano-4b", "FAIL", True),
        ("qwen3.5-27b", "FAIL", True),
        ("lfm2-8b-a1b", "PASS", False),  # short convolutions have the type of mamba_cache_dtype
        ("kimi-linear-48b-a3b", "PASS", False),  # always float32
    ],
)
@pytest.mark.parametrize("planned", [True, False])
def test_the_rule_applies_where_the_setting_has_an_effect(
    model: str, status: str, applies: bool, planned: bool
) -> None:
    settings = Settings.model_validate(
        {
            "model": {"id": model},
            "accelerator": {"name": "h200"},
            "engine": {
                "mamba_ssm_cache_dtype": "bfloat16",
                "tensor_parallel_size": 1,
                # No memory has states for so many sequences: refused, and the view is built without a plan.
                "max_num_seqs": 16 if planned else 10**9,
            },
        }
    )
    view = build_view(settings, "production")
    assert (view.engine.refusal is None) is planned
    found = next(each for each in evaluate(view, date(2026, 11, 28)) if each.rule == "engine.ssm-dtype")
    assert (found.status, found.applies) == (status, applies)
