"""Before anything is started: plan, judge, and hand over what the replica answers with."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Any

from hybridserve.compliance import compliance_document, evaluate, licences_document, verdict
from hybridserve.compliance.adapter import evidence_sha256
from hybridserve.compliance.documents import attribution_header
from hybridserve.errors import HybridServeError
from hybridserve.planning.backcheck import differences
from hybridserve.planning.calibration import record
from hybridserve.planning.deployment import profiled_settings
from hybridserve.planning.engine_args import Planned
from hybridserve.planning.plan import CachePlan
from hybridserve.serving.gate import view_of
from hybridserve.serving.middleware.handover import Handover
from hybridserve.serving.reported import ReportedCache
from hybridserve.settings import Settings

ATTRIBUTION_HEADER = "x-model-attribution"


class GateClosed(HybridServeError):
    """The checks of this profile failed, and it refuses to become ready."""

    exit_code = 1


def admit(settings: Settings, today: date) -> Handover:
    """Judge the deployment under its own profile.

    Raises:
        GateClosed: the production profile has a failed or unknown finding.
        CatalogError, ConfigError: the settings cannot be planned or judged, or a file they name cannot be read.
    """
    view = view_of(settings)
    findings = evaluate(view, today)
    profile = settings.server.profile
    if verdict(findings, profile) == "refuse":
        failed = [finding for finding in findings if finding.blocks(profile)]
        told = "; ".join(f"{finding.rule}: {finding.evidence}" for finding in failed)
        raise GateClosed(
            f"server.profile {profile}",
            f"{len(failed)} checks failed: {told}",
            "hybridserve check shows each with its remedy",
        )
    header = attribution_header(view)
    return Handover(
        settings,
        documents={
            "/compliance": compliance_document(findings, profile, today, evidence_sha256(settings.guard.evidence_file)),
            "/licenses": licences_document(view),
        },
        headers={ATTRIBUTION_HEADER: header} if header else {},
    )


def plan_document(plan: CachePlan | None, reported: ReportedCache) -> dict[str, Any]:
    """Body of ``GET /plan``: the engine's own statement, the plan's, and every difference by name."""
    engine = asdict(reported)
    if plan is None:
        return {"engine": engine, "line": reported.line(), "plan": None, "holds": None, "differences": []}
    different = differences(plan, engine)
    return {
        "engine": engine,
        "line": reported.line(),
        "plan": {
            "num_gpu_blocks": plan.num_blocks,
            "block_size": plan.layout.block_size,
            "mamba_cache_mode": plan.layout.mode,
            "kv_cache_size_tokens": plan.tokens,
            "kv_cache_max_concurrency": plan.concurrency,
            "max_model_len": plan.max_model_len,
            "bytes_per_block": plan.layout.bytes_per_block,
            "state_groups": len(plan.layout.groups) - plan.layout.attention_groups,
            "n_safe": plan.n_safe(plan.max_model_len),
            "n_steady": plan.n_steady(plan.max_model_len),
        },
        "holds": not different,
        "differences": [str(difference) for difference in different],
    }


def remember_pool(planned: Planned, reported: ReportedCache) -> None:
    """Write the pool that this start profiled into the calibration file, so that the next plan is exact.

    The engine does not report its bytes, but its blocks: blocks times bytes per block give the same plan.
    """
    file = planned.settings.accelerator.calibration
    plan = planned.advice.plan
    if file is None or plan.deployment.kv_cache_memory_bytes is not None:
        return
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    content = record(
        text,
        model=planned.model.id,
        accelerator=plan.deployment.accelerator.id,
        settings=profiled_settings(plan.deployment),
        kv_bytes=reported.num_gpu_blocks * plan.layout.bytes_per_block,
        read=date.today(),
        where=str(file),
    )
    file.write_text(content, encoding="utf-8")
