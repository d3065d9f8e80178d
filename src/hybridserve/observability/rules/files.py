"""Rule files for Prometheus, made from the settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from hybridserve.observability.rules.alerts import KUBERNETES, STATE, Alert, burn_rate_alerts
from hybridserve.observability.rules.slo import BY, recordings
from hybridserve.settings.telemetry import TelemetrySection

_HEAD = "# Written by `hybridserve alerts export`; change the settings or the code, not this file.\n"
_REPLICA = f"{BY}, replica"

# For dashboards, so that a fleet is not summed again at every refresh.
RECORDINGS = {
    "hybridserve:state_slots:utilization": "hybridserve_state_slots_used / hybridserve_state_slots",
    "hybridserve:kv_cache_blocks:utilization": (
        f"hybridserve_kv_cache_blocks_used / on ({_REPLICA}) group_left hybridserve_kv_cache_blocks"
    ),
    "hybridserve:prefix_cache:hit_ratio_rate5m": (
        f"sum by ({_REPLICA}) (rate(vllm:prefix_cache_hits_total[5m])) "
        f"/ (sum by ({_REPLICA}) (rate(vllm:prefix_cache_queries_total[5m])) > 0)"
    ),
    "hybridserve:requests_admitted:rate5m": f"sum by ({BY}) (rate(hybridserve_requests_admitted_total[5m]))",
    "hybridserve:generation_tokens:rate5m": f"sum by ({BY}) (rate(vllm:generation_tokens_total[5m]))",
    "hybridserve:prompt_tokens:rate5m": f"sum by ({BY}) (rate(vllm:prompt_tokens_total[5m]))",
    "hybridserve:ttft_seconds:p95_rate5m": (
        f"histogram_quantile(0.95, sum by ({BY}, le) (rate(vllm:time_to_first_token_seconds_bucket[5m])))"
    ),
    "hybridserve:inter_token_seconds:p95_rate5m": (
        f"histogram_quantile(0.95, sum by ({BY}, le) (rate(vllm:request_time_per_output_token_seconds_bucket[5m])))"
    ),
}


def rule_groups(section: TelemetrySection) -> dict[str, list[dict[str, Any]]]:
    """File name to its groups, in the form of Prometheus and of the PrometheusRule resource."""
    return {
        "recording.yaml": [
            {
                "name": "hybridserve-recordings",
                "rules": [{"record": name, "expr": expr} for name, expr in RECORDINGS.items()],
            },
            {"name": "hybridserve-slo", "rules": recordings(section)},
        ],
        "alerts.yaml": [
            {"name": "hybridserve-alerts", "rules": _alert_rules((*burn_rate_alerts(section), *STATE))},
            {"name": "hybridserve-kubernetes", "rules": _alert_rules(KUBERNETES)},
        ],
    }


def rule_files(section: TelemetrySection) -> dict[str, str]:
    """File name to its text."""
    return {
        name: _HEAD + yaml.safe_dump({"groups": groups}, sort_keys=False, width=120)
        for name, groups in rule_groups(section).items()
    }


def _alert_rules(alerts: Iterable[Alert]) -> list[dict[str, Any]]:
    return [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.hold,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "runbook_url": alert.runbook_url,
            },
        }
        for alert in alerts
    ]
