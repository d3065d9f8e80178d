"""`hybridserve plan --bound`: the throughput bound of models side by side, and what part of a ratio is capacity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer

from hybridserve.errors import ConfigError, PlanRefused
from hybridserve.planning.resolve import PlanOptions, ResolvedPlan, plan_settings
from hybridserve.planning.roofline import bound, compare, device_peaks
from hybridserve.planning.serialize import served
from hybridserve.settings import Settings


def show_bound(settings: Sequence[Sequence[Settings]], wishes: PlanOptions, batches: str | None, as_json: bool) -> None:
    """Print a row for each model on each GPU, and its ratio to the last model named.

    Args:
        settings: one sequence for each GPU, with every model.
        batches: sequences of each model, as ``8,1``; None takes what fits at the mean length.

    Raises:
        PlanRefused: a model does not fit a GPU.
        ConfigError: the number of batches is not the number of models.
    """
    given = _batches(batches, len(settings[0]))
    rows = [row for group in settings for row in _rows(group, wishes, given)]
    if as_json:
        typer.echo(json.dumps({"rows": rows}, indent=2))
        return
    lengths = wishes.workload
    typer.secho(f"Upper bounds for {lengths.prompt_p50:,} tokens in and {lengths.output_p50:,} out\n", bold=True)
    head = ["GPU", "model", "batch", "tokens/s", "ms/token", "prefill", "limit", "ratio", "equal batch", "capacity"]
    body = [head, *(_words(row) for row in rows)]
    widths = [max(len(line[index]) for line in body) for index in range(len(head))]
    for number, line in enumerate(body):
        cells = [
            word.ljust(width) if index in (0, 1, 6) else word.rjust(width)
            for index, (word, width) in enumerate(zip(line, widths, strict=True))
        ]
        typer.secho("  ".join(cells).rstrip(), bold=number == 0)
    typer.echo(
        f"\nratio = equal batch x capacity, against {rows[-1]['model']}: at its batch, and by what more sequences add."
        "\nA roofline, not a forecast: no kernel, scheduler or network is in it."
    )


def _rows(settings: Sequence[Settings], wishes: PlanOptions, given: Sequence[int] | None) -> list[dict[str, Any]]:
    """Bounds of every model on one GPU."""
    plans = [plan_settings(one, wishes) for one in settings]
    prompt, output = wishes.workload.prompt_p50, wishes.workload.output_p50
    counts = given or [_fitting(plan, prompt + output // 2) for plan in plans]
    last = plans[-1].advice.plan
    rows = []
    for plan, batch in zip(plans, counts, strict=True):
        one = plan.advice.plan
        device = device_peaks(one.deployment.accelerator, one.deployment.quantization)
        limit = bound(served(one), device, batch, prompt, output)
        row: dict[str, Any] = {
            "model": plan.model.id,
            "accelerator": one.deployment.accelerator.id,
            "batch": batch,
            "output_tokens_per_s": limit.output_tokens_per_s,
            "inter_token_s": limit.inter_token_s,
            "first_token_s": limit.first_token_s,
            "prefill_share": limit.prefill_share,
            "decode_limit": limit.decode_limit,
        }
        if plan is not plans[-1]:
            ratio = compare(served(one), served(last), device, (batch, counts[-1]), prompt, output)
            row["ratio"] = {"total": ratio.total, "equal_batch": ratio.equal_batch, "capacity": ratio.capacity}
        rows.append(row)
    return rows


def _fitting(plan: ResolvedPlan, length: int) -> int:
    """Sequences of the mean length that fit the pool: the most a saturated engine could hold."""
    cache = plan.advice.plan.cache
    batch = cache.n_steady(length) if cache else 0
    if not batch:
        device = plan.advice.plan.deployment.accelerator.id
        raise PlanRefused(
            "--prompt",
            f"not one sequence of {length:,} tokens of {plan.model.id} fits {device}",
            "take shorter requests",
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
        raise ConfigError("--batches", f"{text!r} is not {models} numbers of sequences", "one for each model, as 8,1")
    return batches


def _words(row: dict[str, Any]) -> list[str]:
    ratio = row.get("ratio")
    return [
        row["accelerator"],
        row["model"],
        f"{row['batch']:,}",
        f"{row['output_tokens_per_s']:,.0f}",
        f"{row['inter_token_s'] * 1e3:.1f}",
        f"{row['prefill_share']:.0%}",
        row["decode_limit"],
        *(f"{ratio[name]:.2f}" if ratio else "-" for name in ("total", "equal_batch", "capacity")),
    ]
