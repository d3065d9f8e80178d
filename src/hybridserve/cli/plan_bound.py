"""`hybridserve plan --bound`: compare the throughput bounds of models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import typer

from hybridserve.cli.tables import print_table
from hybridserve.errors import ConfigError, PlanRefused
from hybridserve.planning.resolve import PlanOptions, ResolvedPlan, plan_settings
from hybridserve.planning.roofline import bound, compare, device_peaks
from hybridserve.planning.serialize import served_model
from hybridserve.settings import Settings


def show_bound(
    settings: Sequence[Sequence[Settings]], options: PlanOptions, batches: str | None, as_json: bool
) -> None:
    """Print a row for each model on each GPU, with its ratio to the last model.

    Args:
        settings: one sequence for each GPU, with every model.
        batches: sequences of each model, as ``8,1``; None is what fits at the mean length, up to a max_num_seqs that is
            set.

    Raises:
        PlanRefused: a model does not fit a GPU.
        ConfigError: the number of batches is not the number of models.
    """
    given = _batches(batches, len(settings[0]))
    rows = [row for group in settings for row in _rows(group, options, given)]
    if as_json:
        typer.echo(json.dumps({"rows": rows}, indent=2))
        return
    lengths = options.workload
    typer.secho(f"Upper bounds for {lengths.prompt_p50:,} tokens in and {lengths.output_p50:,} out\n", bold=True)
    head = ["GPU", "model", "batch", "tokens/s", "ms/token", "prefill", "limit", "ratio", "equal batch", "capacity"]
    print_table([head, *map(_cells, rows)], left=(0, 1, 6))
    typer.echo()
    if any(row["batch_estimated"] for row in rows):
        typer.echo(
            "batch: what fits in the middle of the estimated cache pool; a plan of one model and GPU has both ends"
        )
    typer.echo(
        f"ratio to {rows[-1]['model']} = ratio at an equal batch x effect of the larger batch (capacity)"
        "\nUpper bounds from a roofline model, not a forecast: kernels, scheduling and network are not included."
    )


def _rows(settings: Sequence[Settings], options: PlanOptions, given: Sequence[int] | None) -> list[dict[str, Any]]:
    """Bounds of every model on one GPU."""
    plans = [plan_settings(one_model, options) for one_model in settings]
    prompt, output = options.workload.prompt_p50, options.workload.output_p50
    counts = given or [_fitting(plan, prompt + output // 2) for plan in plans]
    last = plans[-1].advice.plan
    rows = []
    for plan, batch in zip(plans, counts, strict=True):
        deployment, served = plan.advice.plan.deployment, served_model(plan.advice.plan)
        device = device_peaks(deployment.accelerator, deployment.precision.compute)
        row: dict[str, Any] = {
            "model": plan.model.id,
            "accelerator": deployment.accelerator.id,
            "batch_estimated": given is None
            and plan.advice.plan.budget.confidence == "estimate"
            and batch != plan.asked.cache.max_num_seqs,
            **asdict(bound(served, device, batch, prompt, output)),
        }
        if plan is not plans[-1]:
            ratio = compare(served, served_model(last), device, (batch, counts[-1]), prompt, output)
            row["ratio"] = {"total": ratio.total, "equal_batch": ratio.equal_batch, "capacity": ratio.capacity}
        rows.append(row)
    return rows


def _fitting(plan: ResolvedPlan, length: int) -> int:
    """Sequences of the mean length that run at once: those that fit into the pool, up to a max_num_seqs that is set."""
    cache = plan.advice.plan.cache
    batch = cache.n_steady(length) if cache else 0
    batch = min(batch, plan.asked.cache.max_num_seqs or batch)
    if not batch:
        device = plan.advice.plan.deployment.accelerator.id
        raise PlanRefused(
            "--prompt",
            f"no sequence of {length:,} tokens of {plan.model.id} fits on {device}",
            "plan for shorter requests",
        )
    return batch


def _batches(text: str | None, models: int) -> list[int] | None:
    if text is None:
        return None
    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        batches = []
    if len(batches) != models or min(batches) < 1:
        raise ConfigError(
            "--batches", f"expected {models} numbers of sequences, got {text!r}", "give one for each model, as 8,1"
        )
    return batches


def _cells(row: dict[str, Any]) -> list[str]:
    ratio = row.get("ratio")
    return [
        row["accelerator"],
        row["model"],
        f"{row['batch']:,}",
        f"{row['output_tokens_per_s']:,.0f}",
        f"{row['inter_token_s'] * 1e3:.1f}",
        f"{row['prefill_share']:.0%}",
        f"prefill: {row['prefill_limit']}" if row["prefill_share"] > 0.5 else f"decode: {row['decode_limit']}",
        *(f"{ratio[name]:.2f}" if ratio else "-" for name in ("total", "equal_batch", "capacity")),
    ]
