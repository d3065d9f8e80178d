"""Documents of a numeric check: its result for `--json`, and the record that `hybridserve check` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from hybridserve.compliance.evidence import VERIFY_SCHEMA, seal_record, subject
from hybridserve.settings import Settings
from hybridserve.verify.statistics import Result, as_dict, overall


def result_document(
    results: Sequence[Result], about: Mapping[str, Any], alpha: float, reference_sha256: str | None
) -> dict[str, Any]:
    """The result as plain data.

    Args:
        about: the engine that was checked: `model`, `vllm`, `tolerance`.
        alpha: false-alarm rate of the whole run.
        reference_sha256: of the reference; None where the engine was compared with itself only.
    """
    return {
        "verdict": overall(results),
        "model": about.get("model"),
        "vllm": about.get("vllm"),
        "tolerance": about.get("tolerance"),
        "alpha": alpha,
        "reference_sha256": reference_sha256,
        "conditions": [as_dict(result) for result in results],
    }


def evidence_record(
    document: Mapping[str, Any], settings: Settings, *, url: str, started: datetime, finished: datetime
) -> dict[str, Any]:
    """The record of one run, bound to model and settings, with a digest over all of it. It has no text."""
    return seal_record(
        {
            "schema": VERIFY_SCHEMA,
            "url": url,
            "started": started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
            "about": subject(settings),
            **document,
        }
    )
