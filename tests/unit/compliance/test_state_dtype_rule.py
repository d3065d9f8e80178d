"""Rule `engine.ssm-dtype` of models from the catalog: only where the setting decides the type of the state."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from hybridserve.compliance import evaluate
from hybridserve.deployment.compliance_view import build_view
from hybridserve.settings import Settings

DAY = date(2026, 11, 28)
ROUNDED = {"mamba_ssm_cache_dtype": "float16", "enable_mamba_cache_stochastic_rounding": True}


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
    found = next(each for each in evaluate(view, DAY) if each.rule == "engine.ssm-dtype")
    assert (found.status, found.applies) == (status, applies)


@pytest.mark.parametrize(
    ("model", "gpu", "engine", "status", "offered"),
    [
        ("nemotron-3-nano-4b", "l40s", {"mamba_ssm_cache_dtype": "bfloat16"}, "FAIL", False),
        ("nemotron-3-nano-4b", "b200", {"mamba_ssm_cache_dtype": "bfloat16"}, "FAIL", True),
        ("nemotron-3-nano-4b", "rtx-pro-6000", {"mamba_ssm_cache_dtype": "bfloat16"}, "FAIL", False),
        ("nemotron-3-nano-4b", "l40s", {"extra_args": {"mamba_backend": "flashinfer"}} | ROUNDED, "PASS", False),
        ("granite-4.0-h-tiny", "l40s", {}, "PASS", False),
        # The layers of a gated delta net do not round.
        ("qwen3.5-27b", "b200", ROUNDED, "FAIL", False),
    ],
)
def test_the_remedy_is_one_that_the_gpu_has(
    model: str, gpu: str, engine: dict[str, Any], status: str, offered: bool
) -> None:
    settings = Settings.model_validate({"model": {"id": model}, "accelerator": {"name": gpu}, "engine": engine})
    found = {each.rule: each for each in evaluate(build_view(settings, "production"), DAY)}
    rule = found["engine.ssm-dtype"]
    assert rule.status == status
    assert ("float16" in rule.remedy) is offered
    assert rule.remedy.endswith("then plan again: the capacity changes")
    if gpu == "rtx-pro-6000":
        rounded = settings.model_copy(update={"engine": settings.engine.model_copy(update=ROUNDED)})
        view = build_view(rounded, "production")
        assert any(each.rule == "engine.stochastic-rounding" and each.status == "FAIL" for each in evaluate(view, DAY))
